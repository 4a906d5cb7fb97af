# SPDX-License-Identifier: Apache-2.0
"""Several processes, and accumulation, train as one process with the same effective batch."""

from __future__ import annotations

import itertools
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from runs import NARROW, SENSORS, Interrupt, Job, finish, options, run_config, start, two_steps
from safetensors.torch import load_file
from support.networks import network_of
from support.trees import FOLDER_CLASSES, make_folder
from torch import Tensor

from mmsam_ros.model import MMSAMAdapter
from mmsam_ros.training.config import TrainingError
from mmsam_ros.training.configure import load_config
from mmsam_ros.training.devices import SyncBatchNorm, synchronise_batch_norms
from mmsam_ros.training.evaluate import evaluate_weights
from mmsam_ros.training.loop import train
from mmsam_ros.weights import load_model

# Plain cross-entropy: OHEM's cut is over a process's own batch. The layout's labels leave out the
# same rows in every frame, so a mean of means is the mean. Sensors are dropped: some micro-batches
# lack one, one process has what the other has not.
pytestmark = pytest.mark.distributed

EXACT = (
    *NARROW,
    "--loss.kind=ce",
    "--optimiser.lr=1e-3",
    "--modality_dropout=0.4",
    "--seed=1",
)
CLIPPED = (*EXACT, "--optimiser.clip_grad_norm=0.1")

