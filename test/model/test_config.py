# SPDX-License-Identifier: Apache-2.0
"""Presets, strict keys, legal sizes."""

from __future__ import annotations

import json

import pytest
import torch

from mmsam_ros.model import ModelConfig, ModelError, build_model


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("preset", ["vit_b", "vit_l", "vit_h", "tiny", "nano"])
def test_round_trip_through_json(preset: str) -> None:
    config = ModelConfig.preset(preset, num_classes=14, modalities=("rgb", "thermal"))
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("preset", "dim", "ranges"),
    [
        ("vit_b", 768, ((0, 2), (3, 5), (6, 8), (9, 11))),
        ("vit_l", 1024, ((0, 5), (6, 11), (12, 17), (18, 23))),
        ("vit_h", 1280, ((0, 7), (8, 15), (16, 23), (24, 31))),
    ],
)
def test_official_encoders_build(preset: str, dim: int, ranges: tuple[object, ...]) -> None:
    config = ModelConfig.preset(preset, num_classes=25)
    with torch.device("meta"):
        model = build_model(config)
    assert model.encoder.pos_embed.shape == (1, 64, 64, dim)
    assert config.interaction.block_ranges == ranges
    assert config.interaction.num_heads == config.encoder.num_heads


def test_tiny_keeps_the_asymmetry_of_the_method() -> None:
    model = build_model(ModelConfig.preset("tiny", num_classes=14))
    trunk = count(model.prior.trunks["rgb"])
    assert count(model.encoder) >= 4 * trunk
    # a second auxiliary brings a trunk and a fusion
    assert count(model) + trunk + count(model.prior.fusion) <= 12e6


def test_nano_is_small() -> None:
    model = build_model(ModelConfig.preset("nano", num_classes=14))
    assert 1e6 < count(model) < 3e6


def test_unknown_keys_name_the_near_match() -> None:
    values = ModelConfig.preset("nano", num_classes=3).to_dict()
    values["encoder"]["num_head"] = 3
    with pytest.raises(ModelError, match=r"encoder: unknown key 'num_head'; did you mean 'num_h"):
        ModelConfig.from_dict(values)
    with pytest.raises(ModelError, match="did you mean 'vit_l'"):
        ModelConfig.preset("vitl", num_classes=3)
    with pytest.raises(ModelError, match="did you mean 'image_size'"):
        ModelConfig.preset("tiny", num_classes=3, imagesize=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": ("rgb", "lidar", "thermal")}, "combine.absent"),
        ({"modalities": ("lidar", "rgb")}, "modalities"),
        ({"image_size": (100, 96)}, "image_size"),
        ({"num_classes": 255}, "num_classes"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    values = ModelConfig.preset("nano", num_classes=3).to_dict() | change
    with pytest.raises(ModelError, match=message):
        ModelConfig.from_dict(values)


def test_wrong_types_are_refused() -> None:
    values = ModelConfig.preset("nano", num_classes=3).to_dict()
    with pytest.raises(ModelError, match=r"num_classes: found '3', expected int"):
        ModelConfig.from_dict(values | {"num_classes": "3"})


def test_illegal_size_lists_the_legal_ones() -> None:
    model = build_model(ModelConfig.preset("nano", num_classes=3)).eval()
    image = torch.zeros(1, 3, 128, 160)
    with pytest.raises(ModelError, match=r"128x160 .* it takes 32x768, .*128x192.*768x32"):
        model({"rgb": image})


def test_bad_inputs_are_named() -> None:
    model = build_model(ModelConfig.preset("nano", num_classes=3)).eval()
    image = torch.zeros(2, 3, 128, 192)
    with pytest.raises(ModelError, match="unknown modality 'lida'; did you mean 'lidar'"):
        model({"rgb": image, "lida": image})
    with pytest.raises(ModelError, match="'rgb' is missing"):
        model({"lidar": image})
    with pytest.raises(ModelError, match=r"lidar: found shape \(1, 3, 128, 192\)"):
        model({"rgb": image, "lidar": image[:1]})
    with pytest.raises(ModelError, match=r"expected bool \(2,\)"):
        model({"rgb": image}, {"lidar": torch.ones(2)})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("encoder.num_heads", 0),
        ("encoder.window_size", -3),
        ("encoder.embed_dim", -64),
        ("encoder.mlp_ratio", float("inf")),
        ("encoder.global_attn_indexes", [99]),
        ("trunk.depths", [1, 0, 1, 1]),
        ("trunk.widths", [16, 32, -64, 96]),
        ("trunk.drop_path_rate", 5.0),
        ("fusion.groups", 0),
        ("fusion.norm_groups", 0),
        ("fusion.norm_groups", 32),  # of one channel
        ("interaction.num_heads", 0),
        ("interaction.num_points", 0),
        ("interaction.value_ratio", 0.0),
        ("interaction.ffn_ratio", 0.0),
        ("interaction.num_extra_extractors", -1),
        ("interaction.block_ranges", [[0, 0], [1, 1], [2, 2], [3, 10**12]]),
        ("interaction.block_ranges", [[0, 0], [1, 1], [2, 1], [2, 3]]),
        ("interaction.block_ranges", [[0, 1], [1, 1], [2, 2], [3, 3]]),
        ("interaction.block_ranges", [[0, 0], [1, 1], [2, 3]]),
        ("head.channels", 0),
        ("head.dropout", 2.0),
        ("image_size", [32, 32 * 10**9]),
        ("modalities", ["rgb", "a.b"]),
        ("modalities", ["rgb", "keys"]),
        ("modalities", ["rgb", ""]),
        ("modalities", ["rgb", "training"]),
        ("modalities", ["rgb", "shared"]),
        ("empty", [0.0, float("nan"), 0.0]),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(path: str, value: object) -> None:
    values = ModelConfig.preset("nano", num_classes=3).to_dict()
    *parents, leaf = path.split(".")
    node = values
    for key in parents:
        node = node[key]
    node[leaf] = value
    with pytest.raises(ModelError, match=path.replace(".", r"\.")):
        ModelConfig.from_dict(values)
