# SPDX-License-Identifier: Apache-2.0
"""The SegFormer head: maps of four strides to logits."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros.model.common import at_least_float32
from mmsam_ros.model.config import NUM_LEVELS, HeadConfig


class SegFormerHead(nn.Module):
    """arXiv 2105.15203: maps at strides 4, 8, 16, 32 (B, C, …) -> logits (B, classes, h/4, w/4)."""

    def __init__(self, in_channels: int, num_classes: int, config: HeadConfig) -> None:
        super().__init__()
        width = config.channels
        self.levels = nn.ModuleList(_conv_norm_relu(in_channels, width) for _ in range(NUM_LEVELS))
        self.fuse = _conv_norm_relu(NUM_LEVELS * width, width)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        size = maps[0].shape[-2:]
        resized = [
            F.interpolate(level(x), size=size, mode="bilinear", align_corners=False)
            for level, x in zip(self.levels, maps, strict=True)
        ]
        fused = self.dropout(self.fuse(torch.cat(resized, dim=1)))
        with torch.autocast(fused.device.type, enabled=False):
            # in half precision the best classes would tie
            return self.classifier(at_least_float32(fused))


def _conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(out_channels), relu=nn.ReLU()))
