# SPDX-License-Identifier: Apache-2.0
"""Whether the parts of a network's configuration fit together."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from torch import nn

from mmsam_ros.model.errors import ModelError

if TYPE_CHECKING:
    from mmsam_ros.model.config import ModelConfig

STRIDE = 32  # the coarsest level; image sides are multiples of it
NUM_LEVELS = 4
MAX_SIDE = 8192  # pixels
LORA_TARGETS = ("qkv", "proj", "lin1", "lin2")


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
        "encoder.lora_rank": (encoder.lora_rank, 0, encoder.embed_dim),
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
        named = re.fullmatch(r"[a-z][a-z0-9_]*", name) and not hasattr(nn.ModuleDict(), name)
        taken = not named or name == "shared"  # the name of a trunk that serves several
        _require(not taken, "modalities", name, "lower-case names, not a module's own or 'shared'")


def validate(config: ModelConfig) -> None:
    """Raise ModelError unless all holds; names the field, what was found and expected."""
    _check_numbers(config)
    _check_variant(config)
    encoder, interaction, fusion = config.encoder, config.interaction, config.fusion
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
    ranges = interaction.block_ranges
    starts, ends = [first for first, _ in ranges], [last + 1 for _, last in ranges]
    joined = starts == [0, *ends[:-1]] and ends[-1:] == [encoder.depth]
    _require(
        len(ranges) == NUM_LEVELS and joined and all(first <= last for first, last in ranges),
        "interaction.block_ranges",
        interaction.block_ranges,
        f"four ranges that cover blocks 0..{encoder.depth - 1} in order",
    )
    if fusion.kind != "road" or not config.auxiliaries or not config.prior.reads_rgb:
        return
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


def _check_variant(config: ModelConfig) -> None:
    """The published network and the paper's ablations of it."""
    names, prior, encoder = config.modalities, config.prior, config.encoder
    combine = config.combine
    _require(
        names[:1] == ("rgb",) and len(set(names)) == len(names),
        "modalities",
        names,
        "'rgb', then the auxiliaries, each once",
    )
    words = {
        "prior.kind": (prior.kind, ("convnext", "conv", "none")),
        "fusion.kind": (config.fusion.kind, ("road", "add", "concat")),
        "combine.absent": (combine.absent, ("empty", "masked")),
        "interaction.kind": (config.interaction.kind, ("adapter", "entry")),
    }
    for field, (word, known) in words.items():
        _require(word in known, field, word, f"one of {known}")
    plain = prior.kind != "convnext"
    _require(not (plain and config.auxiliaries), "modalities", names, f"rgb for {prior.kind!r}")
    both = bool(config.auxiliaries)
    _require(both or prior.reads_rgb, "prior.reads_rgb", False, "true without an auxiliary")
    shared = both and prior.reads_rgb
    _require(shared or not prior.shared, "prior.shared", True, "false unless two are read")
    masked = combine.absent == "masked"
    several = len(names) > 2
    _require(masked or not several, "combine.absent", combine.absent, "'masked' with several")
    _require(shared or not masked, "combine.absent", "masked", "'empty' unless two are read")
    halves = config.fusion.kind != "add" and config.interaction.kind == "adapter"
    gates = masked and halves
    _require(gates or not combine.gate, "combine.gate", True, "false unless auxiliaries are masked "
             "and concatenated with RGB, and adapter and encoder interact")  # fmt: skip
    adapter = config.interaction.kind == "adapter" and prior.kind != "none"
    extractor = adapter or config.interaction.extractor
    _require(extractor, "interaction.extractor", False, "true where there are no injectors")
    targets = encoder.lora_targets
    named = set(targets) <= set(LORA_TARGETS) and len(set(targets)) == len(targets) > 0
    _require(named, "encoder.lora_targets", targets, f"some of {LORA_TARGETS}")