# two processes of one frame, with accumulation on top
TWO = (*NARROW, "--batch.effective=4", "--batch.per_device=1", "--device.devices=2")
RUN = (*TWO, "--schedule.epochs=1", "--device.checkpointing=true", "--modality_dropout=0.4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    make_folder(folder / "data", SENSORS, per_split={"train": 12, "val": 3, "test": 3})
    return folder


def trains(folder: Path, strategy: str, out: str) -> list[str]:
    more = (*RUN, f"--device.strategy={strategy}", f"--out={folder / out}")
    return options(folder, *more)


@pytest.fixture(scope="module")
def said(folder: Path) -> str:
    """Everything that needs two processes, in one group of two; what they said.

    FSDP's run is stopped by a signal to the second process, DDP's by one to the launcher, which
    ends the group; another group goes on with it.
    """
    steps = {
        s: ["steps", str(folder / f"{s}.safetensors"),
            *options(folder, *CLIPPED, *TWO, f"--device.strategy={s}")]
        for s in ("ddp", "fsdp")
    }  # fmt: skip
    stopped = {s: trains(folder, s, f"stopped_{s}") for s in ("ddp", "fsdp")}
    experiment = f"--out={folder / 'experiments'}"
    jobs = [
        *(Job(words) for words in steps.values()),
        *(Job(["train", *trains(folder, s, f"run_{s}")]) for s in ("ddp", "fsdp")),
        Job(["train", *stopped["fsdp"]], Interrupt(2, signal.SIGTERM, rank=1)),
        Job(["train", "--resume", str(folder / "stopped_fsdp"), *stopped["fsdp"]]),
        Job(["mmsam", "experiments", "run", str(write_experiment(folder)), experiment]),
        Job(["train", *stopped["ddp"]], Interrupt(2, signal.SIGTERM, rank=-1)),
    ]
    _, first = finish(start(folder, jobs, processes=2))
    ended = [line for line in first.splitlines() if line.startswith("status ")]
    assert [line.split()[1] for line in ended] == ["0"] * 4 + ["143"] + ["0"] * 2 + ["143"], first
    again = Job(["train", "--resume", str(folder / "stopped_ddp"), *stopped["ddp"]])
    status, second = finish(start(folder, [again], processes=2))
    assert status == 0, second
    return first


@pytest.fixture(scope="module")
def whole_batch(folder: Path) -> dict[str, Tensor]:
    return two_steps(run_config(folder, *EXACT, "--batch.effective=4", "--batch.per_device=4"))


def _gradients_first(name: str) -> tuple[bool, str]:
    return not name.startswith("gradient of "), name


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Parameters and gradients, each by its own size; rounding alone makes 4e-11 of it."""
    assert found.keys() == expected.keys()
    for name in sorted(found.keys() - {"syncs"}, key=_gradients_first):
        assert found[name].dtype == torch.float64, name
        error, size = (found[name] - expected[name]).norm(), expected[name].norm()
        assert error <= 1e-8 * size, f"{name}: {error} of {size}"


def test_accumulation_trains_as_the_whole_batch(
    folder: Path, whole_batch: dict[str, Tensor]
) -> None:
    config = run_config(folder, *EXACT, "--batch.effective=4", "--batch.per_device=2")
    assert_same(two_steps(config), whole_batch)


def test_ohem_by_frame_trains_as_devices_of_one_frame(folder: Path) -> None:
    """All frames in one forward pass against one by one, with a cut that is a frame's own."""
    ohem = (
        "--loss.kind=ohem",
        "--loss.threshold=0.1",
        "--loss.min_kept=900",
        "--batch.effective=4",
    )
    one_by_one, by_frame, by_batch = (
        two_steps(run_config(folder, *EXACT, *ohem, *more))
        for more in (
            ["--batch.per_device=1"],
            ["--batch.per_device=4", "--loss.frames=1"],
            ["--batch.per_device=4"],
        )
    )
    assert_same(by_frame, one_by_one)
    with pytest.raises(AssertionError):
        assert_same(by_batch, one_by_one)


@pytest.fixture(scope="module")
def clipped_batch(folder: Path, whole_batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """With gradients that are clipped."""
    found = two_steps(run_config(folder, *CLIPPED, "--batch.effective=4", "--batch.per_device=4"))
    sizes = [
        torch.stack([x.norm() for name, x in some.items() if name.startswith("gradient")]).norm()
        for some in (found, whole_batch)
    ]
    assert sizes[0] < 0.1 + 1e-6 < sizes[1]
    return found


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.usefixtures("said")
def test_two_processes_train_as_one(
    folder: Path, clipped_batch: dict[str, Tensor], strategy: str
) -> None:
    found = load_file(folder / f"{strategy}.safetensors")
    assert int(found["syncs"]) == (2 if strategy == "ddp" else 0), "one exchange a step"
    assert_same(found, clipped_batch)


def test_one_lost_gradient_is_seen(folder: Path, whole_batch: dict[str, Tensor]) -> None:
    """Of one parameter, from one of two micro-batches."""

    def plant(net: MMSAMAdapter) -> None:
        batches = itertools.count()
        scale = net.prior.fusion["lidar"][2].global_rgb.residual_scale
        scale.register_hook(lambda g: torch.zeros_like(g) if next(batches) % 2 else g)

    config = run_config(folder, *EXACT, "--batch.effective=4", "--batch.per_device=2")
    with pytest.raises(AssertionError, match=r"fusion\.lidar\.2\.global_rgb\.residual_scale"):
        assert_same(two_steps(config, plant), whole_batch)


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses_of(run: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in log_of(run) if "loss" in line}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.usefixtures("said")
def test_a_run_of_two_processes(folder: Path, strategy: str) -> None:
    out = folder / f"run_{strategy}"
    assert list(losses_of(out)) == [1, 2, 3]
    assert json.loads((out / "environment.json").read_text())[0]["world_size"] == 2
    _, spec = load_model(out / "best.safetensors")
    (scored,) = [line for line in log_of(out) if "miou" in line]
    assert spec.presence.scores["camera+lidar+thermal"].miou == scored["miou"]["all"]
    assert len(scored["iou"]) == len(FOLDER_CLASSES)
    alone = [o for o in trains(folder, strategy, f"run_{strategy}") if "device.devices" not in o]
    config = load_config([*alone, "--device.devices=1", "--device.strategy=auto"])
    with pytest.raises(TrainingError, match="world_size: 2 before, 1 now"):
        train(config, resume=out)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.usefixtures("said")
def test_a_stopped_run_of_two_processes_goes_on_to_the_same_losses(
    folder: Path, strategy: str
) -> None:
    stopped = folder / f"stopped_{strategy}"
    assert losses_of(stopped) == losses_of(folder / f"run_{strategy}")
    assert len(json.loads((stopped / "environment.json").read_text())) == 2


def test_what_concerns_all_processes_is_said_once(said: str) -> None:
    by_job = re.split(r"^status \d+ of .*$", said, flags=re.MULTILINE)
    assert [job.count("step 3/3 ") for job in by_job[2:4]] == [1, 1]
    assert by_job[3].count("Warning: batch norms are not synchronised on the CPU") == 1
    assert said.count("stopped after step 2") == 2, "FSDP's run and DDP's"


def test_one_command_starts_both_processes(folder: Path) -> None:
    """Without torchrun, as a person at one machine types it."""
    out = folder / "own_launcher"
    more = (*TWO, "--schedule.epochs=1", f"--out={out}")
    status, said = finish(start(folder, [Job(["mmsam", "train", *options(folder, *more)])]))
    assert status == 0, said
    assert said.count("own_launcher: best.safetensors, last.safetensors") == 1
    assert json.loads((out / "environment.json").read_text())[0]["world_size"] == 2
    assert load_model(out / "last.safetensors")


def write_experiment(folder: Path) -> Path:
    """One of a user's own, with two processes."""
    (folder / "base.yaml").write_text("dataset: folder\nsensors: [lidar]\n")
    given = [
        option.removeprefix("--").split("=", 1)
        for option in options(folder, *TWO, "--schedule.epochs=1")
        if not option.startswith(("--dataset", "--sensors", "--model.combine", "--out"))
    ]
    values = {key: yaml.safe_load(value) for key, value in given}
    content = {"title": "mine", "base": str(folder / "base.yaml"), "options": values}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_two_processes_share_an_experiments_evaluation(folder: Path, said: str) -> None:
    """One result and one table, the same scores as of one process."""
    assert said.count("mine.yaml, seed 0: mIoU") == 1
    run = folder / "experiments/mine/seed0"
    result = json.loads((run / "result.json").read_text())
    config = load_config([f"--config={run / 'config.yaml'}"])
    alone = evaluate_weights(run / "best.safetensors", config, "test")
    assert result["scores"]["all"]["frames"] == 3
    assert result["scores"].keys() == alone.keys()
    for subset, scores in alone.items():  # all but ties that rounding decides
        assert result["scores"][subset]["frames"] == scores["frames"]
        assert result["scores"][subset]["miou"] == pytest.approx(scores["miou"], abs=0.1)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.usefixtures("said")
def test_two_processes_validate_as_one(folder: Path, strategy: str) -> None:
    """Three frames, so that none is counted twice to make the shares equal; every digit."""
    run = folder / f"run_{strategy}"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    config = load_config([f"--config={run / 'config.yaml'}"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other processes
    scores = evaluate_weights(run / "last.safetensors", config, "val")
    torch.set_num_threads(threads)
    assert scores["all"]["frames"] == 3
    assert lines[-1]["miou"] == {subset: score["miou"] for subset, score in scores.items()}
    assert lines[-1]["iou"] == scores["all"]["iou"]


def test_synchronised_norms_take_batches_of_no_samples(tmp_path: Path) -> None:
    """In a group of one process; what a GPU would compute of samples cannot run here."""
    net = network_of("synthetic_rgb_lidar_thermal")
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
