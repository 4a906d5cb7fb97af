# SPDX-License-Identifier: Apache-2.0
"""The whole network: encoder, spatial prior, interactions, output maps, head (arXiv 2509.10408)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros._util import near_match
from mmsam_ros.model.config import NUM_LEVELS, ModelConfig, legal_sizes
from mmsam_ros.model.encoder import SAMEncoder
from mmsam_ros.model.errors import ModelError
from mmsam_ros.model.head import SegFormerHead
from mmsam_ros.model.init import initialise
from mmsam_ros.model.interaction import Interaction, TokenGrids
from mmsam_ros.model.plain_prior import PlainPrior
from mmsam_ros.model.prior import SpatialPrior


class MMSAMAdapter(nn.Module):
    """RGB and auxiliary images in, logits at a quarter of the size out.

    Attributes:
        prior: None where the configuration has none.
        level_embed, up: None where adapter and encoder do not interact; `interactions` is empty.
        entry_gamma: with `interaction.kind: entry`, the scale of what the prior adds to the patch
            tokens; from 1e-6, as the injectors' gamma.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, interaction = config.encoder.embed_dim, config.interaction
        self.config = config
        self.encoder = SAMEncoder(config.encoder)
        self.prior = _prior(config)
        self.level_embed: nn.Parameter | None = None
        self.up: nn.ConvTranspose2d | None = None
        self.entry_gamma: nn.Parameter | None = None
        self.interactions = nn.ModuleList()
        if self.prior is not None and interaction.kind == "entry":
            self.entry_gamma = nn.Parameter(torch.full((dim,), 1e-6))
        elif self.prior is not None:
            self.level_embed = nn.Parameter(torch.zeros(3, dim))
            last = NUM_LEVELS - 1
            self.interactions.extend(
                Interaction(
                    config.encoder,
                    interaction,
                    interaction.num_extra_extractors if i == last else 0,
                )
                for i in range(NUM_LEVELS)
            )
            self.up = nn.ConvTranspose2d(dim, dim, 2, stride=2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(dim) for _ in range(NUM_LEVELS))
        self.head = SegFormerHead(dim, config.num_classes, config.head)
        initialise(self)

    def forward(
        self, inputs: Mapping[str, Tensor | None], present: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Segment a batch.

        Args:
            inputs: normalised images (B, 3, h, w) by modality; "rgb" is always there.
            present: (B,) bool by modality; one that `inputs` lacks, or has as None, is absent
                everywhere. What the buffer of an absent sample holds does not matter.

        Returns:
            Logits (B, classes, h/4, w/4).

        Raises:
            ModelError: an unknown modality, a wrong shape, or a size that this network cannot
                take (the message lists those that it can).
        """
        given = {name: image for name, image in inputs.items() if image is not None}
        self._check(given, present or {})
        return self.head(self.forward_features(given, present))

    def forward_features(
        self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> list[Tensor]:
        """The four maps (B, C, …) at strides 4, 8, 16, 32 that the head reads."""
        x = self.encoder.embed(inputs["rgb"])
        prior_maps, gates = ([], None) if self.prior is None else self.prior(inputs, present)
        if self.level_embed is not None:
            x_maps, maps = self._interact(x, prior_maps)
        else:
            if self.entry_gamma is not None:
                x = x + self.entry_gamma * _at_stride_16(prior_maps).permute(0, 2, 3, 1)
            x_maps, maps = self._encode(x), None
        scales = (4.0, 2.0, 1.0, 0.5)
        read = [_rescale(x_map, scale) for x_map, scale in zip(x_maps, scales, strict=True)]
        if gates is not None:
            read = [g * r for g, r in zip(gates, read, strict=True)]
        if maps is not None:
            read = [m + r for m, r in zip(maps, read, strict=True)]
        return [norm(r) for norm, r in zip(self.norms, read, strict=True)]

    def _interact(
        self, x_BHWC: Tensor, prior_maps: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The encoder's maps at stride 16 after each interaction, and the adapter's four maps."""
        assert self.level_embed is not None
        assert self.up is not None
        height, width = (16 * side for side in x_BHWC.shape[1:3])
        grids = TokenGrids.of(height, width, x_BHWC.device)
        c1, *coarse = prior_maps
        tokens = [m.flatten(2).transpose(1, 2) for m in coarse]
        c = torch.cat([t + e for t, e in zip(tokens, self.level_embed, strict=True)], dim=1)
        x = x_BHWC.flatten(1, 2)
        x_maps = []
        for interaction, (first, last) in zip(
            self.interactions, self.config.interaction.block_ranges, strict=True
        ):
            x, c = interaction(x, c, partial(self.encoder.run, first=first, last=last), grids)
            x_maps.append(x.transpose(1, 2).unflatten(-1, grids.encoder[0]))
        maps = [c1, *_token_maps(c, grids)]
        maps[0] = self.up(maps[1]) + c1
        return x_maps, maps

    def _encode(self, x_BHWC: Tensor) -> list[Tensor]:
        """The encoder's maps after each range of blocks, without an adapter between them."""
        x_maps = []
        for first, last in self.config.interaction.block_ranges:
            x_BHWC = self.encoder.run(x_BHWC, first, last)
            x_maps.append(x_BHWC.permute(0, 3, 1, 2))
        return x_maps

    def _check(self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> None:
        known = self.config.modalities
        for name in (*inputs, *present):
            if name not in known:
                raise ModelError(f"unknown modality {name!r}{near_match(name, known)}")
        if "rgb" not in inputs:
            raise ModelError(f"modality 'rgb' is missing, found {sorted(inputs)}")
        rgb = inputs["rgb"]
        for name, image in inputs.items():
            if image.ndim != 4 or image.shape[1] != 3 or image.shape != rgb.shape:
                raise ModelError(
                    f"{name}: found shape {tuple(image.shape)}, expected (B, 3, h, w) with rgb's "
                    f"{tuple(rgb.shape)}"
                )
        size = (rgb.shape[-2], rgb.shape[-1])
        legal = legal_sizes(self.config.image_size)
        if size not in legal:
            sizes = ", ".join(f"{h}x{w}" for h, w in legal)
            raise ModelError(
                f"image size {size[0]}x{size[1]} (height x width) does not fit this network; "
                f"it takes {sizes}"
            )
        if "rgb" in present:
            raise ModelError("present: found 'rgb', which is always there; expected auxiliaries")
        for name, mask in present.items():
            if mask.dtype != torch.bool or mask.shape != rgb.shape[:1]:
                raise ModelError(
                    f"present[{name!r}]: found {mask.dtype} {tuple(mask.shape)}, "
                    f"expected bool ({rgb.shape[0]},)"
                )
            if name not in inputs and bool(mask.any()):
                raise ModelError(f"{name}: declared present, but not in the inputs")


def _prior(config: ModelConfig) -> SpatialPrior | PlainPrior | None:
    if config.prior.kind == "none":
        return None
    return PlainPrior(config) if config.prior.kind == "conv" else SpatialPrior(config)


def _at_stride_16(maps: list[Tensor]) -> Tensor:
    """Maps (B, C, …) at strides 4, 8, 16, 32 -> their sum (B, C, H, W) at stride 16."""
    size = (maps[2].shape[-2], maps[2].shape[-1])
    finer = [F.adaptive_avg_pool2d(m, size) for m in maps[:2]]
    return finer[0] + finer[1] + maps[2] + _rescale(maps[3], 2.0)


def _token_maps(c: Tensor, grids: TokenGrids) -> list[Tensor]:
    """Adapter tokens (B, N, C) -> maps (B, C, …) at strides 8, 16, 32."""
    parts = c.transpose(1, 2).split([h * w for h, w in grids.adapter], dim=-1)
    return [p.unflatten(-1, shape) for p, shape in zip(parts, grids.adapter, strict=True)]


def _rescale(x: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return x
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


def build_model(config: ModelConfig) -> MMSAMAdapter:
    """The network of a configuration, initialised as published for training (section 11)."""
    return MMSAMAdapter(config)
