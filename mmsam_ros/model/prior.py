# SPDX-License-Identifier: Apache-2.0
"""The spatial prior: a ConvNeXt trunk per modality, Road-Fusion per level, projection to tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmsam_ros.model.config import NUM_LEVELS, ModelConfig
from mmsam_ros.model.convnext import ConvNeXtTrunk
from mmsam_ros.model.fusion import RoadFusion


class SpatialPrior(nn.Module):
    """RGB and auxiliary image -> four fused maps (B, C, h/2^(i+2), w/2^(i+2)).

    An absent auxiliary is taken for the empty raster: its features come from `config.empty`
    spread over the image, are computed once per size and kept while the weights stay.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.auxiliary = config.auxiliary
        self.empty = config.empty
        height, width = config.image_size
        areas = [(height >> (i + 2)) * (width >> (i + 2)) for i in range(NUM_LEVELS)]
        widths = config.trunk.widths
        self.trunks = nn.ModuleDict({m: ConvNeXtTrunk(config.trunk) for m in config.modalities})
        self.fusion = nn.ModuleDict(
            {
                self.auxiliary: nn.ModuleList(
                    RoadFusion(d, area, config.fusion)
                    for d, area in zip(widths, areas, strict=True)
                )
            }
        )
        self.projections = nn.ModuleList(
            nn.Conv2d(2 * d, config.encoder.embed_dim, 1) for d in widths
        )
        self._empty_features: dict[tuple[Any, ...], list[Tensor]] = {}

    @property
    def levels(self) -> nn.ModuleList:
        """Road-Fusion of each level."""
        return cast(nn.ModuleList, self.fusion[self.auxiliary])

    def forward(self, inputs: Mapping[str, Tensor], present: Tensor | None) -> list[Tensor]:
        """`present` (B,) bool of the auxiliary; None: present everywhere if it is in `inputs`."""
        rgb = inputs["rgb"]
        rgb_maps = self.trunks["rgb"](rgb)
        aux_maps = self._auxiliary_features(inputs.get(self.auxiliary), present, rgb)
        fused = [fusion(r, a) for fusion, r, a in zip(self.levels, rgb_maps, aux_maps, strict=True)]
        return [project(f) for project, f in zip(self.projections, fused, strict=True)]

    def _auxiliary_features(
        self, aux: Tensor | None, present: Tensor | None, rgb: Tensor
    ) -> list[Tensor]:
        trunk = self.trunks[self.auxiliary]
        if aux is not None and (present is None or bool(present.all())):
            return trunk(aux)
        empty = [f.expand(rgb.shape[0], -1, -1, -1) for f in self._empty(rgb)]
        if aux is None or present is None or not bool(present.any()):
            return empty
        # Only present samples are read: an absent one's buffer may hold anything, NaN included.
        mixed = []
        for absent, seen in zip(empty, trunk(aux[present]), strict=True):
            features = absent.clone().to(seen.dtype)
            features[present] = seen
            mixed.append(features)
        return mixed

    def _empty(self, rgb: Tensor) -> list[Tensor]:
        def compute() -> list[Tensor]:
            value = torch.tensor(self.empty, dtype=rgb.dtype, device=rgb.device)
            raster = value[None, :, None, None].expand(1, 3, *rgb.shape[-2:])
            return self.trunks[self.auxiliary](raster)

        if self.training or torch.is_grad_enabled():
            return compute()
        device = rgb.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rgb.dtype
        # versions count in-place changes, so the features follow the weights however they change
        weights = tuple((id(p), p._version) for p in self.trunks[self.auxiliary].parameters())
        key = (*rgb.shape[-2:], dtype, rgb.device, weights)
        if key not in self._empty_features:
            if any(known[-1] != weights for known in self._empty_features):
                self._empty_features.clear()
            self._empty_features[key] = compute()
        return self._empty_features[key]
