# SPDX-License-Identifier: Apache-2.0
"""Several processes, and accumulation, train as one process with the same effective batch."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from runs import DEADLINE, SOURCES, options, run_config, start, two_steps
from safetensors.torch import load_file
from torch import Tensor
from trees import FOLDER_CLASSES, make_folder

from mmsam_ros.model import build_model
from mmsam_ros.training.configure import load_config
from mmsam_ros.training.devices import SyncBatchNorm, synchronise_batch_norms
from mmsam_ros.training.errors import TrainingError
from mmsam_ros.training.evaluate import evaluate_weights
from mmsam_ros.training.loop import train
from mmsam_ros.weights import load_model, setting_config

# Plain cross-entropy: OHEM's cut is over a process's own batch. The layout's labels leave out the
# same rows in every frame, so a mean of means is the mean. Sensors are dropped: some micro-batches
# lack one, one process has what the other has not.
EXACT = (
    "--loss.kind=ce",
    "--batch.effective=4",
    "--optimiser.lr=1e-3",
    "--modality_dropout=0.4",
    "--seed=1",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    make_folder(folder / "data", SOURCES, per_split={"train": 8, "val": 3, "test": 1})
    return folder


@pytest.fixture(scope="module")
def whole_batch(folder: Path) -> dict[str, Tensor]:
    return two_steps(run_config(folder, *EXACT, "--batch.per_device=4"))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Parameters within 1e-5; gradients, of which a small step shows little, to a thousandth."""
    syncs = int(found.pop("syncs", 0))
    assert syncs in (0, 2), "more than one exchange in a step"
    assert found.keys() == expected.keys() - {"syncs"}
    for name, value in found.items():
        if name.startswith("gradient of "):
            error, size = (value - expected[name]).norm(), expected[name].norm()
            assert error <= 1e-3 * size + 1e-6, f"{name}: {error} of {size}"
        else:
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)


def test_the_comparison_would_see_a_lost_gradient(whole_batch: dict[str, Tensor]) -> None:
    """The second step's gradients are far above what the comparison lets pass of nothing."""
    sizes = [float(v.norm()) for name, v in whole_batch.items() if name.startswith("gradient of ")]
    assert sum(size > 1e-3 for size in sizes) > 0.95 * len(sizes)


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


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_of_two_processes(folder: Path, strategy: str) -> None:
    out = folder / f"run_{strategy}"
    more = ["--device.devices=2", f"--device.strategy={strategy}", f"--out={out}"]
    more += ["--batch.per_device=1", "--schedule.epochs=2", "--device.checkpointing=true"]
    more += ["--modality_dropout=0.4", "--log.validate_every=2"]
    process = start(["train", *options(folder, *more)], processes=2)
    said, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, said
    assert said.count("not synchronised on the CPU") == 1
    lines = log_of(out)
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert list(losses) == list(range(1, 9))

    # stopped after its second step, it goes on to the same losses
    stopped = folder / f"stopped_{strategy}"
    again = options(folder, *more, f"--out={stopped}")
    process = start(["train", *again], processes=2)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 2/"):
            break
    process.send_signal(signal.SIGTERM)  # torchrun hands it on
    process.communicate(timeout=DEADLINE)
    assert 2 <= max(line["step"] for line in log_of(stopped)) < 8
    process = start(["train", "--resume", str(stopped), *again], processes=2)
    said, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, said
    assert {line["step"]: line["loss"] for line in log_of(stopped) if "loss" in line} == losses
    assert json.loads((out / "environment.json").read_text())[0]["world_size"] == 2
    _, spec = load_model(out / "best.safetensors")
    (scored,) = [line for line in lines if "miou" in line]
    assert spec.presence.scores["camera+lidar+thermal"].miou == scored["miou"]["all"]
    assert len(scored["iou"]) == len(FOLDER_CLASSES)
    with pytest.raises(TrainingError, match="world_size: 2 in the checkpoint, 1 now"):
        train(run_config(folder, *more[2:], "--device.devices=1"), resume=out)


def test_one_command_starts_both_processes(folder: Path) -> None:
    """Without torchrun, as a person at one machine types it."""
    out = folder / "own_launcher"
    more = ["--device.devices=2", "--batch.per_device=1", "--schedule.epochs=1", f"--out={out}"]
    process = start(["mmsam", "train", *options(folder, *more)])
    said, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, said
    assert said.count("own_launcher: best.safetensors, last.safetensors") == 1
    assert json.loads((out / "environment.json").read_text())[0]["world_size"] == 2
    assert load_model(out / "last.safetensors")


def test_two_processes_share_an_experiments_evaluation(tmp_path: Path) -> None:
    """One result and one table, the same scores as of one process."""
    make_folder(tmp_path / "data", ("lidar",), per_split={"train": 4, "val": 2, "test": 3})
    path = tmp_path / "mine.yaml"
    (tmp_path / "base.yaml").write_text("setting: folder_rgb_lidar\n")
    given = [
        option.removeprefix("--").split("=", 1)
        for option in options(tmp_path, "--schedule.epochs=1", "--device.devices=2")
        if not option.startswith(("--setting", "--model.combine", "--out"))
    ]
    values = {key: yaml.safe_load(value) for key, value in given} | {"batch.per_device": 1}
    content = {"title": "mine", "base": str(tmp_path / "base.yaml"), "options": values}
    path.write_text(yaml.safe_dump(content))
    out = tmp_path / "experiments"
    process = start(["mmsam", "experiments", "run", str(path), f"--out={out}"], processes=2)
    said, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, said
    assert said.count("mine.yaml, seed 0: mIoU") == 1
    run = out / "mine/seed0"
    result = json.loads((run / "result.json").read_text())
    config = load_config([f"--config={run / 'config.yaml'}"])
    alone = evaluate_weights(run / "best.safetensors", config, "test")
    assert result["scores"]["all"]["frames"] == 3
    assert result["scores"] == alone


def test_synchronised_norms_take_batches_of_no_samples(tmp_path: Path) -> None:
    """In a group of one process; what a GPU would compute of samples cannot run here."""
    net = build_model(setting_config("synthetic_rgb_lidar_thermal", "nano"))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    synchronise_batch_norms(net)
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    norms = [m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms)
    (*taking,) = (norm for norm in norms if isinstance(norm, SyncBatchNorm))
    assert len(taking) == 2 * 4, "a fusion of each sensor at each level"
    address = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    try:
        norm = taking[0].train()
        out = norm(torch.zeros(0, norm.num_features, 5, 1))
    finally:
        torch.distributed.destroy_process_group()
    assert out.shape == (0, norm.num_features, 5, 1)
    assert torch.equal(norm.running_mean, torch.zeros(norm.num_features))
    assert torch.equal(norm.running_var, torch.ones(norm.num_features))
    assert int(norm.num_batches_tracked) == 0
