# SPDX-License-Identifier: Apache-2.0
"""A training run: its directory, its checkpoints, and the signals that end it."""

import json
import pickle
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
import yaml
from lightning.fabric import Fabric
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer

from mmsam_ros import __version__
from mmsam_ros._util import (
    atomic_path,
    first_line,
    machine,
    revision,
    stop_signals,
    versions,
    write_atomic,
)
from mmsam_ros.training.config import TrainConfig, TrainingError
from mmsam_ros.training.devices import gathered
from mmsam_ros.weights.foreign import BROKEN

CONFIG, ENVIRONMENT, CHECKPOINT = "config.yaml", "environment.json", "checkpoint.pt"
_PACKAGES = ("torch", "torchvision", "timm", "lightning", "torchmetrics", "numpy")
# what may differ between a run and its continuation
_FREE = tuple(f"config.{key}" for key in (
    "out", "data.lists", "data.workers", "log.",
    "device.devices", "device.nodes", "device.checkpointing",
))  # fmt: skip
_EPOCHS = "config.schedule.epochs"  # a continuation may have more
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)  # of FSDP's shards


def run_directory(config: TrainConfig, resume: Path | None) -> Path:
    """The run directory; TrainingError where it holds another run, or there is none to resume."""
    directory = resume or Path(config.out)
    exists = (directory / CONFIG).is_file()
    if resume and not exists:
        raise TrainingError(f"{directory}: expected a run directory, but {CONFIG} is missing")
    if not resume and exists:
        raise TrainingError(
            f"{directory}: holds a run; resume it (--resume {directory}) or give another --out"
        )
    return directory


def describe(directory: Path, config: TrainConfig, world_size: int) -> None:
    """Write config.yaml, and add this start to environment.json; what a start that was killed while
    it wrote a checkpoint or weights left of them is removed.
    """
    for pattern in (f".{CHECKPOINT}.*.part", ".*.safetensors.*.part"):
        for part in directory.glob(pattern):
            part.unlink(missing_ok=True)
    path = directory / ENVIRONMENT
    starts = json.loads(path.read_text()) if path.is_file() else []
    write_atomic(path, json.dumps([*starts, environment(world_size)], indent=2) + "\n")
    write_atomic(directory / CONFIG, yaml.safe_dump(plain(config), sort_keys=False))


def plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as YAML reads it back: no tuples."""
    return dict(yaml.safe_load(yaml.safe_dump(asdict(config), sort_keys=False)))


def environment(world_size: int) -> dict[str, Any]:
    """Command, versions and machine of this process, as plain values."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "world_size": world_size,
        "mmsam_ros": __version__,
        "revision": revision(),
        "versions": versions(_PACKAGES),
        "machine": machine(),
    }


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    step: int = 0  # optimiser steps that are done
    best: float = -1.0  # best mIoU of a validation, in percent
    unvalidated: bool = False  # the validation after `step` is still to be done
    worse: int = 0  # validations since the best one
    kept: tuple[tuple[float, int], ...] = ()  # mIoU and epoch of `log.keep_best`'s files

    def validated(self, miou: float, epoch: int, keep: int) -> Self:
        """The progress after a validation; with `keep` above 1, files of so many best ones stay."""
        ranked = sorted((*self.kept, (miou, epoch)), key=lambda found: (-found[0], found[1]))
        return type(self)(
            self.step,
            max(miou, self.best),
            worse=0 if miou > self.best else self.worse + 1,
            kept=tuple(ranked[:keep]) if keep > 1 else (),
        )


def best_file(epoch: int) -> str:
    """Name of the weights of one of the best validations."""
    return f"best_epoch_{epoch}.safetensors"


@dataclass(frozen=True)
class Checkpoints:
    """The last checkpoint of a run, to go on from as if nothing had happened: one file, whole at
    any time. Every process takes part in saving and loading.
    """

    fabric: Fabric
    path: Path
    net: nn.Module  # within Fabric's wrapper, and so is the optimiser
    optimiser: Optimizer
    average: nn.Module | None  # the moving average of the weights, if one is kept
    identity: Mapping[str, Any]  # of the run, as plain values; that of the checkpoint must be equal

    def save(self, progress: Progress) -> None:
        """Write all states; where the disk is full TrainingError, and the last one stays."""
        generators = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            generators["cuda"] = torch.cuda.get_rng_state()
        model, optimiser = get_state_dict(self.net, self.optimiser, options=_WHOLE)
        content = {
            "model": model,
            "optimiser": optimiser,
            "average": self.average.state_dict() if self.average else None,
            "identity": dict(self.identity),
            "progress": asdict(progress),
            "generators": gathered(generators),
        }
        try:
            if self.fabric.is_global_zero:
                with atomic_path(self.path) as part:
                    torch.save(content, part)
        except (OSError, RuntimeError) as error:  # torch's own writer has no error of its own
            free = shutil.disk_usage(self.path.parent).free / 2**30
            text = f"{self.path} cannot be written with {free:.2f} GiB free: {error}"
            raise TrainingError(text) from error
        self.fabric.barrier()

    def load(self) -> Progress:
        """Set all states to the checkpoint's; TrainingError names the keys where runs differ."""
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
            before = content["identity"]
        except (pickle.UnpicklingError, *BROKEN) as error:
            raise TrainingError(
                f"{self.path}: is broken, or no checkpoint of a run ({type(error).__name__}: "
                f"{first_line(error)}); without it the run starts over: remove it, "
                f"or begin with {self.path.parent / 'last.safetensors'} as start.weights"
            ) from error
        if differing := differences(before, self.identity, prefix="", longer=True):
            raise TrainingError(f"{self.path} is of another run: {'; '.join(differing)}")
        set_state_dict(
            self.net, self.optimiser, model_state_dict=content["model"],
            optim_state_dict=content["optimiser"], options=_WHOLE,
        )  # fmt: skip
        if self.average is not None:
            self.average.load_state_dict(content["average"])
        generators = content["generators"][self.fabric.global_rank]
        torch.set_rng_state(generators["cpu"])
        if "cuda" in generators and torch.cuda.is_available():
            torch.cuda.set_rng_state(generators["cuda"])
        return Progress(**content["progress"])


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "config.", longer: bool = False
) -> list[str]:
    """What differs between two configurations as plain values, aside from what may; if it may be
    `longer`, more epochs may.
    """
    found = []
    for key in sorted(before.keys() | now.keys()):
        name, old, new = prefix + key, before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{name}.", longer)
        elif longer and name == _EPOCHS and isinstance(old, int) and isinstance(new, int):
            if new < old:
                found.append(f"{name}: {old} before, {new} now, expected at least as many")
        elif old != new and not (name.startswith(_FREE) or name.endswith(".root")):
            found.append(f"{name}: {old!r} before, {new!r} now")
    return found


class StopSignals:
    """Notes SIGINT, SIGTERM (SLURM's, before it takes a machine) and SIGHUP (a closed terminal)
    instead of dying of them.
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal that came; a second one has the default action

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in stop_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.number = number
        signal.signal(number, self._before[signal.Signals(number)])
