# SPDX-License-Identifier: Apache-2.0
"""A run that was killed or stopped goes on to the same losses; what does not belong is refused."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from pathlib import Path
from threading import Timer

import pytest
import torch
from runs import DEADLINE, SOURCES, options, run_config, start
from trees import make_folder

from mmsam_ros.training.config import LogConfig, ScheduleConfig
from mmsam_ros.training.errors import TrainingError
from mmsam_ros.training.loop import train
from mmsam_ros.weights import load_model

# drop paths, augmentation, averaged weights: everything that a checkpoint has to hold
FULL = (
    "--schedule.epochs=4",
    "--augment.flip=0.5",
    "--augment.scale=[0.5, 2.0]",
    "--optimiser.ema=0.9",
    "--device.checkpointing=true",
    "--batch.effective=1",
    "--batch.per_device=1",
    "--log.checkpoint_every=3",
)


def logged(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    assert len(dict(steps)) == len(steps), "a step was logged twice"
    return dict(steps)


def interrupt(arguments: list[str], step: int, number: signal.Signals) -> tuple[int, str]:
    """Run until a step is logged, then send the signal; exit status and last line."""
    process = start(["train", *arguments])
    deadline = Timer(DEADLINE, process.kill)
    deadline.start()
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith(f"step {step}/"):
            process.send_signal(number)
            break
    else:
        pytest.fail("".join(said))
    rest, _ = process.communicate()
    deadline.cancel()
    return process.returncode, rest.strip().rpartition("\n")[2]


def test_killed_and_stopped_runs_go_on_to_the_same_losses(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other processes
    whole = train(run_config(tmp_path, *FULL))
    torch.set_num_threads(threads)
    expected = logged(whole)
    assert list(expected) == list(range(1, 17))

    out = tmp_path / "interrupted"
    arguments = options(tmp_path, *FULL, f"--out={out}", "--data.workers=2")
    # step 5 of 16: within epoch 2, after the checkpoint of step 4; step 10: within epoch 3
    status, _ = interrupt(arguments, 5, signal.SIGKILL)
    assert status == -signal.SIGKILL
    resumed = ["--resume", str(out), *arguments]
    status, last = interrupt(resumed, 10, signal.SIGTERM)
    assert status == 128 + signal.SIGTERM
    assert last.startswith("stopped")
    assert max(logged(out)) < 16
    process = start(["train", *resumed])
    said, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, said
    assert logged(out) == expected

    ours, _ = load_model(out / "last.safetensors")
    theirs, _ = load_model(whole / "last.safetensors")
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert len(json.loads((out / "environment.json").read_text())) == 3


def test_a_signal_ends_validation(tmp_path: Path) -> None:
    """The scheduler does not wait for thousands of frames."""
    make_folder(tmp_path / "data", SOURCES, per_split={"train": 2, "val": 300})
    arguments = options(tmp_path, "--schedule.epochs=1")
    process = start(["train", *arguments])
    end = time.monotonic() + DEADLINE
    while process.poll() is None and not (tmp_path / "run/checkpoint.pt").is_file():
        assert time.monotonic() < end
        time.sleep(0.01)  # validation comes after
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert said.strip().endswith(f"stopped while validating; go on with --resume {tmp_path}/run")
    content = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert content["progress"]["unvalidated"]


def test_another_configuration_is_refused_by_its_keys(tmp_path: Path) -> None:
    config = run_config(tmp_path, "--schedule.epochs=1")
    folder = train(config)
    other = dataclasses.replace(config, seed=7, schedule=ScheduleConfig(epochs=3, warmup_epochs=0))
    before = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(TrainingError) as caught:
        train(other, resume=folder)
    assert "config.schedule.epochs: 1 before, 3 now" in str(caught.value)
    assert "config.seed: 0 before, 7 now" in str(caught.value)
    assert "config.loss" not in str(caught.value)
    assert (folder / "checkpoint.pt").read_bytes() == before

    moved = dataclasses.replace(config, out="elsewhere", log=LogConfig(every=5))
    assert train(moved, resume=folder) == folder, "a finished run has nothing left to do"


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    config = run_config(tmp_path, "--schedule.epochs=1")
    with pytest.raises(TrainingError, match=r"run: expected a run's folder"):
        train(config, resume=tmp_path / "run")
    folder = train(config)
    with pytest.raises(TrainingError, match=r"holds a run.*--resume .*another --out"):
        train(config)
    (folder / "checkpoint.pt").unlink()  # killed before the first one
    first = logged(folder)
    train(config, resume=folder)
    assert logged(folder) == first
