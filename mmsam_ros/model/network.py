# SPDX-License-Identifier: Apache-2.0
"""The whole network: encoder, spatial prior, interactions, output maps, head (arXiv 2509.10408)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros.model.config import NUM_LEVELS, ModelConfig, legal_sizes
from mmsam_ros.model.encoder import SAMEncoder
from mmsam_ros.model.errors import ModelError
from mmsam_ros.model.head import SegFormerHead
from mmsam_ros.model.init import initialise
from mmsam_ros.model.interaction import Interaction, TokenGrids
from mmsam_ros.model.prior import SpatialPrior
from mmsam_ros.model.strict import near_match


class MMSAMAdapter(nn.Module):
    """RGB and one auxiliary image in, logits at a quarter of the size out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, interaction = config.encoder.embed_dim, config.interaction
        self.config = config
        self.encoder = SAMEncoder(config.encoder)
        self.prior = SpatialPrior(config)
        self.level_embed = nn.Parameter(torch.zeros(3, dim))
        last = NUM_LEVELS - 1
        self.interactions = nn.ModuleList(
            Interaction(
                config.encoder, interaction, interaction.num_extra_extractors if i == last else 0
            )
            for i in range(NUM_LEVELS)
        )
        self.up = nn.ConvTranspose2d(dim, dim, 2, stride=2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(dim) for _ in range(NUM_LEVELS))
        self.head = SegFormerHead(dim, config.num_classes, config.head)
        initialise(self)

    def forward(
        self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Segment a batch.

        Args:
            inputs: normalised images (B, 3, h, w) by modality; "rgb" is always there.
            present: (B,) bool by modality; a key missing from `inputs` is absent everywhere.

        Returns:
            Logits (B, classes, h/4, w/4).

        Raises:
            ModelError: an unknown modality, a wrong shape, or a size that this network cannot
                take (the message lists those that it can).
        """
        mask = self._check(inputs, present)
        return self.head(self.forward_features(inputs, mask))

    def forward_features(
        self, inputs: Mapping[str, Tensor], aux_present: Tensor | None = None
    ) -> list[Tensor]:
        """The four maps (B, C, …) at strides 4, 8, 16, 32 that the head reads."""
        rgb = inputs["rgb"]
        grids = TokenGrids.of(rgb.shape[-2], rgb.shape[-1], rgb.device)
        c1, *coarse = self.prior(inputs, aux_present)
        tokens = [m.flatten(2).transpose(1, 2) for m in coarse]
        c = torch.cat([t + e for t, e in zip(tokens, self.level_embed, strict=True)], dim=1)
        x = self.encoder.embed(rgb).flatten(1, 2)
        x_maps = []
        for interaction, (first, last) in zip(
            self.interactions, self.config.interaction.block_ranges, strict=True
        ):
            x, c = interaction(x, c, partial(self.encoder.run, first=first, last=last), grids)
            x_maps.append(x.transpose(1, 2).unflatten(-1, grids.encoder[0]))
        maps = [c1, *_token_maps(c, grids)]
        maps[0] = self.up(maps[1]) + c1
        scales = (4.0, 2.0, 1.0, 0.5)
        return [
            norm(m + _rescale(x_map, scale))
            for norm, m, x_map, scale in zip(self.norms, maps, x_maps, scales, strict=True)
        ]

    def _check(
        self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None
    ) -> Tensor | None:
        """Validate the inputs; the auxiliary's presence mask, or None."""
        known = self.config.modalities
        present = present or {}
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
        mask = present.get(self.config.auxiliary)
        if mask is not None and (mask.dtype != torch.bool or mask.shape != rgb.shape[:1]):
            raise ModelError(
                f"present[{self.config.auxiliary!r}]: found {mask.dtype} {tuple(mask.shape)}, "
                f"expected bool ({rgb.shape[0]},)"
            )
        if mask is not None and self.config.auxiliary not in inputs and bool(mask.any()):
            raise ModelError(f"{self.config.auxiliary}: declared present, but not in the inputs")
        return mask


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
