# SPDX-License-Identifier: Apache-2.0
"""Several processes, and accumulation, train as one process with the same effective batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from runs import DEADLINE, SOURCES, options, run_config, start, two_steps
from safetensors.torch import load_file
from torch import Tensor
from trees import FOLDER_CLASSES, make_folder

from mmsam_ros.training.errors import TrainingError
from mmsam_ros.training.loop import train
from mmsam_ros.weights import load_model

# Plain cross-entropy: OHEM's cut is over a process's own batch. The layout's labels leave out the
# same rows in every frame, so a mean of means is the mean.
EXACT = ("--loss.kind=ce", "--batch.effective=4", "--optimiser.lr=1e-3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    make_folder(folder / "data", SOURCES, per_split={"train": 8, "val": 3, "test": 1})
    return folder


@pytest.fixture(scope="module")
def whole_batch(folder: Path) -> dict[str, Tensor]:
    return two_steps(run_config(folder, *EXACT, "--batch.per_device=4"))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_accumulation_trains_as_the_whole_batch(
    folder: Path, whole_batch: dict[str, Tensor]
) -> None:
    assert_same(two_steps(run_config(folder, *EXACT, "--batch.per_device=2")), whole_batch)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one(
    folder: Path, whole_batch: dict[str, Tensor], strategy: str
) -> None:
    """With accumulation on top: two processes of one frame, twice."""
    out = folder / f"{strategy}.safetensors"
    more = (*EXACT, "--batch.per_device=1", "--device.devices=2", f"--device.strategy={strategy}")
    process = start(["steps", str(out), *options(folder, *more)], processes=2)
    said, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, said
    assert_same(load_file(out), whole_batch)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_of_two_processes(folder: Path, strategy: str) -> None:
    out = folder / f"run_{strategy}"
    more = ["--device.devices=2", f"--device.strategy={strategy}", f"--out={out}"]
    more += ["--batch.per_device=1", "--schedule.epochs=1", "--device.checkpointing=true"]
    process = start(["train", *options(folder, *more)], processes=2)
    said, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, said
    assert said.count("not synchronised on the CPU") == 1
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert json.loads((out / "environment.json").read_text())[0]["world_size"] == 2
    _, spec = load_model(out / "best.safetensors")
    (scored,) = [line for line in lines if "miou" in line]
    assert spec.presence.scores["camera+lidar+thermal"].miou == scored["miou"]["all"]
    assert len(scored["iou"]) == len(FOLDER_CLASSES)
    with pytest.raises(TrainingError, match="world_size: 2 in the checkpoint, 1 now"):
        train(run_config(folder, *more[2:], "--device.devices=1"), resume=out)
