# SPDX-License-Identifier: Apache-2.0
"""What a run leaves in its folder: metrics, TensorBoard's events, configuration, environment."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml
from runs import run_config
from support.trees import FOLDER_CLASSES
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmsam_ros.training.config import LogConfig, TrainingError
from mmsam_ros.training.log import Plan, TimeLeft
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
    assert lines[0].keys() == {
        "step", "epoch", "loss", "lr", "step_seconds", "data_seconds", "images_per_second",
        "memory_gib",
    }  # fmt: skip
    assert 0 < lines[0]["data_seconds"] < lines[0]["step_seconds"]
    assert lines[0]["images_per_second"] * lines[0]["step_seconds"] == pytest.approx(2)
    assert 0.1 < lines[0]["memory_gib"] < 100
    assert lines[2]["miou"].keys() == {"all", "weather=clear", "weather=fog"}
    assert list(lines[2]["iou"]) == [info.name for info in FOLDER_CLASSES]


def test_tensorboard_shows_what_the_documentation_names(run: Path) -> None:
    events = board(run)
    scalars = set(events.Tags()["scalars"])
    assert {
        "train/loss",
        "time/step",
        "time/data",
        "time/images_per_second",
        "memory/gib",
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


STEP = re.compile(
    r"step \d/4 epoch \d loss \d\.\d{4} lr \d\.\d\de-0\d \d+\.\d\d images/s memory \d+\.\d GiB "
    r"step \d+\.\d{3} s data wait \d+\.\d{3} s left \d+:\d\d:\d\d"
)


def logged(run: Path) -> list[str]:
    """Lines of the log file, without their times."""
    lines = (run / "train.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    return [line[20:] for line in lines]


def test_the_log_file_holds_what_the_run_said(run: Path) -> None:
    first, *lines = logged(run)
    assert first.startswith("start weights: ")
    assert [bool(STEP.fullmatch(line)) for line in lines] == [True, True, False] * 2
    assert lines[2].startswith("step 2 epoch 1 validation mIoU: all ")


def test_the_log_file_holds_the_error_that_ended_it(tmp_path: Path) -> None:
    config = run_config(tmp_path, "--optimiser.lr=1e30")
    with pytest.raises(TrainingError) as caught:
        train(config)
    *_, last = logged(tmp_path / "run")
    assert last == f"ended by TrainingError: {caught.value}"


def test_the_time_left_has_the_validations_in_it() -> None:
    """Steps 4 to 9 of 10, two frames each; 30 frames are validated after 5 and 10 steps."""
    left = TimeLeft(Plan(range(4, 10), [5, 10], validated=True, frames=(2, 30)))
    left.step(6.0)
    # a step takes 6 s, a trained frame 3 s, a validated one 1 s
    assert left.seconds() == pytest.approx(5 * 6 + 2 * 30)
    left.validating(5.0, share=0.5)  # 10 s for a whole one
    assert left.seconds() == pytest.approx(5 * 6 + 5 + 10)
    left.validated(5)
    assert left.seconds() == pytest.approx(5 * 6 + 10)
    left.step(8.0)
    assert left.seconds() == pytest.approx(4 * 7 + 10)
    assert str(left) == "left 0:00:38"
    for _ in range(4):
        left.step(7.0)
    left.validating(20.0, share=1.0)
    left.validated(10)
    assert left.seconds() == pytest.approx(0)
    unvalidated = TimeLeft(Plan(range(5, 10), [5, 10], validated=False, frames=(2, 30)))
    unvalidated.validating(10.0, share=1.0)
    assert unvalidated.seconds() == pytest.approx(10)
