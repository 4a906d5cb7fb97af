# SPDX-License-Identifier: Apache-2.0
"""The training loop: it writes weights that load, and stops with advice."""

from __future__ import annotations

import dataclasses
import re
import resource
import signal
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runs import losses, options, run_config

from mmsam_ros.cli.main import main
from mmsam_ros.training.config import BatchConfig, DeviceConfig, TrainConfig, TrainingError
from mmsam_ros.training.devices import arithmetic, departures, memory_advice, start_fabric
from mmsam_ros.training.loop import train
from mmsam_ros.weights import load_model

pytestmark = pytest.mark.slow


def test_averaged_weights_are_what_is_scored_and_written(tmp_path: Path) -> None:
    run = train(run_config(tmp_path, "--optimiser.ema=0.999"))
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    written = load_model(run / "last.safetensors")[0].state_dict()
    name = "head.classifier.weight" if "head.classifier.weight" in written else list(written)[-2]
    assert torch.equal(written[name], content["average"][f"module.{name}"])
    assert not torch.equal(written[name], content["model"][name])


def test_nan_stops_with_the_frames_and_leaves_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate that no network survives: the first step is made and kept."""
    more = ["--optimiser.lr=1e30", "--schedule.epochs=50", "--log.checkpoint_every=1"]
    run_config(tmp_path)  # makes the data
    assert main(["train", *options(tmp_path, *more)]) == 2
    said = capsys.readouterr().err
    assert re.search(r"loss is (nan|inf).*learning rate 1e\+30", said)
    assert "train_000" in said
    assert "--optimiser.lr" in said
    assert "Traceback" not in said
    steps = len(losses(tmp_path / "run"))
    assert steps >= 1
    content = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert content["progress"]["step"] == steps


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_one_line_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    config = run_config(tmp_path)
    broken = Path(config.data.root) / "thermal" / "train_0002.png"
    broken.write_bytes(b"no image")
    assert main(["train", *options(tmp_path, f"--data.workers={workers}")]) == 2
    said = capsys.readouterr().err
    expected = "is broken, expected a whole PNG, JPEG or TIFF image"
    assert said == f"mmsam: error: {broken}: {expected}\n"


def test_what_ends_validation_leaves_the_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_config(tmp_path, "--schedule.epochs=1")
    broken = Path(config.data.root) / "images" / "val_0001.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"no image")
    assert main(["train", *options(tmp_path, "--schedule.epochs=1")]) == 2
    assert "images/val_0001.png: is broken" in capsys.readouterr().err
    run = tmp_path / "run"
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    assert content["progress"]["unvalidated"]
    trained = losses(run)
    assert len(trained) == content["progress"]["step"]
    broken.write_bytes(whole)
    assert main(["train", "--resume", str(run), *options(tmp_path, "--schedule.epochs=1")]) == 0
    assert losses(run) == trained, "nothing is trained again"
    lines = (run / "metrics.jsonl").read_text()
    assert lines.count("miou") == 1
    assert main(["train", "--resume", str(run), *options(tmp_path, "--schedule.epochs=1")]) == 0
    assert (run / "metrics.jsonl").read_text() == lines, "nor validated again"
    assert load_model(run / "best.safetensors")


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk's."""
    run = train(run_config(tmp_path, "--schedule.epochs=1"))
    progress = torch.load(run / "checkpoint.pt", weights_only=True)["progress"]
    assert not progress["unvalidated"]
    torch.save(  # as of a run that was stopped before its last validation
        torch.load(run / "checkpoint.pt", weights_only=True)
        | {"progress": progress | {"unvalidated": True}},
        run / "checkpoint.pt",
    )
    before = (run / "checkpoint.pt").read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limit[1]))
        with pytest.raises(TrainingError, match=r"checkpoint.pt cannot be written with .* free"):
            train(run_config(tmp_path, "--schedule.epochs=1"), resume=run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (run / "checkpoint.pt").read_bytes() == before
    assert [path.name for path in run.iterdir() if "checkpoint" in path.name] == ["checkpoint.pt"]


def test_a_full_memory_names_what_helps(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    config = dataclasses.replace(
        config, batch=BatchConfig(8, 4), device=DeviceConfig(checkpointing=False)
    )
    with pytest.raises(TrainingError) as caught, memory_advice(config):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore")
    text = str(caught.value)
    assert "batch.per_device 4" in text
    assert "precision fp32" in text
    for advice in (
        "--batch.per_device 1",
        "--device.checkpointing true",
        "--device.precision bf16-mixed",
    ):
        assert advice in text
    assert "Tried to allocate 2 GiB." in text
    assert "More" not in text


def test_a_machine_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(TrainingError, match=r"accelerator='cuda'.* does not fit this machine"):
        start_fabric(DeviceConfig(accelerator="cuda"))


def flags() -> tuple[bool, ...]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32


@pytest.mark.parametrize(
    ("precision", "tf32"), [("tf32", True), ("fp32", False), ("bf16-mixed", False)]
)
def test_the_flags_of_the_arithmetic_are_set_and_restored(precision: Any, tf32: bool) -> None:
    torch.backends.cudnn.deterministic = False
    before = flags()
    try:
        for products in (True, False):  # whatever they were
            torch.backends.cuda.matmul.allow_tf32 = products
            stopped = suppress(TrainingError)
            with stopped, arithmetic(DeviceConfig(precision=precision)):
                assert flags() == (True, False, tf32, tf32)
                raise TrainingError
            assert flags() == (*before[:3], products)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before[3]


@pytest.mark.parametrize(
    ("dataset", "device", "world", "per_device", "found"),
    [
        ("deliver", "cuda", 1, 1, "1 frame(s), {} 2: --batch.per_device 2"),
        ("deliver", "cuda", 1, 2, ""),
        ("deliver", "cuda", 2, 1, ""),
        ("deliver", "cuda", 4, 1, "4 frame(s), {} 2: --device.devices 2 --batch.per_device 1"),
        ("deliver", "cpu", 2, 1, "1 frame(s), {} 2: --batch.per_device 2"),
        ("muses", "cuda", 2, 2, "4 frame(s), {} 2: --batch.per_device 1"),
        ("fmb", "cuda", 1, 2, "2 frame(s), {} 4: --batch.per_device 4"),
        ("fmb", "cuda", 2, 2, ""),
        ("fmb", "cuda", 4, 1, ""),
        ("folder", "cuda", 1, 1, ""),
    ],
)
def test_frames_that_a_batch_norm_pools_are_said_where_they_differ(
    dataset: str, device: str, world: int, per_device: int, found: str
) -> None:
    fabric: Any = SimpleNamespace(device=torch.device(device), world_size=world)
    config = TrainConfig(dataset, ("lidar",), batch=BatchConfig(8, per_device))
    text = f"batch norms pool {found.format('in the published training')} does the same"
    assert departures(fabric, config) == ([text] if found else [])


def test_tf32_on_a_cpu_is_fp32_and_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = train(run_config(tmp_path, "--schedule.epochs=1"))
    assert "tf32" not in capsys.readouterr().out
    other = ["--schedule.epochs=1", "--device.precision=tf32", f"--out={tmp_path / 'other'}"]
    run = train(run_config(tmp_path, *other))
    assert losses(run) == losses(plain)
    said = "device.precision tf32: cpu does not have it, fp32 is used"
    assert capsys.readouterr().out.count(said) == 1
