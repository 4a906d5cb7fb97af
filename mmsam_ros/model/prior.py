# SPDX-License-Identifier: Apache-2.0
"""The spatial prior: a ConvNeXt trunk per modality, fusion per level, projection to tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmsam_ros.model.config import ModelConfig
from mmsam_ros.model.convnext import ConvNeXtTrunk
from mmsam_ros.model.fusion import RoadFusion
from mmsam_ros.model.validate import NUM_LEVELS


class SpatialPrior(nn.Module):
    """RGB and auxiliary image -> four fused maps (B, C, h/2^(i+2), w/2^(i+2)).

    An absent auxiliary is taken for the empty raster: its features come from `config.empty`
    spread over the image, are computed once per size and kept while the weights stay.
    Without an auxiliary, or where the adapter does not read RGB, there is nothing to fuse.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        height, width = config.image_size
        areas = [(height >> (i + 2)) * (width >> (i + 2)) for i in range(NUM_LEVELS)]
        widths = config.trunk.widths
        read = config.modalities if config.prior.reads_rgb else config.auxiliaries
        names = ("shared",) if config.prior.shared else read
        self.empty = config.empty
        self.reads_rgb = config.prior.reads_rgb
        self.auxiliary = config.auxiliaries[0] if config.auxiliaries else None
        self.kind = config.fusion.kind if len(read) > 1 else "none"
        self.trunks = nn.ModuleDict({name: ConvNeXtTrunk(config.trunk) for name in names})
        self.fusion = nn.ModuleDict()
        if self.kind == "road" and self.auxiliary:
            self.fusion[self.auxiliary] = nn.ModuleList(
                RoadFusion(d, area, config.fusion) for d, area in zip(widths, areas, strict=True)
            )
        factor = 2 if self.kind in ("road", "concat") else 1
        self.projections = nn.ModuleList(
            nn.Conv2d(factor * d, config.encoder.embed_dim, 1) for d in widths
        )
        self._empty_features: dict[tuple[Any, ...], list[Tensor]] = {}

    def forward(
        self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None
    ) -> list[Tensor]:
        """`present` (B,) bool by auxiliary; None: present everywhere if it is in `inputs`."""
        rgb = inputs["rgb"]
        maps = self._trunk("rgb")(rgb) if self.reads_rgb else []
        if self.auxiliary is not None:
            mask = (present or {}).get(self.auxiliary)
            aux_maps = self._auxiliary_features(inputs.get(self.auxiliary), mask, rgb)
            maps = self._fuse(maps, aux_maps) if maps else aux_maps
        return [project(m) for project, m in zip(self.projections, maps, strict=True)]

    def _trunk(self, modality: str) -> nn.Module:
        return self.trunks["shared" if "shared" in self.trunks else modality]

    def _fuse(self, rgb_maps: list[Tensor], aux_maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, d, …) of both -> (B, 2 d, …), or (B, d, …) by addition."""
        pairs = zip(rgb_maps, aux_maps, strict=True)
        if self.kind == "add":
            return [r + a for r, a in pairs]
        if self.kind == "concat":
            return [torch.cat(pair, dim=1) for pair in pairs]
        assert self.auxiliary is not None
        levels = self.fusion[self.auxiliary]
        assert isinstance(levels, nn.ModuleList)
        return [fusion(r, a) for fusion, (r, a) in zip(levels, pairs, strict=True)]

    def _auxiliary_features(
        self, aux: Tensor | None, present: Tensor | None, rgb: Tensor
    ) -> list[Tensor]:
        assert self.auxiliary is not None
        trunk = self._trunk(self.auxiliary)
        if aux is not None and (present is None or bool(present.all())):
            return trunk(aux)
        empty = [f.expand(rgb.shape[0], -1, -1, -1) for f in self._empty(trunk, rgb)]
        if aux is None or present is None or not bool(present.any()):
            return empty
        # Only present samples are read: an absent one's buffer may hold anything, NaN included.
        mixed = []
        for absent, seen in zip(empty, trunk(aux[present]), strict=True):
            features = absent.clone().to(seen.dtype)
            features[present] = seen
            mixed.append(features)
        return mixed

    def _empty(self, trunk: nn.Module, rgb: Tensor) -> list[Tensor]:
        def compute() -> list[Tensor]:
            value = torch.tensor(self.empty, dtype=rgb.dtype, device=rgb.device)
            raster = value[None, :, None, None].expand(1, 3, *rgb.shape[-2:])
            return trunk(raster)

        if self.training or torch.is_grad_enabled():
            return compute()
        device = rgb.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rgb.dtype
        # versions count in-place changes, so the features follow the weights however they change
        weights = tuple((id(p), p._version) for p in trunk.parameters())
        key = (*rgb.shape[-2:], dtype, rgb.device, weights)
        if key not in self._empty_features:
            if any(known[-1] != weights for known in self._empty_features):
                self._empty_features.clear()
            self._empty_features[key] = compute()
        return self._empty_features[key]
