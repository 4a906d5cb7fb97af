# SPDX-License-Identifier: Apache-2.0
"""The SegFormer head (arXiv 2105.15203) on four maps of equal width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros.model.config import HeadConfig
from mmsam_ros.model.precision import at_least_float32


class ConvUnit(nn.Module):
    """1x1 convolution without bias, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class SegFormerHead(nn.Module):
    """Maps at strides 4, 8, 16, 32 (B, C, …) -> logits (B, classes, h/4, w/4)."""

    def __init__(self, in_channels: int, num_classes: int, config: HeadConfig) -> None:
        super().__init__()
        self.levels = nn.ModuleList(ConvUnit(in_channels, config.channels) for _ in range(4))
        self.fuse = ConvUnit(4 * config.channels, config.channels)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(config.channels, num_classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        size = maps[0].shape[-2:]
        resized = [
            F.interpolate(unit(x), size=size, mode="bilinear", align_corners=False)
            for unit, x in zip(self.levels, maps, strict=True)
        ]
        fused = self.dropout(self.fuse(torch.cat(resized, dim=1)))
        with torch.autocast(fused.device.type, enabled=False):
            # in half precision the best classes would tie
            return self.classifier(at_least_float32(fused))
