# SPDX-License-Identifier: Apache-2.0
"""The whole network: encoder, spatial prior, interactions, output maps, head (arXiv 2509.10408)."""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros._util import near_match
from mmsam_ros.model.common import initialise
from mmsam_ros.model.config import NUM_LEVELS, ModelConfig, ModelError, legal_sizes
from mmsam_ros.model.deformable import DeformableAttention, token_maps
from mmsam_ros.model.encoder import SAMEncoder
from mmsam_ros.model.head import SegFormerHead
from mmsam_ros.model.interaction import ConvFFN, Interaction, TokenGrids
from mmsam_ros.model.prior import PlainPrior, PriorMaps, SpatialPrior


class MMSAMAdapter(nn.Module):
    """RGB and auxiliary images in, logits at a quarter of the size out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, interaction = config.encoder.embed_dim, config.interaction
        self.config = config
        self.encoder = SAMEncoder(config.encoder)
        self.prior: SpatialPrior | PlainPrior | None = None
        if config.prior.kind != "none":
            self.prior = PlainPrior(config) if config.prior.kind == "conv" else SpatialPrior(config)
        # None where adapter and encoder do not interact; `interactions` is empty then
        self.level_embed: nn.Parameter | None = None
        self.up: nn.ConvTranspose2d | None = None
        # scale of what the prior adds to the patch tokens; starts as the injectors' gamma
        self.entry_gamma: nn.Parameter | None = None
        self.interactions = nn.ModuleList()
        if self.prior is not None and interaction.kind == "entry":
            self.entry_gamma = nn.Parameter(torch.full((dim,), 1e-6))
        elif self.prior is not None:
            self.level_embed = nn.Parameter(torch.zeros(3, dim))
            for extra in (*[0] * (NUM_LEVELS - 1), interaction.num_extra_extractors):
                self.interactions.append(Interaction(dim, interaction, extra))
            self.up = nn.ConvTranspose2d(dim, dim, 2, stride=2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(dim) for _ in range(NUM_LEVELS))
        self.head = SegFormerHead(dim, config.num_classes, config.head)
        # weights follow where tensors have no data; drawing them there loads torch's compiler
        if not self.head.classifier.weight.is_meta:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as published, for training; pretrained parts are loaded over it afterwards."""
        if self.level_embed is not None:
            nn.init.normal_(self.level_embed)
        initialise(self.encoder)
        if self.prior is not None:
            self.prior.reset_parameters()
        if self.up is not None:
            initialise(self.up)
        for module in self.interactions.modules():
            if isinstance(module, ConvFFN | DeformableAttention):
                module.reset_parameters()
        initialise(self.head)
        nn.init.normal_(self.head.classifier.weight, std=0.01)

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
        prior = PriorMaps([]) if self.prior is None else self.prior(inputs, present or {})
        if self.entry_gamma is not None:
            x = x + self.entry_gamma * _at_stride_16(prior.maps).permute(0, 2, 3, 1)
        x_maps, maps = self._interact(x, prior.maps) if self.interactions else (self._encode(x), [])
        features = []
        for i, scale in enumerate((4.0, 2.0, 1.0, 0.5)):
            read = F.interpolate(x_maps[i], scale_factor=scale, mode="bilinear")
            if prior.gates is not None:
                read = prior.gates[i] * read
            if maps:
                read = maps[i] + read
            features.append(self.norms[i](read))
        return features

    def _interact(
        self, x_BHWC: Tensor, prior_maps: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The encoder's maps at stride 16 after each interaction, and the adapter's four maps."""
        assert self.level_embed is not None
        assert self.up is not None
        _, H, W, _ = x_BHWC.shape
        grids = TokenGrids(16 * H, 16 * W, x_BHWC.device)
        tokens = [m.flatten(2).transpose(1, 2) for m in prior_maps[1:]]
        c = torch.cat([t + e for t, e in zip(tokens, self.level_embed, strict=True)], dim=1)
        x = x_BHWC.flatten(1, 2)
        x_maps = []
        ranges = self.config.interaction.block_ranges
        for interaction, (first, last) in zip(self.interactions, ranges, strict=True):
            x, c = interaction(x, c, partial(self.encoder.run, first=first, last=last), grids)
            x_maps.append(x.transpose(1, 2).unflatten(-1, (H, W)))
        maps = token_maps(c, grids.adapter)
        return x_maps, [self.up(maps[0]) + prior_maps[0], *maps]

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
        expected = f"expected (B, 3, h, w) with rgb's {tuple(rgb.shape)}"
        for name, image in inputs.items():
            if image.ndim != 4 or image.shape[1] != 3 or image.shape != rgb.shape:
                raise ModelError(f"{name}: found shape {tuple(image.shape)}, {expected}")
        batch, _, height, width = rgb.shape
        legal = legal_sizes(self.config.image_size)
        if (height, width) not in legal:
            raise ModelError(
                f"image size {height}x{width} (height x width) does not fit this network; "
                f"it takes {', '.join(f'{h}x{w}' for h, w in legal)}"
            )
        if "rgb" in present:
            raise ModelError("present: found 'rgb', which is always there; expected auxiliaries")
        for name, mask in present.items():
            if mask.dtype != torch.bool or mask.shape != (batch,):
                found = f"{mask.dtype} {tuple(mask.shape)}"
                raise ModelError(f"present[{name!r}]: found {found}, expected bool ({batch},)")
            if name not in inputs and bool(mask.any()):
                raise ModelError(f"{name}: declared present, but not in the inputs")


def _at_stride_16(maps: list[Tensor]) -> Tensor:
    """Maps (B, C, …) at strides 4, 8, 16, 32 -> their sum (B, C, H, W) at stride 16."""
    size = (maps[2].shape[-2], maps[2].shape[-1])
    c1, c2 = (F.adaptive_avg_pool2d(m, size) for m in maps[:2])
    return c1 + c2 + maps[2] + F.interpolate(maps[3], scale_factor=2.0, mode="bilinear")


def build_model(config: ModelConfig) -> MMSAMAdapter:
    """The network of a configuration, initialised for training."""
    return MMSAMAdapter(config)
