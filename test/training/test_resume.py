# SPDX-License-Identifier: Apache-2.0
"""A run that was killed or stopped goes on to the same losses; what does not belong is refused."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

import pytest
import torch
import yaml
from runs import NARROW, Interrupt, Job, finish, options, run_config, start

from mmsam_ros.cli.main import main
from mmsam_ros.training.config import LogConfig, ScheduleConfig, TrainingError
from mmsam_ros.training.loop import train
from mmsam_ros.weights import load_model

pytestmark = pytest.mark.slow

# drop paths, augmentation, averaged weights: everything that a checkpoint has to hold
FULL = (
    *NARROW,
    "--schedule.epochs=3",
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


def test_killed_and_stopped_runs_go_on_to_the_same_losses(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other processes
    whole = train(run_config(tmp_path, *FULL))
    torch.set_num_threads(threads)
    expected = logged(whole)
    assert list(expected) == list(range(1, 13))

    out = tmp_path / "interrupted"
    arguments = options(tmp_path, *FULL, f"--out={out}", "--data.workers=2")
    resumed = ["--resume", str(out), *arguments]
    # step 5 of 12: within epoch 2, after the checkpoint of step 4; step 10: within epoch 3
    killed = Job(["train", *arguments], Interrupt(5, signal.SIGKILL))
    status, said = finish(start(tmp_path, [killed]))
    assert status == -signal.SIGKILL, said
    assert max(logged(out)) == 5
    stopped = Job(["train", *resumed], Interrupt(10, signal.SIGTERM))
    status, said = finish(start(tmp_path, [stopped, Job(["train", *resumed])]))
    assert status == 0, said
    assert said.count("stopped after step 10; resume with --resume") == 1
    assert f"status {128 + signal.SIGTERM} of " in said
    assert logged(out) == expected

    ours, _ = load_model(out / "last.safetensors")
    theirs, _ = load_model(whole / "last.safetensors")
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert len(json.loads((out / "environment.json").read_text())) == 3


def test_a_signal_ends_validation(tmp_path: Path) -> None:
    """The scheduler does not wait for thousands of frames."""
    config = run_config(tmp_path, "--schedule.epochs=1")
    job = Job(["train", *options(tmp_path, "--schedule.epochs=1")], Interrupt(0, signal.SIGTERM))
    status, said = finish(start(tmp_path, [job]))
    assert status == 128 + signal.SIGTERM, said
    assert f"stopped while validating; resume with --resume {config.out}" in said
    assert said.count("predicts a frame") == 1
    assert "miou" not in (tmp_path / "run/metrics.jsonl").read_text()
    content = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert content["progress"]["unvalidated"]


def test_another_configuration_is_refused_by_its_keys(tmp_path: Path) -> None:
    config = run_config(tmp_path, "--schedule.epochs=1")
    folder = train(config)
    schedule = ScheduleConfig(epochs=3, warmup_epochs=0, power=0.5)
    other = dataclasses.replace(config, seed=7, schedule=schedule)
    before = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(TrainingError) as caught:
        train(other, resume=folder)
    assert "config.schedule.power: 0.9 before, 0.5 now" in str(caught.value)
    assert "config.schedule.epochs" not in str(caught.value), "a run may become longer"
    assert "config.seed: 0 before, 7 now" in str(caught.value)
    assert "config.loss" not in str(caught.value)
    assert (folder / "checkpoint.pt").read_bytes() == before

    moved = dataclasses.replace(config, out="elsewhere", log=LogConfig(every=5))
    assert train(moved, resume=folder) == folder, "a finished run has nothing left to do"


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    folder = train(config := run_config(tmp_path, "--schedule.epochs=1"))
    path = folder / "checkpoint.pt"
    whole = path.read_bytes()
    torch.save({"model": {}}, tmp_path / "other.pt")
    for content in (b"", whole[: len(whole) // 2], b"text", (tmp_path / "other.pt").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match=r"checkpoint.pt: is broken, or no checkpoint"):
            train(config, resume=folder)


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    config = run_config(tmp_path, "--schedule.epochs=1")
    with pytest.raises(TrainingError, match=r"run: expected a run directory"):
        train(config, resume=tmp_path / "run")
    folder = train(config)
    with pytest.raises(TrainingError, match=r"holds a run.*--resume .*another --out"):
        train(config)
    (folder / "checkpoint.pt").unlink()  # killed before the first one
    left = [folder / f".{name}.99.part" for name in ("checkpoint.pt", "last.safetensors")]
    for path in left:
        path.write_bytes(b"killed while it was written")
    first = logged(folder)
    train(config, resume=folder)
    assert logged(folder) == first
    assert not any(path.exists() for path in left)


def test_a_finished_run_can_be_made_longer(tmp_path: Path) -> None:
    """With a constant learning rate it is the run that had been as long from the start."""
    constant = ("--schedule.power=0", "--augment.flip=0.5")
    whole = train(run_config(tmp_path, *constant, "--schedule.epochs=2"))
    shorter = run_config(tmp_path, *constant, "--schedule.epochs=1", f"--out={tmp_path / 'parts'}")
    parts = train(shorter)
    words = ["train", "--resume", str(parts)]
    assert main([*words, "--schedule.epochs", "2"]) == 0
    assert logged(parts) == logged(whole)
    ours, theirs = (load_model(run / "last.safetensors")[0] for run in (parts, whole))
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert yaml.safe_load((parts / "config.yaml").read_text())["schedule"]["epochs"] == 2
    said = (parts / "train.log").read_text()
    assert said.count("resumed after step 2 of 4") == 1
    with pytest.raises(TrainingError, match=r"schedule.epochs: 2 before, 1 now, expected at least"):
        train(shorter, resume=parts)
