# SPDX-License-Identifier: Apache-2.0
"""Small training runs: in this process, in another one, or under torchrun.

As a program, `runs.py FILE` does the jobs of a JSON file one after the other; under torchrun in one
process group.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.randomise import randomise
from support.trees import make_folder
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from mmsam_ros.cli.main import main as mmsam
from mmsam_ros.data.open import open_frames
from mmsam_ros.model import MMSAMAdapter
from mmsam_ros.training.config import TrainConfig
from mmsam_ros.training.configure import load_config
from mmsam_ros.training.devices import set_up_network, start_fabric
from mmsam_ros.training.evaluate import Predictor
from mmsam_ros.training.loader import Batch, FrameSampler, TrainingFrames, make_loader
from mmsam_ros.training.log import RunLog
from mmsam_ros.training.loop import accumulate, clip_gradients, loss_function, train
from mmsam_ros.training.recipe import parameter_groups
from mmsam_ros.training.run import StopSignals
from mmsam_ros.training.start import build

SENSORS = ("lidar", "thermal")
STILL = (
    "--augment.scale=[1.0, 1.0]",
    "--augment.blur=0",
    "--augment.flip=0",
    "--augment.distortion.probability=0",
)
# For nano: one block at each level, all of one width. What FSDP plans goes with the number of
# parameters and of their shapes.
NARROW = (
    "--model.trunk.depths=[1, 1, 1, 1]",
    "--model.trunk.widths=[16, 16, 16, 16]",
    "--model.interaction.num_extra_extractors=1",
)
GUARD = 1800  # seconds after which another process hangs, on any machine


def options(folder: Path, *more: str) -> list[str]:
    """Options of a nano run on `folder`/data, without augmentation, into `folder`/run."""
    return [
        "--dataset=folder",
        "--sensors=[lidar, thermal]",
        "--model.combine.absent=masked",
        "--model.combine.gate=true",
        f"--data.root={folder / 'data'}",
        f"--out={folder / 'run'}",
        "--data.workers=0",
        "--model.preset=nano",
        "--model.image_size=[64, 96]",
        "--augment.base_size=[64, 96]",
        "--augment.crop=[64, 96]",
        *STILL,
        "--start.sam=scratch",
        "--start.convnext=scratch",
        "--schedule.epochs=2",
        "--schedule.warmup_epochs=0",
        "--batch.effective=2",
        "--batch.per_device=2",
        "--device.accelerator=cpu",
        "--device.checkpointing=false",
        "--log.every=1",
        *more,
    ]


def run_config(folder: Path, *more: str) -> TrainConfig:
    """The configuration of `options`; `folder`/data is made where it is missing."""
    if not (folder / "data").is_dir():
        make_folder(folder / "data", SENSORS)
    return load_config(options(folder, *more))


def losses(run: Path) -> list[float]:
    """Of every step that was logged."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def two_steps(
    config: TrainConfig, plant: Callable[[MMSAMAdapter], None] = lambda _: None
) -> dict[str, Tensor]:
    """Parameters after two optimiser steps, the second's gradients, and how often gradients were
    exchanged (`syncs`, by DDP); batch norms and drop paths as in evaluation.

    Plain gradient descent: Adam makes a whole step of a gradient that is zero but for rounding. In
    float64: what differs between the ways is the order of summation alone. `plant` may put a fault
    into the network.
    """
    fabric = start_fabric(config.device)
    fabric.seed_everything(config.seed, verbose=False)
    frames = open_frames("folder", config.data.root, "train", SENSORS)
    net, spec = build(config, frames)
    network = set_up_network(fabric, randomise(net.double())).eval()
    plant(net)
    optimiser = fabric.setup_optimizers(torch.optim.SGD(parameter_groups(net, config)))
    syncs: list[int] = []
    wrapped = network._forward_module
    if isinstance(wrapped, DistributedDataParallel):
        wrapped.register_comm_hook(syncs, _counted)
    sampler = FrameSampler(len(frames), config, fabric.global_rank, fabric.world_size)
    batches = make_loader(TrainingFrames(frames, spec, config), sampler)
    for _ in range(2):
        optimiser.zero_grad()
        micro = [in_float64(next(batches)) for _ in range(sampler.accumulation)]
        accumulate(fabric, network, loss_function(config.loss), micro)
        if config.optimiser.clip_grad_norm:
            clip_gradients(fabric, net, config.optimiser.clip_grad_norm)
        optimiser.step()
    found = {"syncs": torch.tensor(len(syncs))}
    for name, p in net.named_parameters():
        found[name] = _whole(p).detach().clone()
        if p.grad is not None:
            found[f"gradient of {name}"] = _whole(p.grad).clone()
    return found


