# SPDX-License-Identifier: Apache-2.0
"""ConvNeXt (arXiv 2201.03545) without its head; parameters are named as timm's."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from mmsam_ros.model.common import DropPath, LayerNorm2d
from mmsam_ros.model.config import TrunkConfig


class ConvNeXtBlock(nn.Module):
    """x + gamma * MLP(LN(depthwise 7x7(x))) on a map (B, d, h, w)."""

    def __init__(self, dim: int, drop_path_rate: float) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(dim, 4 * dim), act=nn.GELU(), fc2=nn.Linear(4 * dim, dim))
        )
        self.gamma: nn.Parameter | None = nn.Parameter(torch.ones(dim))  # `prepare` merges it
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        y_Bhwd = self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
        if self.gamma is not None:
            y_Bhwd = y_Bhwd * self.gamma
        return self.drop_path(y_Bhwd.permute(0, 3, 1, 2)) + x


class ConvNeXtTrunk(nn.Module):
    """Image (B, 3, h, w) -> maps (B, widths[i], h/2^(i+2), w/2^(i+2)).

    Each map has a norm of its own; the next stage gets the un-normalised one.
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        depths, widths = config.depths, config.widths
        rates = torch.linspace(0, config.drop_path_rate, sum(depths), device="cpu").split(depths)
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 4, stride=4), LayerNorm2d(widths[0], eps=1e-6)
        )
        self.stages = nn.ModuleList()
        for index, (width, stage_rates) in enumerate(zip(widths, rates, strict=True)):
            blocks = nn.Sequential(*(ConvNeXtBlock(width, rate) for rate in stage_rates.tolist()))
            before = _downsample(widths[index - 1], width) if index else nn.Identity()
            self.stages.append(nn.Sequential(OrderedDict(downsample=before, blocks=blocks)))
        self.norms = nn.ModuleList(LayerNorm2d(width, eps=1e-6) for width in widths)

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = []
        x = self.stem(image)
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)
            maps.append(norm(x))
        return maps


def _downsample(dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(LayerNorm2d(dim, eps=1e-6), nn.Conv2d(dim, out_dim, 2, stride=2))
