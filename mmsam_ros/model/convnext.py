# SPDX-License-Identifier: Apache-2.0
"""One ConvNeXt trunk (arXiv 2201.03545) from timm, with a norm on each emitted level."""

from __future__ import annotations

from timm.layers import LayerNorm2d
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

from mmsam_ros.model.config import TrunkConfig


class ConvNeXtTrunk(nn.Module):
    """(B, 3, h, w) -> four maps (B, widths[i], h/2^(i+2), w/2^(i+2)).

    The norm applies to what is emitted; the next stage gets the un-normalised map.
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        net = ConvNeXt(
            depths=config.depths,
            dims=config.widths,
            num_classes=0,
            ls_init_value=1.0,
            drop_path_rate=config.drop_path_rate,
        )
        self.stem = net.stem
        self.stages = net.stages
        self.norms = nn.ModuleList(LayerNorm2d(width, eps=1e-6) for width in config.widths)

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = []
        x = self.stem(image)
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)
            maps.append(norm(x))
        return maps
