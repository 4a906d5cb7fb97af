# SPDX-License-Identifier: Apache-2.0
"""Configuration of the network: frozen dataclasses and presets.

Sizes are (height, width) in pixels. Defaults are the published ViT-L network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmsam_ros._util import from_mapping, near_match
from mmsam_ros.model.errors import ModelError
from mmsam_ros.model.validate import STRIDE, validate

Size = tuple[int, int]


@dataclass(frozen=True)
class EncoderConfig:
    """The SAM image encoder without its neck.

    Attributes:
        pretrained_size: image size whose patch grid fixes the position tables; they are resized
            to the actual grid in every forward.
        lora_rank: rank of the low-rank adapters beside the blocks' linear layers; 0: none.
        lora_targets: linear layers of every block that get one: qkv, proj, lin1, lin2.
    """

    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    patch_size: int = 16
    window_size: int = 14
    global_attn_indexes: tuple[int, ...] = (5, 11, 17, 23)
    pretrained_size: Size = (1024, 1024)
    lora_rank: int = 0
    lora_targets: tuple[str, ...] = ("qkv", "proj")


@dataclass(frozen=True)
class PriorConfig:
    """The spatial prior; the variants are the paper's ablations.

    Attributes:
        kind: `convnext` (published), `conv` (ViT-Adapter's plain convolutions, RGB only), or
            `none`: the head reads the encoder alone.
        reads_rgb: whether the adapter is fed RGB; without, it reads the auxiliary alone.
        shared: one trunk for all modalities.
    """

    kind: str = "convnext"
    reads_rgb: bool = True
    shared: bool = False


@dataclass(frozen=True)
class TrunkConfig:
    """One ConvNeXt trunk; every modality has its own."""

    depths: tuple[int, int, int, int] = (3, 3, 27, 3)
    widths: tuple[int, int, int, int] = (96, 192, 384, 768)
    drop_path_rate: float = 0.4


@dataclass(frozen=True)
class FusionConfig:
    """Fusion of RGB and auxiliary maps.

    Attributes:
        kind: `road` (Road-Fusion, published), `add` or `concat`.
        num_heads: of Road-Fusion's channel attention.
        groups: of its convolutions.
        norm_groups: of its GroupNorm.
    """

    kind: str = "road"
    num_heads: int = 8
    groups: int = 32
    norm_groups: int = 32


@dataclass(frozen=True)
class CombineConfig:
    """What becomes of absent auxiliaries, and of several; the defaults are the published network.

    Attributes:
        absent: `empty`: an absent auxiliary counts as its empty raster, there is but one;
            `masked`: it is not there, the present ones are combined.
        gate: whether RGB is weighed by its reliability (with `masked`).
    """

    absent: str = "empty"
    gate: bool = False


@dataclass(frozen=True)
class InteractionConfig:
    """Injectors and extractors between the adapter and the encoder.

    Attributes:
        kind: `adapter` (published), or `entry`: the prior's features are added to the patch tokens
            before the first block, and nothing else couples the two.
        extractor: whether the adapter reads the encoder back.
        block_ranges: first and last encoder block (inclusive) of each of the four interactions.
        value_ratio: width of the deformable attention's values over the embedding's.
        ffn_ratio: hidden width of the extractors' ConvFFN over the embedding's.
        num_extra_extractors: further extractors after the last interaction's.
        drop_path_rate: of every extractor's ConvFFN.
    """

    kind: str = "adapter"
    extractor: bool = True
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
        modalities: "rgb" first, then the auxiliaries' names.
        image_size: (height, width) whose area the fusion's spatial norms are bound to.
        empty: the normalised value of the auxiliary's three channels where it holds nothing
            (raw zero, normalised); what an absent one is taken for with `combine.absent: empty`.

    Raises:
        ModelError: the parts do not fit together; names the field, what was found and expected.
    """

    num_classes: int
    modalities: tuple[str, ...] = ("rgb", "lidar")
    image_size: Size = (1024, 1024)
    empty: tuple[float, float, float] = (0.0, 0.0, 0.0)
    encoder: EncoderConfig = EncoderConfig()
    prior: PriorConfig = PriorConfig()
    trunk: TrunkConfig = TrunkConfig()
    fusion: FusionConfig = FusionConfig()
    combine: CombineConfig = CombineConfig()
    interaction: InteractionConfig = InteractionConfig()
    head: HeadConfig = HeadConfig()

    def __post_init__(self) -> None:
        validate(self)

    @property
    def auxiliaries(self) -> tuple[str, ...]:
        """The modalities besides RGB."""
        return self.modalities[1:]

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