def in_float64(batch: Batch) -> Batch:
    return batch._replace(inputs={name: x.double() for name, x in batch.inputs.items()})


def _whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def _counted(syncs, bucket):  # type: ignore[no-untyped-def]  # torch reads annotations, as types
    """DDP's own average, counted by backward pass: its last bucket ends one."""
    if bucket.is_last():
        syncs.append(len(syncs))
    return default_hooks.allreduce_hook(torch.distributed.group.WORLD, bucket)


@dataclass(frozen=True)
class Interrupt:
    """A signal that comes at a certain point of a run, however fast the machine is.

    Attributes:
        at: a step that has been logged; 0: the first frame of a validation.
        signal: its number.
        rank: of the process that gets it; -1: the launcher does, and hands it on.
    """

    at: int
    signal: int
    rank: int = 0


@dataclass(frozen=True)
class Job:
    """What `runs.py` does: `train [--resume FOLDER] OPTION...` trains, `steps FILE OPTION...`
    writes what `two_steps` gives, `mmsam WORD...` is the command.
    """

    words: list[str]
    interrupt: Interrupt | None = None

    def __call__(self) -> int:
        """Exit status."""
        verb, first, *rest = self.words
        with _interrupted(self.interrupt):
            try:
                if verb == "mmsam":
                    return mmsam([first, *rest])
                if verb == "steps":
                    state = two_steps(load_config(rest))
                    if _rank() == 0:
                        save_file(state, first)
                elif first == "--resume":
                    train(load_config(rest[1:]), Path(rest[0]))
                else:
                    train(load_config([first, *rest]))
            except SystemExit as end:
                return int(end.code or 0)
        return 0


def _rank() -> int:
    return int(os.environ.get("RANK", 0))


@contextmanager
def _interrupted(interrupt: Interrupt | None) -> Iterator[None]:
    """Sends the signal at its point, by a real `kill`."""
    if interrupt is None:
        yield
        return
    owner, name = (RunLog, "step") if interrupt.at else (Predictor, "__call__")
    right, note, noted = getattr(owner, name), StopSignals._note, Event()

    def send() -> None:
        if _rank() == max(interrupt.rank, 0):
            os.kill(os.getppid() if interrupt.rank < 0 else os.getpid(), interrupt.signal)
        if interrupt.rank < 0:
            assert noted.wait(GUARD), "the launcher has not handed the signal on"

    def in_training(self: Any, step: int, *args: Any) -> Any:
        result = right(self, step, *args)
        if step == interrupt.at:
            send()
        return result

    def in_validation(*args: Any) -> Any:
        print("predicts a frame", flush=True)
        send()
        return right(*args)

    def and_tell(self: StopSignals, *args: Any) -> None:
        note(self, *args)
        noted.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopSignals, "_note", and_tell)
        patch.setattr(owner, name, in_training if interrupt.at else in_validation)
        yield


def start(folder: Path, jobs: Sequence[Job], processes: int = 0) -> subprocess.Popen[str]:
    """This file as a program of its own, or as several under torchrun; its file is in `folder`."""
    file = folder / f"jobs_{uuid.uuid4().hex}.json"
    file.write_text(json.dumps([asdict(job) for job in jobs]))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launcher if processes else []), __file__, str(file)]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(GUARD)  # torchrun kills after 30 s else
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and everything that was said."""
    try:
        said, _ = process.communicate(timeout=GUARD)
    finally:
        process.kill()
    return process.returncode, said


def main(file: str) -> int:
    """Does the jobs until one does not end with 0; its status."""
    for job in json.loads(Path(file).read_text()):
        interrupt = job["interrupt"] and Interrupt(**job["interrupt"])
        status = Job(job["words"], interrupt)()
        if _rank() == 0:
            print(f"status {status} of {job['words']}", flush=True)
        if status and interrupt is None:
            return status
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
