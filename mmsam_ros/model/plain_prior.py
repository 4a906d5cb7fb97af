# SPDX-License-Identifier: Apache-2.0
"""ViT-Adapter's spatial prior (arXiv 2205.08534, 3.3): plain convolutions on RGB, an ablation."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import nn

from mmsam_ros.model.config import ModelConfig
from mmsam_ros.model.prior import Inputs, Present, PriorMaps


class ConvUnit3x3(nn.Sequential):
    """3x3 convolution without bias, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )


class PlainPrior(nn.Module):
    """RGB (B, 3, h, w) -> four maps (B, C, h/2^(i+2), w/2^(i+2)).

    The first width is 64, as there, beside the published trunk, and in proportion beside others.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.trunk.widths[0] * 2 // 3
        widths = (width, 2 * width, 4 * width, 4 * width)
        self.stem = nn.Sequential(
            ConvUnit3x3(3, width, 2), ConvUnit3x3(width, width, 1), ConvUnit3x3(width, width, 1)
        )
        self.stages = nn.ModuleList(ConvUnit3x3(a, b, 2) for a, b in pairwise(widths))
        self.projections = nn.ModuleList(
            nn.Conv2d(width, config.encoder.embed_dim, 1) for width in widths
        )

    def forward(self, inputs: Inputs, present: Present) -> PriorMaps:
        """As `SpatialPrior.forward`; nothing is ever absent."""
        maps = [F.max_pool2d(self.stem(inputs["rgb"]), 3, stride=2, padding=1)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return PriorMaps([project(m) for project, m in zip(self.projections, maps, strict=True)])
