# SPDX-License-Identifier: Apache-2.0
"""The spatial prior: a ConvNeXt trunk per modality, fusion per level, projection to tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmsam_ros.model.combine import Combination, Part, ReliabilityGate, image_statistics, take
from mmsam_ros.model.config import NUM_LEVELS, ModelConfig
from mmsam_ros.model.convnext import ConvNeXtTrunk
from mmsam_ros.model.fusion import RoadFusion

Inputs = Mapping[str, Tensor]
Present = Mapping[str, Tensor] | None
_NOBODY = torch.empty(0, dtype=torch.long)


class PriorMaps(NamedTuple):
    """What a prior gives.

    maps: four maps (B, C, h/2^(i+2), w/2^(i+2))
    gates: how far RGB can be relied on, (B, 1, …) at the same sizes; None: wholly
    """

    maps: list[Tensor]
    gates: list[Tensor] | None = None


class SpatialPrior(nn.Module):
    """RGB and auxiliary images -> four fused maps.

    Without an auxiliary, or where the adapter does not read RGB, there is nothing to fuse.
    An absent auxiliary is, with `combine.absent`

    * `empty`: the empty raster: its features come from `config.empty` spread over the image, are
      computed once per size and kept while the weights stay;
    * `masked`: not there at all: nothing runs for it, and `Combination` goes by the others.
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
        self.auxiliaries = config.auxiliaries
        self.kind = config.fusion.kind if len(read) > 1 else "none"
        self.trunks = nn.ModuleDict({name: ConvNeXtTrunk(config.trunk) for name in names})
        self.fusion = nn.ModuleDict()
        for name in self.auxiliaries if self.kind == "road" else ():
            self.fusion[name] = nn.ModuleList(
                RoadFusion(d, area, config.fusion) for d, area in zip(widths, areas, strict=True)
            )
        factor = 2 if self.kind in ("road", "concat") else 1
        self.projections = nn.ModuleList(
            nn.Conv2d(factor * d, config.encoder.embed_dim, 1) for d in widths
        )
        self.combinations, self.gates = nn.ModuleList(), nn.ModuleList()
        if config.combine.absent == "masked":
            self.combinations.extend(Combination(d, factor * d, self.auxiliaries) for d in widths)
        if config.combine.gate:
            self.gates.extend(ReliabilityGate(d) for d in widths)
        self._empty_features: dict[tuple[Any, ...], list[Tensor]] = {}

    def forward(self, inputs: Inputs, present: Present) -> PriorMaps:
        """`present` (B,) bool by auxiliary; None: present everywhere if it is in `inputs`."""
        rgb = inputs["rgb"]
        maps, gates = self._trunk("rgb")(rgb) if self.reads_rgb else [], None
        if self.combinations:
            maps, gates = self._combine(maps, inputs, present or {})
        elif self.auxiliaries:
            (name,) = self.auxiliaries
            mask = (present or {}).get(name)
            aux_maps = self._auxiliary_features(name, inputs.get(name), mask, rgb)
            maps = self._fuse(name, maps, aux_maps) if maps else aux_maps
        projected = [project(m) for project, m in zip(self.projections, maps, strict=True)]
        return PriorMaps(projected, gates)

    def _trunk(self, modality: str) -> nn.Module:
        return self.trunks["shared" if "shared" in self.trunks else modality]

    def _fuse(self, name: str, rgb_maps: list[Tensor], aux_maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, d, …) of both -> (B, 2 d, …), or (B, d, …) by addition."""
        pairs = zip(rgb_maps, aux_maps, strict=True)
        if self.kind == "add":
            return [r + a for r, a in pairs]
        if self.kind == "concat":
            return [torch.cat(pair, dim=1) for pair in pairs]
        levels = self.fusion[name]
        assert isinstance(levels, nn.ModuleList)
        return [fusion(r, a) for fusion, (r, a) in zip(levels, pairs, strict=True)]

    def _combine(
        self, rgb_maps: list[Tensor], inputs: Inputs, present: Mapping[str, Tensor]
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        """Combined maps, and gates. Only present samples are read, buffers of others are not.

        With gradients every branch runs, on no samples if need be: all processes of a distributed
        run then have the same gradients to exchange and the same statistics to synchronise.
        """
        rgb = inputs["rgb"]
        bare = torch.ones(rgb.shape[0], dtype=torch.bool, device=rgb.device)
        fused: dict[str, tuple[Tensor | None, list[Tensor]]] = {}
        for name in self.auxiliaries:
            rows = _rows(inputs.get(name), present.get(name), rgb)
            if rows is not None and not len(rows) and not torch.is_grad_enabled():
                continue
            bare[slice(None) if rows is None else rows] = False
            image = take(inputs.get(name, rgb), rows)
            own = [take(m, rows) for m in rgb_maps]
            fused[name] = (rows, self._fuse(name, own, self._trunk(name)(image)))
        everyone = any(rows is None for rows, _ in fused.values())
        alone = _NOBODY.to(rgb.device) if everyone else bare.nonzero().flatten()
        maps = []
        for i, (combination, m) in enumerate(zip(self.combinations, rgb_maps, strict=True)):
            parts = {name: Part(rows, levels[i]) for name, (rows, levels) in fused.items()}
            maps.append(combination(m, parts, alone))
        return self._gate(maps, rgb_maps, rgb, alone) if self.gates and fused else (maps, None)

    def _gate(
        self, maps: list[Tensor], rgb_maps: list[Tensor], rgb: Tensor, alone: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Maps with their RGB half (the first d channels) gated, and the gates.

        A sample without auxiliary has nothing else to rely on: its gates are 1.
        """
        gated, gates = [], []
        statistics = image_statistics(rgb, NUM_LEVELS)
        for gate, m, r, s in zip(self.gates, maps, rgb_maps, statistics, strict=True):
            g = gate(r, s).index_fill(0, alone, 1.0).to(m.dtype)
            first, second = m.chunk(2, dim=1)
            gated.append(torch.cat([g * first, second], dim=1))
            gates.append(g)
        return gated, gates

    def _auxiliary_features(
        self, name: str, aux: Tensor | None, present: Tensor | None, rgb: Tensor
    ) -> list[Tensor]:
        trunk = self._trunk(name)
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
        if any(p.is_inference() for p in trunk.parameters()):
            return compute()  # such tensors do not count their changes
        # versions count in-place changes, so the features follow the weights (not through `.data`)
        weights = tuple((id(p), p._version) for p in trunk.parameters())
        key = (*rgb.shape[-2:], dtype, rgb.device, weights)
        if key not in self._empty_features:
            if any(known[-1] != weights for known in self._empty_features):
                self._empty_features.clear()
            self._empty_features[key] = compute()
        return self._empty_features[key]


def _rows(image: Tensor | None, present: Tensor | None, rgb: Tensor) -> Tensor | None:
    """Samples that have the auxiliary; None: all."""
    if image is None:
        return _NOBODY.to(rgb.device)
    if present is None or bool(present.all()):
        return None
    return present.nonzero().flatten()
