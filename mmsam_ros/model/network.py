# SPDX-License-Identifier: Apache-2.0
"""The whole network: encoder, spatial prior, interactions, output maps, head (arXiv 2509.10408)."""

from collections.abc import Mapping
from functools import partial
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros._util import near_match, require
from mmsam_ros.model.common import initialise
from mmsam_ros.model.config import NUM_LEVELS, ModelConfig, ModelError, legal_sizes
from mmsam_ros.model.deformable import DeformableAttention, token_maps
from mmsam_ros.model.encoder import SAMEncoder
from mmsam_ros.model.head import SegFormerHead
from mmsam_ros.model.interaction import ConvFFN, Interaction, TokenGrids
from mmsam_ros.model.prior import CameraMaps, PlainPrior, PriorMaps, SpatialPrior

# what samples with auxiliaries have of their own, beside the prior
_PATH = ("level_embed", "up.", "interactions.", "norms.", "head.")


class MMSAMAdapter(nn.Module):
    """RGB and auxiliary images in, logits at a quarter of the size out.

    With `combine.absent: fallback` the network of RGB alone is a frozen part of it: samples without
    any auxiliary go through that one. The others use its encoder and its RGB trunk, and have
    interactions, norms and a head of their own.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, interaction = config.encoder.embed_dim, config.interaction
        self.config = config
        self.fallback: MMSAMAdapter | None = None
        if config.combine.absent == "fallback":
            self.fallback = MMSAMAdapter(config.of_rgb).requires_grad_(False).eval()
        else:
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
        # what is read of the encoder's maps; `prepare` puts the head's convolution here, and with
        # it into the projections of RGB's own prior
        self.reads = nn.ModuleList(nn.Identity() for _ in range(NUM_LEVELS))
        self.camera_projections: nn.ModuleList | None = None
        self.norms = nn.ModuleList(nn.BatchNorm2d(dim) for _ in range(NUM_LEVELS))
        self.head = SegFormerHead(dim, config.num_classes, config.head)
        # weights follow where tensors have no data; drawing them there loads torch's compiler
        if not self.head.classifier.weight.is_meta:
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as published, for training; pretrained parts are loaded over it afterwards."""
        if self.level_embed is not None:
            nn.init.normal_(self.level_embed)
        if self.fallback is None:
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
        self.begin_as_fallback()

    def begin_as_fallback(self) -> None:
        """Make all samples' logits those of the fallback, as the auxiliaries add nothing at first.

        For training; without a fallback nothing changes.
        """
        if self.fallback is None:
            return
        own = {n: v for n, v in self.fallback.state_dict().items() if n.startswith(_PATH)}
        self.load_state_dict(own, strict=False)
        assert isinstance(self.prior, SpatialPrior)
        self.prior.add_nothing()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.fallback is not None:
            self.fallback.eval()
        return self

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
        present = present or {}
        self._check(given, present)
        # without a mask, the batch is not divided by data, which not every engine takes
        masked = all(name in present for name in given if name != "rgb")
        if self.fallback is None or not masked:
            return self.head(self.forward_features(given, present))
        if len(given) == 1 and not self.training:  # the camera alone
            whole: Tensor = self.fallback(given)
            return whole
        alone = without_auxiliary(given, present)
        if not alone.any():
            return self.head(self.forward_features(given, present))
        own: Tensor = self.fallback({"rgb": given["rgb"][alone]})
        if alone.all():
            # a step needs gradients, and as many in every process
            own_parameters = (p.sum() for p in self.parameters() if p.requires_grad)
            return own + 0 * sum(own_parameters) if self.training else own
        some = {name: image[~alone] for name, image in given.items()}
        mask = {name: rows[~alone] for name, rows in present.items()}
        others = self.head(self.forward_features(some, mask))
        logits = others.new_empty(len(alone), *others.shape[1:])
        return logits.index_copy(0, alone.nonzero().flatten(), own).index_copy(
            0, (~alone).nonzero().flatten(), others
        )

    def forward_features(
        self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> list[Tensor]:
        """The four maps (B, C, …) at strides 4, 8, 16, 32 that the head reads."""
        rgb = inputs["rgb"]
        x = self._encoder.embed(rgb)
        prior = PriorMaps([])
        if isinstance(self.prior, SpatialPrior):
            prior = self.prior(inputs, present or {}, self._camera_maps(rgb))
        elif self.prior is not None:
            prior = self.prior(rgb)
        if self.entry_gamma is not None:
            x = x + self.entry_gamma * _at_stride_16(prior.maps).permute(0, 2, 3, 1)
        x_maps, maps = self._interact(x, prior.maps) if self.interactions else (self._encode(x), [])
        features = []
        for i, scale in enumerate((4.0, 2.0, 1.0, 0.5)):
            read = F.interpolate(self.reads[i](x_maps[i]), scale_factor=scale, mode="bilinear")
            if prior.gates is not None:
                read = prior.gates[i] * read
            if maps:
                read = maps[i] + read
            features.append(self.norms[i](read))
        return features

    @property
    def _encoder(self) -> SAMEncoder:
        return self.encoder if self.fallback is None else self.fallback.encoder

    def _camera_maps(self, rgb: Tensor) -> CameraMaps | None:
        if self.fallback is None:
            return None
        assert isinstance(self.fallback.prior, SpatialPrior)
        return self.fallback.prior.of_rgb(rgb, self.camera_projections)

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
            x, c = interaction(x, c, partial(self._encoder.run, first=first, last=last), grids)
            x_maps.append(x.transpose(1, 2).unflatten(-1, (H, W)))
        maps = token_maps(c, grids.adapter)
        return x_maps, [self.up(maps[0]) + prior_maps[0], *maps]

    def _encode(self, x_BHWC: Tensor) -> list[Tensor]:
        """The encoder's maps after each range of blocks, without an adapter between them."""
        x_maps = []
        for first, last in self.config.interaction.block_ranges:
            x_BHWC = self._encoder.run(x_BHWC, first, last)
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


def without_auxiliary(inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
    """(B,) bool: the samples that have RGB alone."""
    rgb = inputs["rgb"]
    alone = torch.ones(rgb.shape[0], dtype=torch.bool, device=rgb.device)
    for name in inputs.keys() - {"rgb"}:
        alone &= ~present[name] if name in present else torch.zeros_like(alone)
    return alone


def _at_stride_16(maps: list[Tensor]) -> Tensor:
    """Maps (B, C, …) at strides 4, 8, 16, 32 -> their sum (B, C, H, W) at stride 16."""
    size = (maps[2].shape[-2], maps[2].shape[-1])
    c1, c2 = (F.adaptive_avg_pool2d(m, size) for m in maps[:2])
    return c1 + c2 + maps[2] + F.interpolate(maps[3], scale_factor=2.0, mode="bilinear")


def rgb_alone(model: MMSAMAdapter) -> MMSAMAdapter:
    """The network of RGB alone, as `model` computes it without auxiliaries; a copy.

    ModelError where an absent auxiliary counts as an empty raster: there is no such network.
    """
    combine, prior = model.config.combine, model.prior
    require(combine.absent != "empty", "combine.absent", "empty", "masked or fallback", ModelError)
    source = model.fallback or model
    shared = "prior.trunks.shared."
    state = {n.replace(shared, "prior.trunks.rgb."): v for n, v in source.state_dict().items()}
    assert isinstance(prior, SpatialPrior)
    for i in range(len(prior.combinations) if model.fallback is None else 0):
        # the path of samples without auxiliaries and the projection are one 1x1 convolution
        own, name = f"prior.combinations.{i}.alone.", f"prior.projections.{i}."
        weight = state[name + "weight"].flatten(1)
        state[name + "bias"] = state[name + "bias"] + weight @ state[own + "bias"]
        state[name + "weight"] = (weight @ state[own + "weight"].flatten(1))[..., None, None]
    net = build_model(model.config.of_rgb)
    net.load_state_dict({name: state[name] for name in net.state_dict()})
    return net


def build_model(config: ModelConfig) -> MMSAMAdapter:
    """The network of a configuration, initialised for training."""
    return MMSAMAdapter(config)
