# SPDX-License-Identifier: Apache-2.0
"""Every parameter is in the group of the published recipe, and the rate follows its schedule."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.networks import network_of

from mmsam_ros.model import MMSAMAdapter
from mmsam_ros.training.config import ScheduleConfig, StartConfig, TrainConfig, TrainingError
from mmsam_ros.training.recipe import lr_factor, parameter_groups
from mmsam_ros.training.start import freeze
from mmsam_ros.weights.foreign import released_name

CONFIG = TrainConfig("deliver", ("lidar",))


@pytest.fixture(scope="module")
def published() -> MMSAMAdapter:
    with torch.device("meta"):
        return network_of("deliver_rgb_lidar", "vit_l")


def by_name(model: MMSAMAdapter) -> dict[str, tuple[float, float]]:
    """(scale, weight decay) of every parameter that is in a group."""
    names = {id(p): name for name, p in model.named_parameters()}
    rows = [
        (names[id(p)], (group["scale"], group["weight_decay"]))
        for group in parameter_groups(model, CONFIG)
        for p in group["params"]
    ]
    assert len(dict(rows)) == len(rows), "a parameter is in two groups"
    return dict(rows)


def test_every_published_parameter_is_in_its_group(shared: Path, published: MMSAMAdapter) -> None:
    groups = json.loads((shared / "reference/param_groups.json").read_text())["groups"]
    ours = by_name(published)
    assert len(groups) == len(ours) == 1411
    for name, (_, scale, decay) in groups.items():
        found = ours[released_name(name, "lidar")]
        assert found == (pytest.approx(scale, rel=1e-6), decay), name


def test_rates_by_layer(published: MMSAMAdapter) -> None:
    expected = {
        "encoder.pos_embed": 0.0718,
        "encoder.blocks.0.attn.qkv.weight": 0.0798,
        "encoder.blocks.23.mlp.lin1.weight": 0.9,
        "head.classifier.weight": 1.0,
        "prior.trunks.lidar.stages.2.blocks.5.mlp.fc1.weight": 0.0718,
        "interactions.2.injector.gamma": 1.0,
    }
    found = by_name(published)
    assert {name: round(found[name][0], 4) for name in expected} == expected
    for group in parameter_groups(published, CONFIG):
        assert group["lr"] == pytest.approx(2e-4 * group["scale"])


def test_what_decays(published: MMSAMAdapter) -> None:
    found = by_name(published)
    decaying = {name for name, (_, decay) in found.items() if decay}
    assert all(n in decaying for n in found if n.startswith("prior.trunks."))
    assert not any(n.startswith("prior.fusion.") for n in decaying)
    assert {"encoder.pos_embed", "encoder.blocks.0.attn.rel_pos_h", "level_embed"} <= decaying
    assert "encoder.blocks.0.norm1.weight" not in decaying
    assert "head.classifier.bias" not in decaying


def test_a_shallower_network_has_fewer_layers() -> None:
    model = network_of("deliver_rgb_lidar")
    found = by_name(model)
    assert found["encoder.pos_embed"][0] == pytest.approx(0.9**5)
    assert found["encoder.blocks.3.norm1.weight"][0] == pytest.approx(0.9)


def test_frozen_parameters_are_in_no_group() -> None:
    model = network_of("deliver_rgb_lidar")
    freeze(model, ("encoder", "prior.trunks.lidar"))
    assert not [n for n in by_name(model) if n.startswith(("encoder.", "prior.trunks.lidar."))]
    assert "prior.trunks.rgb.stem.0.weight" in by_name(model)


def test_a_network_with_nothing_to_train_is_refused() -> None:
    net = network_of("deliver_rgb_lidar")
    freeze(net, ("*",))
    config = replace(CONFIG, start=StartConfig(freeze=("*",)))
    with pytest.raises(TrainingError, match=r"start.freeze: found \['\*'\], expected parameters"):
        parameter_groups(net, config)


def test_schedule_by_hand() -> None:
    schedule = ScheduleConfig(epochs=100, power=0.9, warmup_epochs=10, warmup_ratio=0.1)
    assert lr_factor(0, 50, schedule) == pytest.approx(0.1)
    # the warm-up multiplies the decayed rate: epoch 5, half way through it
    assert lr_factor(250, 50, schedule) == pytest.approx(0.95**0.9 * 0.1**0.5)
    assert lr_factor(499, 50, schedule) == pytest.approx(0.91**0.9 * 0.1 ** (1 / 500))
    assert lr_factor(500, 50, schedule) == pytest.approx(0.9**0.9)
    # by epoch, not by step
    assert lr_factor(501, 50, schedule) == lr_factor(549, 50, schedule)
    assert lr_factor(4999, 50, schedule) == pytest.approx(0.01**0.9)
    without = ScheduleConfig(epochs=2, warmup_epochs=0)
    assert [lr_factor(step, 1, without) for step in (0, 1)] == [1.0, pytest.approx(0.5**0.9)]
