# SPDX-License-Identifier: Apache-2.0
"""Configuration of the network: frozen dataclasses and presets.

Sizes are (height, width) in pixels. Defaults are the published ViT-L network.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmsam_ros.model.errors import ModelError
from mmsam_ros.model.strict import from_mapping, near_match

STRIDE = 32  # the coarsest level; image sides are multiples of it
NUM_LEVELS = 4
MAX_SIDE = 8192  # pixels
Size = tuple[int, int]


@dataclass(frozen=True)
class EncoderConfig:
    """The SAM image encoder without its neck.

    Attributes:
        pretrained_size: image size whose patch grid fixes the position tables; they are resized
            to the actual grid in every forward.
    """

    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    patch_size: int = 16
    window_size: int = 14
    global_attn_indexes: tuple[int, ...] = (5, 11, 17, 23)
    pretrained_size: Size = (1024, 1024)


@dataclass(frozen=True)
class TrunkConfig:
    """One ConvNeXt trunk; every modality has its own."""

    depths: tuple[int, int, int, int] = (3, 3, 27, 3)
    widths: tuple[int, int, int, int] = (96, 192, 384, 768)
    drop_path_rate: float = 0.4


@dataclass(frozen=True)
class FusionConfig:
    """Road-Fusion: heads and groups of its convolutions and of its GroupNorm."""

    num_heads: int = 8
    groups: int = 32
    norm_groups: int = 32


@dataclass(frozen=True)
class InteractionConfig:
    """Injectors and extractors between the adapter and the encoder.

    Attributes:
        block_ranges: first and last encoder block (inclusive) of each of the four interactions.
        value_ratio: width of the deformable attention's values over the embedding's.
        ffn_ratio: hidden width of the extractors' ConvFFN over the embedding's.
        num_extra_extractors: further extractors after the last interaction's.
        drop_path_rate: of every extractor's ConvFFN.
    """

    block_ranges: tuple[Size, ...] = ((0, 5), (6, 11), (12, 17), (18, 23))
    num_heads: int = 16
    num_points: int = 4
    value_ratio: float = 0.5
    ffn_ratio: float = 0.25
    num_extra_extractors: int = 2
    drop_path_rate: float = 0.3


@dataclass(frozen=True)
class HeadConfig:
    """The SegFormer head."""

    channels: int = 512
    dropout: float = 0.1


@dataclass(frozen=True)
class ModelConfig:
    """The whole network.

    Attributes:
        num_classes: channels of the logits.
        modalities: "rgb" first, then the auxiliary's name.
        image_size: (height, width) whose area the fusion's spatial norms are bound to.
        empty: the normalised value of the auxiliary's three channels where it holds nothing
            (raw zero, normalised); what an absent auxiliary is taken for.

    Raises:
        ModelError: the parts do not fit together; names the field, what was found and expected.
    """

    num_classes: int
    modalities: tuple[str, ...] = ("rgb", "lidar")
    image_size: Size = (1024, 1024)
    empty: tuple[float, float, float] = (0.0, 0.0, 0.0)
    encoder: EncoderConfig = EncoderConfig()
    trunk: TrunkConfig = TrunkConfig()
    fusion: FusionConfig = FusionConfig()
    interaction: InteractionConfig = InteractionConfig()
    head: HeadConfig = HeadConfig()

    def __post_init__(self) -> None:
        _validate(self)

    @property
    def auxiliary(self) -> str:
        """Name of the second modality."""
        return self.modalities[1]

    @classmethod
    def preset(
        cls,
        name: str,
        *,
        num_classes: int,
        modalities: Sequence[str] = ("rgb", "lidar"),
        image_size: Size | None = None,
        **changes: Any,
    ) -> ModelConfig:
        """One of `vit_b`, `vit_l` (published), `vit_h`, `tiny`, `nano`.

        Raises:
            ModelError: no such preset, or `changes` names a field that does not exist.
        """
        if name not in _PRESETS:
            raise ModelError(f"unknown preset {name!r}{near_match(name, _PRESETS)}")
        values = dict(_PRESETS[name])
        if image_size is not None:
            values["image_size"] = image_size
        for key, value in changes.items():
            if key not in {f.name for f in dataclasses.fields(cls)}:
                names = (f.name for f in dataclasses.fields(cls))
                raise ModelError(f"ModelConfig: unknown key {key!r}{near_match(key, names)}")
            values[key] = value
        return cls(num_classes=num_classes, modalities=tuple(modalities), **values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Inverse of `to_dict`; unknown keys are errors."""
        return from_mapping(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def legal_sizes(image_size: Size) -> list[Size]:
    """All (height, width) that a network built for `image_size` can take.

    The fusion's spatial norms hold one weight per position, so the area is fixed; each side is a
    multiple of 32.
    """
    cells = (image_size[0] // STRIDE) * (image_size[1] // STRIDE)
    return [(STRIDE * n, STRIDE * cells // n) for n in range(1, cells + 1) if cells % n == 0]


def _encoder_preset(dim: int, depth: int, heads: int, global_every: int) -> dict[str, Any]:
    """An official SAM encoder with the published adapter in four equal block ranges."""
    quarter = depth // 4
    return {
        "encoder": EncoderConfig(
            embed_dim=dim,
            depth=depth,
            num_heads=heads,
            global_attn_indexes=tuple(range(global_every - 1, depth, global_every)),
        ),
        "interaction": InteractionConfig(
            block_ranges=tuple((i * quarter, (i + 1) * quarter - 1) for i in range(4)),
            num_heads=heads,
        ),
    }


_PRESETS: dict[str, dict[str, Any]] = {
    "vit_b": _encoder_preset(768, 12, 12, 3),
    "vit_l": _encoder_preset(1024, 24, 16, 6),
    "vit_h": _encoder_preset(1280, 32, 16, 8),
    "tiny": {
        "image_size": (288, 384),
        "encoder": EncoderConfig(
            embed_dim=192,
            depth=8,
            num_heads=6,
            window_size=6,
            global_attn_indexes=(1, 3, 5, 7),
            pretrained_size=(288, 384),
        ),
        "trunk": TrunkConfig(depths=(1, 1, 3, 1), widths=(32, 64, 96, 160), drop_path_rate=0.1),
        "interaction": InteractionConfig(
            block_ranges=((0, 1), (2, 3), (4, 5), (6, 7)), num_heads=6, drop_path_rate=0.1
        ),
        "head": HeadConfig(channels=128),
    },
    "nano": {
        "image_size": (128, 192),
        "encoder": EncoderConfig(
            embed_dim=96,
            depth=4,
            num_heads=3,
            window_size=4,
            global_attn_indexes=(1, 3),
            pretrained_size=(128, 192),
        ),
        "trunk": TrunkConfig(depths=(1, 1, 2, 1), widths=(16, 32, 64, 96), drop_path_rate=0.05),
        "fusion": FusionConfig(num_heads=8, groups=16, norm_groups=16),
        "interaction": InteractionConfig(
            block_ranges=((0, 0), (1, 1), (2, 2), (3, 3)), num_heads=3, drop_path_rate=0.05
        ),
        "head": HeadConfig(channels=64),
    },
}


def config_from_released(backbone: Mapping[str, Any], head: Mapping[str, Any]) -> ModelConfig:
    """The configuration that the released code's two dictionaries describe.

    Args:
        backbone: `img_size`, `pretrained_size`, `embed_dim`, `convnext`, `fusion`, `modalities` …
        head: `channels`, `num_classes`, `in_channels` of the SegFormer head.

    Raises:
        ModelError: a setting that the published network does not have, or a missing one.
    """
    fixed = {
        "in_chans": 3,
        "qkv_bias": True,
        "use_abs_pos": True,
        "use_rel_pos": True,
        "with_cffn": True,
        "add_vit_feature": True,
    }
    for key, expected in fixed.items():
        if backbone.get(key, expected) != expected:
            raise ModelError(f"backbone.{key}: expected {expected!r}, found {backbone[key]!r}")
    channels = tuple(backbone.get("modality_channels", (3, 3)))
    if channels != (3, 3):
        raise ModelError(f"backbone.modality_channels: expected (3, 3), found {channels}")
    try:
        side, pretrained = backbone["img_size"], backbone["pretrained_size"]
        trunk, fusion = backbone["convnext"], backbone["fusion"]
        return ModelConfig(
            num_classes=head["num_classes"],
            modalities=tuple(backbone["modalities"]),
            image_size=(side, side),
            encoder=EncoderConfig(
                embed_dim=backbone["embed_dim"],
                depth=backbone["depth"],
                num_heads=backbone["num_heads"],
                mlp_ratio=float(backbone["mlp_ratio"]),
                patch_size=backbone["patch_size"],
                window_size=backbone["window_size"],
                global_attn_indexes=tuple(backbone["global_attn_indexes"]),
                pretrained_size=(pretrained, pretrained),
            ),
            trunk=TrunkConfig(depths=tuple(trunk["depths"]), widths=tuple(trunk["channels"])),
            fusion=FusionConfig(
                num_heads=fusion["attn_heads"],
                groups=fusion["conv_groups"],
                norm_groups=fusion["gn_groups"],
            ),
            interaction=InteractionConfig(
                block_ranges=tuple((a, b) for a, b in backbone["interaction_indexes"]),
                num_heads=backbone["deform_num_heads"],
                num_points=backbone["n_points"],
                value_ratio=backbone["deform_ratio"],
                ffn_ratio=backbone["cffn_ratio"],
                num_extra_extractors=2 if backbone["use_extra_extractor"] else 0,
            ),
            head=HeadConfig(channels=head["channels"]),
        )
    except KeyError as error:
        raise ModelError(f"released configuration: key {error} is missing") from error


def _require(holds: bool, field: str, found: object, expected: str) -> None:
    if not holds:
        raise ModelError(f"{field}: found {found!r}, expected {expected}")


def _check_numbers(config: ModelConfig) -> None:
    """Every number in its range, before anything is divided by it."""
    encoder, trunk, interaction = config.encoder, config.trunk, config.interaction
    fusion, head = config.fusion, config.head
    whole: dict[str, tuple[int, int, int]] = {
        "num_classes": (config.num_classes, 1, 254),
        "encoder.embed_dim": (encoder.embed_dim, 1, 8192),
        "encoder.depth": (encoder.depth, NUM_LEVELS, 256),
        "encoder.num_heads": (encoder.num_heads, 1, 256),
        "encoder.patch_size": (encoder.patch_size, 16, 16),
        "encoder.window_size": (encoder.window_size, 1, 256),
        "fusion.num_heads": (fusion.num_heads, 1, 256),
        "fusion.groups": (fusion.groups, 1, 256),
        "fusion.norm_groups": (fusion.norm_groups, 1, 256),
        "interaction.num_heads": (interaction.num_heads, 1, 256),
        "interaction.num_points": (interaction.num_points, 1, 64),
        "interaction.num_extra_extractors": (interaction.num_extra_extractors, 0, 16),
        "head.channels": (head.channels, 1, 8192),
        **{f"trunk.depths[{i}]": (n, 1, 256) for i, n in enumerate(trunk.depths)},
        **{f"trunk.widths[{i}]": (n, 1, 8192) for i, n in enumerate(trunk.widths)},
        **{f"image_size[{i}]": (n, STRIDE, MAX_SIDE) for i, n in enumerate(config.image_size)},
    }
    for field, (value, low, high) in whole.items():
        _require(low <= value <= high, field, value, f"{low} to {high}")
    ratios = {
        "encoder.mlp_ratio": encoder.mlp_ratio,
        "interaction.value_ratio": interaction.value_ratio,
        "interaction.ffn_ratio": interaction.ffn_ratio,
    }
    for field, ratio in ratios.items():
        hidden = encoder.embed_dim * ratio
        _require(1 <= hidden <= 65536, field, ratio, "a width of 1 to 65536 with embed_dim")
    rates = {
        "trunk.drop_path_rate": trunk.drop_path_rate,
        "interaction.drop_path_rate": interaction.drop_path_rate,
        "head.dropout": head.dropout,
    }
    for field, rate in rates.items():
        _require(0 <= rate < 1, field, rate, "0 to 1, 1 excluded")
    _require(all(map(math.isfinite, config.empty)), "empty", config.empty, "finite values")
    blocks = encoder.global_attn_indexes
    inside = all(0 <= k < encoder.depth for k in blocks)
    _require(inside, "encoder.global_attn_indexes", blocks, f"blocks 0 to {encoder.depth - 1}")
    for name in config.modalities:
        named = re.fullmatch(r"[a-z][a-z0-9_]*", name) and not hasattr(nn.ModuleDict, name)
        _require(bool(named), "modalities", name, "lower-case names that no module method has")


def _validate(config: ModelConfig) -> None:
    _check_numbers(config)
    encoder, interaction, fusion = config.encoder, config.interaction, config.fusion
    names = config.modalities
    _require(
        len(names) == 2 and names[0] == "rgb" and names[1] != "rgb",
        "modalities",
        names,
        "'rgb' and one auxiliary (its three channels may be composed of several sensors)",
    )
    for field, size in (
        ("image_size", config.image_size),
        ("encoder.pretrained_size", encoder.pretrained_size),
    ):
        stride = STRIDE if field == "image_size" else encoder.patch_size
        holds = all(side > 0 and side % stride == 0 for side in size)
        _require(holds, field, size, f"positive multiples of {stride}")
    _require(
        encoder.embed_dim % encoder.num_heads == 0,
        "encoder.embed_dim",
        encoder.embed_dim,
        f"a multiple of num_heads {encoder.num_heads}",
    )
    value_dim = int(encoder.embed_dim * interaction.value_ratio)
    _require(
        value_dim % interaction.num_heads == 0,
        "interaction.num_heads",
        interaction.num_heads,
        f"a divisor of the value width {value_dim}",
    )
    covered = [k for first, last in interaction.block_ranges for k in range(first, last + 1)]
    _require(
        len(interaction.block_ranges) == NUM_LEVELS and covered == list(range(encoder.depth)),
        "interaction.block_ranges",
        interaction.block_ranges,
        f"four ranges that cover blocks 0..{encoder.depth - 1} in order",
    )
    for width in config.trunk.widths:
        _require(
            width % fusion.groups == 0 and width % fusion.num_heads == 0,
            "trunk.widths",
            config.trunk.widths,
            f"multiples of fusion.groups {fusion.groups} and fusion.num_heads {fusion.num_heads}",
        )
        _require(
            2 * width % fusion.norm_groups == 0,
            "fusion.norm_groups",
            fusion.norm_groups,
            f"a divisor of twice each trunk width {config.trunk.widths}",
        )
