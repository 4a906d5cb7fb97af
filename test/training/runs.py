# SPDX-License-Identifier: Apache-2.0
"""Small training runs: in this process, in another one, or under torchrun.

As a program: `runs.py train [--resume FOLDER] OPTION...` trains, `runs.py steps FILE OPTION...`
writes what `two_steps` gives, `runs.py mmsam WORD...` is the command.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from trees import make_folder

from mmsam_ros.cli.main import main as mmsam
from mmsam_ros.data.open import open_frames
from mmsam_ros.model import randomise
from mmsam_ros.training.config import TrainConfig
from mmsam_ros.training.configure import load_config
from mmsam_ros.training.devices import set_up_network, start_fabric
from mmsam_ros.training.loader import Draws, TrainingFrames, make_loader
from mmsam_ros.training.loop import accumulate, loss_function, train
from mmsam_ros.training.optimiser import parameter_groups
from mmsam_ros.training.start import build

SOURCES = ("lidar", "thermal")
STILL = (
    "--augment.scale=[1.0, 1.0]",
    "--augment.blur=0",
    "--augment.flip=0",
    "--augment.photometric.probability=0",
)
DEADLINE = 180  # seconds for another process


def options(folder: Path, *more: str) -> list[str]:
    """Options of a nano run on `folder`/data, without augmentation, into `folder`/run."""
    return [
        "--setting=folder_rgb_lidar_thermal",
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
        make_folder(folder / "data", SOURCES)
    return load_config(options(folder, *more))


def two_steps(config: TrainConfig) -> dict[str, Tensor]:
    """Parameters after two optimiser steps, the second's gradients, and how often gradients were
    exchanged (`syncs`, by DDP); batch norms and drop paths as in evaluation.

    Plain gradient descent: Adam makes a whole step of a gradient that is zero but for rounding.
    """
    fabric = start_fabric(config.device)
    fabric.seed_everything(config.seed, verbose=False)
    frames = open_frames("folder", config.data.root, "train", SOURCES)
    net, spec = build(config, frames)
    network = set_up_network(fabric, randomise(net)).eval()
    optimiser = fabric.setup_optimizers(torch.optim.SGD(parameter_groups(net, config)))
    syncs: list[int] = []
    wrapped = network._forward_module
    if isinstance(wrapped, DistributedDataParallel):
        wrapped.register_comm_hook(syncs, _counted)
    draws = Draws(len(frames), config, fabric.global_rank, fabric.world_size)
    batches = make_loader(TrainingFrames(frames, spec, config), draws)
    for _ in range(2):
        optimiser.zero_grad()
        micro = [next(batches) for _ in range(draws.accumulation)]
        accumulate(fabric, network, loss_function(config.loss), micro)
        optimiser.step()
    found = {"syncs": torch.tensor(len(syncs))}
    for name, p in net.named_parameters():
        found[name] = _whole(p).detach().clone()
        if p.grad is not None:
            found[f"gradient of {name}"] = _whole(p.grad).clone()
    return found


def _whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def _counted(syncs, bucket):  # type: ignore[no-untyped-def]  # torch reads annotations, as types
    """DDP's own average, counted by backward pass: its last bucket ends one."""
    if bucket.is_last():
        syncs.append(len(syncs))
    return default_hooks.allreduce_hook(torch.distributed.group.WORLD, bucket)


def start(arguments: Sequence[str], processes: int = 0) -> subprocess.Popen[str]:
    """This file as a program of its own, or as several under torchrun."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launcher if processes else []), __file__, *arguments]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def main(arguments: Sequence[str]) -> None:
    verb, first, *rest = arguments
    if verb == "steps":
        state = two_steps(load_config(rest))
        if int(os.environ.get("RANK", 0)) == 0:
            save_file(state, first)
    elif verb == "mmsam":
        sys.exit(mmsam([first, *rest]))
    elif first == "--resume":
        train(load_config(rest[1:]), Path(rest[0]))
    else:
        train(load_config([first, *rest]))


if __name__ == "__main__":
    main(sys.argv[1:])
