# SPDX-License-Identifier: Apache-2.0
"""The spatial prior: a ConvNeXt trunk per modality, fusion per level, projection to tokens."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros.model.combine import Combination, Part, ReliabilityGate, image_statistics
from mmsam_ros.model.common import arithmetic, initialise
from mmsam_ros.model.config import NUM_LEVELS, ModelConfig
from mmsam_ros.model.convnext import ConvNeXtTrunk
from mmsam_ros.model.fusion import CoordinateAttention, Recalibration, RoadFusion, Rows

Inputs = Mapping[str, Tensor]
Present = Mapping[str, Tensor]


class CameraMaps(NamedTuple):
    """What the prior of RGB alone gives at strides 4, 8, 16, 32."""

    features: list[Tensor]  # (B, d, …) of its trunk
    maps: list[Tensor]  # (B, C, …), their projections


class PriorMaps(NamedTuple):
    """What the prior gives at strides 4, 8, 16, 32."""

    maps: list[Tensor]  # (B, C, …)
    gates: list[Tensor] | None = None  # (B, 1, …), how far RGB can be relied on; None: in full


class SpatialPrior(nn.Module):
    """RGB and auxiliary images -> four fused maps.

    Without an auxiliary, or where the adapter does not read RGB, there is nothing to fuse.
    `combine.absent` sets what an absent auxiliary counts as:

    * `empty`: the empty raster, an image of `config.empty`. Its features are computed once per
      size and kept while the weights stay the same.
    * `masked`: nothing. No branch runs for it, and `Combination` combines the others.
    * `fallback`: as `masked`, but RGB's maps are given, and the fused maps, which are zero at
      first, are added to them; a sample without any auxiliary does not get here.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        height, width = config.image_size
        areas = [(height >> (i + 2)) * (width >> (i + 2)) for i in range(NUM_LEVELS)]
        widths = config.trunk.widths
        read = config.modalities if config.prior.reads_rgb else config.auxiliaries
        self.config, self.adds = config, config.combine.absent == "fallback"
        own = config.auxiliaries if self.adds else read
        names = ("shared",) if config.prior.shared else own
        self.kind = config.fusion.kind if len(read) > 1 else "none"
        self.trunks = nn.ModuleDict({name: ConvNeXtTrunk(config.trunk) for name in names})
        self.fusion = nn.ModuleDict()
        for name in config.auxiliaries if self.kind == "road" else ():
            self.fusion[name] = nn.ModuleList(
                RoadFusion(d, area, config.fusion) for d, area in zip(widths, areas, strict=True)
            )
        factor = 2 if self.kind in ("road", "concat") else 1
        self.projections = _projections([factor * d for d in widths], config)
        self.combinations, self.gates = nn.ModuleList(), nn.ModuleList()
        if config.combine.absent != "empty":
            names = config.auxiliaries
            self.combinations.extend(
                Combination(d, factor * d, names, alone=not self.adds) for d in widths
            )
        if config.combine.gate:
            self.gates.extend(ReliabilityGate(d) for d in widths)
        self._empty_features: dict[tuple[Any, ...], list[Tensor]] = {}
        self._empty_weights: tuple[tuple[int, int], ...] = ()

    def reset_parameters(self) -> None:
        for module in self.trunks.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
        for module in self.fusion.modules():
            if isinstance(module, Recalibration | CoordinateAttention):
                initialise(module)
        initialise(self.projections)

    def add_nothing(self) -> None:
        """With `fallback`: what is fused adds zero to RGB's maps."""
        for projection in self.projections:
            assert isinstance(projection, nn.Conv2d)
            nn.init.zeros_(projection.weight)

    def of_rgb(self, rgb: Tensor, projections: nn.ModuleList | None = None) -> CameraMaps:
        """RGB's own maps, where there is no auxiliary; through other projections, if given."""
        features = self._trunk("rgb")(rgb)
        projections = projections or self.projections
        projected = [p(m) for p, m in zip(projections, features, strict=True)]
        return CameraMaps(features, projected)

    def forward(
        self, inputs: Inputs, present: Present, camera: CameraMaps | None = None
    ) -> PriorMaps:
        """`present` (B,) bool by auxiliary; one without is present everywhere if in `inputs`.

        `camera`: RGB's maps, with `fallback`.
        """
        if camera is not None:
            fused, gates = self._combine(camera.features, inputs, present)
            added = [p(m) for p, m in zip(self.projections, fused, strict=True)]
            base = camera.maps
            if gates is not None:
                base = [g * m for g, m in zip(gates, base, strict=True)]
            return PriorMaps([m + a for m, a in zip(base, added, strict=True)], gates)
        rgb = inputs["rgb"]
        maps, gates = self._trunk("rgb")(rgb) if self.config.prior.reads_rgb else [], None
        if self.combinations:
            maps, gates = self._combine(maps, inputs, present)
        elif self.config.auxiliaries:
            (name,) = self.config.auxiliaries
            rows = _rows(name, inputs, present)
            aux_maps = self._auxiliary_features(self._trunk(name), inputs.get(name, rgb), rows)
            maps = self._fuse(name, maps, aux_maps) if maps else aux_maps
        return PriorMaps([p(m) for p, m in zip(self.projections, maps, strict=True)], gates)

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
        self, rgb_maps: list[Tensor], inputs: Inputs, present: Present
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        """Combined maps, and gates; only present samples are read.

        With gradients every branch runs, on no samples if need be: all processes of a distributed
        run then have the same gradients to exchange and the same statistics to synchronise.
        """
        rows = {name: _rows(name, inputs, present) for name in self.config.auxiliaries}
        if not torch.is_grad_enabled():
            rows = {
                name: some for name, some in rows.items() if isinstance(some, slice) or len(some)
            }
        parts: list[dict[str, Part]] = [{} for _ in rgb_maps]
        for name, some in rows.items():
            aux_maps = self._trunk(name)(inputs.get(name, inputs["rgb"])[some])
            own = rgb_maps if isinstance(some, slice) else [m[some] for m in rgb_maps]
            for level, m in zip(parts, self._fuse(name, own, aux_maps), strict=True):
                level[name] = Part(some, m)
        alone = _alone(rows.values(), inputs["rgb"])
        levels = zip(self.combinations, rgb_maps, parts, strict=True)
        maps = [combination(m, level, alone) for combination, m, level in levels]
        if not (self.gates and rows):
            return maps, None
        return self._gate(maps, rgb_maps, inputs["rgb"], alone)

    def _gate(
        self, maps: list[Tensor], rgb_maps: list[Tensor], rgb: Tensor, alone: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Maps with their RGB half (the first d channels) gated, and the gates.

        A sample without auxiliary has nothing else to rely on: its gates are 1.
        """
        gated, gates = [], []
        for gate, m, r, s in zip(self.gates, maps, rgb_maps, image_statistics(rgb), strict=True):
            g = gate(r, s)
            g = (g if alone is None else g.index_fill(0, alone, 1.0)).to(m.dtype)
            first, second = m.chunk(2, dim=1)
            gated.append(torch.cat([g * first, second], dim=1))
            gates.append(g)
        return gated, gates

    def _auxiliary_features(self, trunk: nn.Module, image: Tensor, rows: Rows) -> list[Tensor]:
        """Features (B, d, …) of the samples `rows`; the empty raster's in the place of others."""
        if isinstance(rows, slice):
            return trunk(image)
        empty = [f.expand(len(image), -1, -1, -1) for f in self._empty(trunk, image)]
        if not len(rows):
            return empty
        # only present samples are read: the buffer of an absent one may hold anything, even NaN
        pairs = zip(empty, trunk(image[rows]), strict=True)
        return [absent.clone().to(seen.dtype).index_copy_(0, rows, seen) for absent, seen in pairs]

    def _empty(self, trunk: nn.Module, image: Tensor) -> list[Tensor]:
        """Features (1, d, …) of the empty raster at the size of `image`."""

        def compute() -> list[Tensor]:
            value = torch.tensor(self.config.empty, dtype=image.dtype, device=image.device)
            return trunk(value[None, :, None, None].expand(1, 3, *image.shape[-2:]))

        if torch.compiler.is_compiling():  # a traced feature must not stay
            return compute()
        parameters = list(trunk.parameters())
        if self.training or torch.is_grad_enabled() or any(p.is_inference() for p in parameters):
            return compute()  # tensors of inference mode do not count their changes
        # versions count in-place changes, so the features follow the weights (not through `.data`)
        weights = tuple((id(p), p._version) for p in parameters)
        if weights != self._empty_weights:
            self._empty_weights, self._empty_features = weights, {}
        key = (*image.shape[-2:], arithmetic(image), image.device)
        if key not in self._empty_features:
            self._empty_features[key] = compute()
        return self._empty_features[key]


class PlainPrior(nn.Module):
    """ViT-Adapter's prior (arXiv 2205.08534, 3.3), an ablation: plain convolutions on RGB alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.trunk.widths[0] * 2 // 3  # 64, as published, with the published trunk
        widths = (width, 2 * width, 4 * width, 4 * width)
        steps = ((3, 2), (width, 1), (width, 1))
        self.stem = nn.Sequential(*(_conv_norm_relu(c, width, s) for c, s in steps))
        self.stages = nn.ModuleList(_conv_norm_relu(a, b, 2) for a, b in pairwise(widths))
        self.projections = _projections(widths, config)

    def reset_parameters(self) -> None:
        initialise(self)

    def forward(self, rgb: Tensor) -> PriorMaps:
        maps = [F.max_pool2d(self.stem(rgb), 3, stride=2, padding=1)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return PriorMaps([p(m) for p, m in zip(self.projections, maps, strict=True)])


def _conv_norm_relu(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _projections(widths: Sequence[int], config: ModelConfig) -> nn.ModuleList:
    """Each level's map to the width of the encoder's tokens."""
    return nn.ModuleList(nn.Conv2d(width, config.encoder.embed_dim, 1) for width in widths)


def _rows(name: str, inputs: Inputs, present: Present) -> Rows:
    """The samples of the batch that have the auxiliary."""
    if name not in inputs:
        return inputs["rgb"].new_empty(0, dtype=torch.long)
    if name not in present or bool(present[name].all()):
        return slice(None)
    return present[name].nonzero().flatten()


def _alone(rows: Collection[Rows], rgb: Tensor) -> Tensor | None:
    """The samples of the batch that have no auxiliary; None where all samples have the same ones.

    With gradients it is never None: the samples' own path runs, on none of them if need be.
    """
    whole = [isinstance(some, slice) for some in rows]
    if all(whole) and not torch.is_grad_enabled():
        return None
    if any(whole):
        return rgb.new_empty(0, dtype=torch.long)
    bare = torch.ones(rgb.shape[0], dtype=torch.bool, device=rgb.device)
    for some in rows:
        bare[some] = False
    return bare.nonzero().flatten()  # waits for the GPU
