# SPDX-License-Identifier: Apache-2.0
"""What a run leaves in its folder: metrics, TensorBoard's events, configuration, environment."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from runs import run_config
from support.trees import FOLDER_CLASSES
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmsam_ros.training.config import LogConfig
from mmsam_ros.training.loop import train


def board(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return events


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(run_config(tmp_path_factory.mktemp("logging"), "--log.pictures=1"))


def test_metrics_hold_every_step_and_validation(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["epoch"], "miou" in line) for line in lines] == [
        (1, 1, False),
        (2, 1, False),
        (2, 1, True),
        (3, 2, False),
        (4, 2, False),
        (4, 2, True),
    ]
    assert lines[0].keys() == {"step", "epoch", "loss", "lr", "step_seconds", "data_seconds"}
    assert 0 < lines[0]["data_seconds"] < lines[0]["step_seconds"]
    assert lines[2]["miou"].keys() == {"all", "weather=clear", "weather=fog"}
    assert list(lines[2]["iou"]) == [info.name for info in FOLDER_CLASSES]


def test_tensorboard_shows_what_the_documentation_names(run: Path) -> None:
    events = board(run)
    scalars = set(events.Tags()["scalars"])
    assert {
        "train/loss",
        "time/step",
        "time/data",
        "val/miou/all",
        "val/miou/weather=fog",
    } < scalars
    assert {f"val/iou/{info.name}" for info in FOLDER_CLASSES} & scalars
    assert {f"gamma/injector_{i}" for i in range(4)} < scalars
    for scalar in ("global_scale", "detail_scale", "cross/gamma_rgb", "cross/gamma_aux"):
        assert f"fusion/thermal/3/{scalar}" in scalars
    for scalar in ("local_rgb/scale", "local_aux/scale", "global_rgb/residual_scale"):
        assert f"fusion/lidar/0/{scalar}" in scalars
    groups = {tag.removeprefix("lr/") for tag in scalars if tag.startswith("lr/")}
    assert {f"grad_norm/{group}" for group in groups} < scalars
    assert all(event.value > 0 for event in events.Scalars("gamma/injector_0"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert [e.value for e in events.Scalars("train/loss")] == pytest.approx(losses)
    (picture,) = events.Tags()["images"]
    assert picture == "val/val_0000"
    drawn = events.Images(picture)[0]
    assert (drawn.height, drawn.width) == (64, 5 * 96)  # camera, two sensors, truth, prediction


def test_a_network_without_auxiliary_has_no_fusion_in_its_log(tmp_path: Path) -> None:
    run = train(run_config(tmp_path, "--model.inputs=rgb", "--schedule.epochs=1"))
    scalars = board(run).Tags()["scalars"]
    assert "gamma/injector_0" in scalars
    assert not [tag for tag in scalars if tag.startswith("fusion/")]


def test_the_folder_says_what_ran(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["image_size"] == [64, 96]
    assert config["optimiser"]["layer_decay"] == 0.9
    (start,) = json.loads((run / "environment.json").read_text())
    assert start["world_size"] == 1
    assert start["versions"].keys() > {"python", "torch", "timm", "lightning"}
    assert start["machine"]["cores"] > 0


def test_lines_between_and_validations_between(tmp_path: Path) -> None:
    config = run_config(tmp_path, "--schedule.epochs=3")
    run = train(dataclasses.replace(config, log=LogConfig(every=4, pictures=0, validate_every=2)))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], "miou" in line) for line in lines] == [(4, False), (4, True), (6, True)]
    assert not board(run).Tags()["images"]
