# SPDX-License-Identifier: Apache-2.0
"""Configuration of the network: frozen dataclasses and presets.

Sizes are (height, width) in pixels. Defaults are the published ViT-L network.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, replace
from typing import Any, ClassVar, Literal, Self

from torch import nn

from mmsam_ros._util import Checked, MmsamError, from_mapping, near_match, ranged

Size = tuple[int, int]
Preset = Literal["vit_b", "vit_l", "vit_h", "tiny", "nano"]
PATCH_SIZE = 16  # side of SAM's patches
STRIDE = 32  # of the coarsest level; image sides are multiples of it
NUM_LEVELS = 4
_MAX_SIDE, _MAX_WIDTH, _MAX_HIDDEN = 8192, 8192, 65536
_Stages = tuple[int, int, int, int]


class ModelError(MmsamError):
    """A configuration or an input that the network cannot take."""


class _Part(Checked):
    error: ClassVar[type[MmsamError]] = ModelError


@dataclass(frozen=True)
class EncoderConfig(_Part):
    """The SAM image encoder without its neck.

    Attributes:
        pretrained_size: image size whose patch grid fixes the position tables; they are resized
            to the actual grid in every forward pass.
        lora_targets: what gets low-rank adapters in each block: linear layers, or the queries,
            keys and values of `qkv`, each with its own.
    """

    embed_dim: int = ranged(1024, 1, _MAX_WIDTH)  # width of the tokens
    depth: int = ranged(24, NUM_LEVELS, 256)  # number of transformer blocks
    num_heads: int = ranged(16, 1, 256)  # attention heads of each block
    mlp_ratio: float = ranged(4.0, 0)  # hidden width of the blocks' MLPs, relative to `embed_dim`
    window_size: int = ranged(14, 1, 256)  # side of the attention windows, in patches
    global_attn_indexes: tuple[int, ...] = (5, 11, 17, 23)  # blocks that attend to the whole image
    pretrained_size: Size = ranged((1024, 1024), PATCH_SIZE, _MAX_SIDE)
    lora_rank: int = ranged(0, 0, _MAX_WIDTH)  # rank of the low-rank adapters; 0 for none
    lora_targets: tuple[Literal["q", "k", "v", "qkv", "proj", "lin1", "lin2"], ...] = ("q", "v")

    def check(self) -> None:
        heads, dim, depth = self.num_heads, self.embed_dim, self.depth
        self.require(dim % heads == 0, "embed_dim", f"a multiple of num_heads {heads}")
        hidden = 1 <= dim * self.mlp_ratio <= _MAX_HIDDEN
        self.require(hidden, "mlp_ratio", f"a hidden width of 1 to {_MAX_HIDDEN}")
        inside = all(0 <= k < depth for k in self.global_attn_indexes)
        self.require(inside, "global_attn_indexes", f"blocks 0 to {depth - 1}")
        whole = all(side % PATCH_SIZE == 0 for side in self.pretrained_size)
        self.require(whole, "pretrained_size", f"multiples of {PATCH_SIZE}")
        self.require(self.lora_rank <= dim, "lora_rank", f"at most embed_dim {dim}")
        targets = [*self.lora_targets, *("qkv" if "qkv" in self.lora_targets else "")]
        once = len(set(targets)) == len(targets) > 0
        self.require(once, "lora_targets", "at least one layer, each once")


@dataclass(frozen=True)
class PriorConfig(_Part):
    """The spatial prior; the variants are the paper's ablations.

    Attributes:
        kind: `convnext` (published), `conv` (ViT-Adapter's plain convolutions, RGB only), or
            `none` (the head reads the encoder alone).
    """

    kind: Literal["convnext", "conv", "none"] = "convnext"
    reads_rgb: bool = True  # whether the adapter reads RGB; if not, it reads the auxiliary alone
    shared: bool = False  # one trunk for all modalities


@dataclass(frozen=True)
class TrunkConfig(_Part):
    """One ConvNeXt trunk; every modality has its own."""

    depths: _Stages = ranged((3, 3, 27, 3), 1, 256)  # blocks of each stage
    widths: _Stages = ranged((96, 192, 384, 768), 1, _MAX_WIDTH)  # channels of each stage
    drop_path_rate: float = ranged(0.4, 0, 1, below=True)  # of the last block; grows linearly


@dataclass(frozen=True)
class FusionConfig(_Part):
    """Fusion of RGB and auxiliary maps."""

    kind: Literal["road", "add", "concat"] = "road"  # Road-Fusion (published), sum, concatenation
    num_heads: int = ranged(8, 1, 256)  # heads of Road-Fusion's channel attention
    groups: int = ranged(32, 1, 256)  # groups of its convolutions
    norm_groups: int = ranged(32, 1, 256)  # groups of its GroupNorm


@dataclass(frozen=True)
class CombineConfig(_Part):
    """What happens to absent auxiliaries, and how several are combined; defaults as published.

    Attributes:
        absent: `empty` replaces an absent auxiliary by its empty raster, for networks with one;
            `masked` leaves absent auxiliaries out and combines the present ones; `fallback` does
            the same, and without any auxiliary it is the network of RGB alone, bit for bit.
    """

    absent: Literal["empty", "masked", "fallback"] = "empty"
    gate: bool = False  # weight RGB by its reliability (not with `empty`)


@dataclass(frozen=True)
class InteractionConfig(_Part):
    """Injectors and extractors between the adapter and the encoder.

    Attributes:
        kind: `adapter` (published), or `entry`, which only adds the prior's features to the patch
            tokens before the first block.
        block_ranges: first and last encoder block (inclusive) of each of the four interactions.
    """

    kind: Literal["adapter", "entry"] = "adapter"
    extractor: bool = True  # whether the adapter reads the encoder's tokens
    block_ranges: tuple[Size, ...] = ((0, 5), (6, 11), (12, 17), (18, 23))
    num_heads: int = ranged(16, 1, 256)  # heads of the deformable attention
    num_points: int = ranged(4, 1, 64)  # sampling points of each head and level
    value_ratio: float = ranged(0.5, 0)  # width of the attention's values, relative to `embed_dim`
    ffn_ratio: float = ranged(0.25, 0)  # hidden width of the extractors' ConvFFN, likewise
    num_extra_extractors: int = ranged(2, 0, 16)  # further extractors after the last interaction's
    drop_path_rate: float = ranged(0.3, 0, 1, below=True)  # of every extractor's ConvFFN


@dataclass(frozen=True)
class HeadConfig(_Part):
    """The SegFormer head."""

    channels: int = ranged(512, 1, _MAX_WIDTH)  # width of the fused features
    dropout: float = ranged(0.1, 0, 1, below=True)  # before the classifier


@dataclass(frozen=True)
class ModelConfig(_Part):
    """The whole network.

    Attributes:
        num_classes: channels of the logits.
        modalities: "rgb" first, then the auxiliaries' names.
        image_size: (height, width); the fusion's spatial norms are bound to its area.
        empty: normalised value of the auxiliary's three channels where it has no data
            (raw zero, normalised); stands for an absent one with `combine.absent: empty`.

    Raises:
        ModelError: the parts do not fit together; names the field, what was found and expected.
    """

    where: ClassVar[str] = "model"

    num_classes: int = ranged(MISSING, 1, 254)
    modalities: tuple[str, ...] = ("rgb", "lidar")
    image_size: Size = ranged((1024, 1024), STRIDE, _MAX_SIDE)
    empty: tuple[float, float, float] = (0.0, 0.0, 0.0)
    encoder: EncoderConfig = EncoderConfig()
    prior: PriorConfig = PriorConfig()
    trunk: TrunkConfig = TrunkConfig()
    fusion: FusionConfig = FusionConfig()
    combine: CombineConfig = CombineConfig()
    interaction: InteractionConfig = InteractionConfig()
    head: HeadConfig = HeadConfig()

    def check(self) -> None:
        self.require(all(map(math.isfinite, self.empty)), "empty", "finite values")
        whole = all(side % STRIDE == 0 for side in self.image_size)
        self.require(whole, "image_size", f"multiples of {STRIDE}")
        self._check_modalities()
        self._check_variant()
        self._check_interaction()
        if self.fusion.kind == "road" and self.auxiliaries and self.prior.reads_rgb:
            self._check_groups()

    def _check_groups(self) -> None:
        fusion, widths = self.fusion, self.trunk.widths
        fits = all(w % fusion.groups == 0 and w % fusion.num_heads == 0 for w in widths)
        divisors = f"fusion.groups {fusion.groups} and fusion.num_heads {fusion.num_heads}"
        self.require(fits, "trunk.widths", f"multiples of {divisors}")
        # of groups of one channel, torch takes batches of several samples, but not a single frame
        fits = all(2 * w % fusion.norm_groups == 0 and 2 * w > fusion.norm_groups for w in widths)
        expected = f"a divisor of twice each of trunk.widths {widths}, smaller than it"
        self.require(fits, "fusion.norm_groups", expected)

    def _check_modalities(self) -> None:
        names = self.modalities
        once = names[:1] == ("rgb",) and len(set(names)) == len(names)
        self.require(once, "modalities", "'rgb', then the auxiliaries, each once")
        # modules are named after them; "shared" is the trunk that serves several
        taken = {"shared", *dir(nn.ModuleDict())}
        free = all(re.fullmatch(r"[a-z][a-z0-9_]*", name) and name not in taken for name in names)
        self.require(free, "modalities", "lower-case names that no torch module uses itself")

    def _check_variant(self) -> None:
        """The published network and the paper's ablations of it."""
        prior, combine, interaction = self.prior, self.combine, self.interaction
        auxiliary, several = len(self.auxiliaries) > 0, len(self.auxiliaries) > 1
        fits = prior.kind == "convnext" or not auxiliary
        self.require(fits, "modalities", f"rgb alone with prior.kind {prior.kind!r}")
        self.require(prior.reads_rgb or auxiliary, "prior.reads_rgb", "true without an auxiliary")
        both = auxiliary and prior.reads_rgb
        self.require(both or not prior.shared, "prior.shared", "false unless it reads two")
        masked, coupled = combine.absent != "empty", interaction.kind == "adapter"
        expected = "'masked' or 'fallback' with several auxiliaries"
        self.require(masked or not several, "combine.absent", expected)
        expected = "'empty' unless the prior reads RGB and an auxiliary"
        self.require(both or not masked, "combine.absent", expected)
        fits = combine.absent != "fallback" or (coupled and not prior.shared)
        expected = "no 'fallback' with prior.shared or interaction.kind 'entry'"
        self.require(fits, "combine.absent", expected)
        fits = masked and coupled and self.fusion.kind != "add"
        expected = "false unless combine.absent is not 'empty', fusion.kind 'road' or 'concat' and "
        expected += "interaction.kind 'adapter'"
        self.require(fits or not combine.gate, "combine.gate", expected)
        fits = interaction.extractor or (coupled and prior.kind != "none")
        self.require(fits, "interaction.extractor", "true where there are no injectors")

    def _check_interaction(self) -> None:
        dim, depth = self.encoder.embed_dim, self.encoder.depth
        for ratio in ("value_ratio", "ffn_ratio"):
            fits = 1 <= dim * getattr(self.interaction, ratio) <= _MAX_HIDDEN
            expected = f"a width of 1 to {_MAX_HIDDEN} with encoder.embed_dim {dim}"
            self.require(fits, f"interaction.{ratio}", expected)
        width = int(dim * self.interaction.value_ratio)
        fits = width % self.interaction.num_heads == 0
        self.require(fits, "interaction.num_heads", f"a divisor of the value width {width}")
        ranges = self.interaction.block_ranges
        joined = [*(first for first, _ in ranges), depth] == [0, *(last + 1 for _, last in ranges)]
        fits = joined and len(ranges) == NUM_LEVELS and all(first <= last for first, last in ranges)
        expected = f"four ranges that cover blocks 0 to {depth - 1} in order"
        self.require(fits, "interaction.block_ranges", expected)

    @property
    def auxiliaries(self) -> tuple[str, ...]:
        """The modalities besides RGB."""
        return self.modalities[1:]

    @property
    def of_rgb(self) -> Self:
        """The same network for RGB alone."""
        return replace(
            self, modalities=("rgb",), combine=CombineConfig(), empty=(0.0, 0.0, 0.0),
            prior=replace(self.prior, shared=False),
        )  # fmt: skip

    @classmethod
    def preset(
        cls, name: str, *, num_classes: int, image_size: Size | None = None, **changes: Any
    ) -> Self:
        """One of `vit_b`, `vit_l` (published), `vit_h`, `tiny`, `nano`, with `changes` of fields.

        Raises:
            ModelError: no such preset, or `changes` names a field that does not exist.
        """
        if name not in _PRESETS:
            raise ModelError(f"unknown preset {name!r}{near_match(name, _PRESETS)}")
        size = {"image_size": image_size} if image_size else {}
        return from_mapping(cls, {**_PRESETS[name], "num_classes": num_classes, **size, **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`; unknown keys are errors."""
        return from_mapping(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def legal_sizes(image_size: Size) -> list[Size]:
    """All (height, width) that a network built for `image_size` can take: multiples of 32 with the
    same area, as the fusion's spatial norms hold one weight per position.
    """
    cells = (image_size[0] // STRIDE) * (image_size[1] // STRIDE)
    return [(STRIDE * n, STRIDE * cells // n) for n in range(1, cells + 1) if cells % n == 0]


def _preset(
    dim: int, depth: int, heads: int, global_every: int,
    size: Size = (1024, 1024), window: int = 14, drop_path: float = 0.3, **others: Any,
) -> dict[str, Any]:  # fmt: skip
    """A SAM encoder and, in four equal ranges of its blocks, the adapter."""
    globally, quarter = tuple(range(global_every - 1, depth, global_every)), depth // 4
    encoder = EncoderConfig(
        dim, depth, heads, window_size=window, global_attn_indexes=globally, pretrained_size=size
    )
    ranges = tuple((i * quarter, (i + 1) * quarter - 1) for i in range(4))
    interaction = InteractionConfig(block_ranges=ranges, num_heads=heads, drop_path_rate=drop_path)
    return {"image_size": size, "encoder": encoder, "interaction": interaction, **others}


_PRESETS: dict[str, dict[str, Any]] = {
    "vit_b": _preset(768, 12, 12, 3),
    "vit_l": _preset(1024, 24, 16, 6),
    "vit_h": _preset(1280, 32, 16, 8),
    "tiny": _preset(
        192, 8, 6, 2, size=(288, 384), window=6, drop_path=0.1,
        trunk=TrunkConfig((1, 1, 3, 1), (32, 64, 96, 160), drop_path_rate=0.1),
        head=HeadConfig(channels=128),
    ),
    "nano": _preset(
        96, 4, 3, 2, size=(128, 192), window=4, drop_path=0.05,
        trunk=TrunkConfig((1, 1, 2, 1), (16, 32, 64, 96), drop_path_rate=0.05),
        fusion=FusionConfig(num_heads=8, groups=16, norm_groups=16),
        head=HeadConfig(channels=64),
    ),
}  # fmt: skip
