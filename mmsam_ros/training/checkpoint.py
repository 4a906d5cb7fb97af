# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run, to go on from as if nothing had happened."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer

from mmsam_ros._util import atomic_path
from mmsam_ros.training.errors import TrainingError

CHECKPOINT = "checkpoint.pt"
# what may differ between a run and its continuation
_FREE = tuple(f"config.{key}" for key in (
    "out", "data.root", "data.lists", "data.workers", "log.",
    "device.devices", "device.nodes", "device.checkpointing",
))  # fmt: skip
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)  # of FSDP's shards


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: optimiser steps that are done.
        best: best mIoU of a validation, in percent.
        unvalidated: whether the validation after `step` is still to be done.
    """

    step: int = 0
    best: float = -1.0
    unvalidated: bool = False


@dataclass(frozen=True)
class Checkpoints:
    """The last checkpoint of a run: one file, whole at any time.

    Attributes:
        fabric: of the run; every process takes part.
        path: the file.
        net: the network, within Fabric's wrapper.
        optimiser: likewise.
        average: the moving average of the weights, if one is kept.
        identity: what the run is, as plain values; a checkpoint of another run is refused.
    """

    fabric: Fabric
    path: Path
    net: nn.Module
    optimiser: Optimizer
    average: nn.Module | None
    identity: Mapping[str, Any]

    def save(self, progress: Progress) -> None:
        """Write all states; where the disk is full TrainingError, and the last one stays."""
        generators = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            generators["cuda"] = torch.cuda.get_rng_state()
        gathered: list[Any] = [generators] * self.fabric.world_size
        if self.fabric.world_size > 1:
            torch.distributed.all_gather_object(gathered, generators)
        model, optimiser = get_state_dict(self.net, self.optimiser, options=_WHOLE)
        content = {
            "model": model,
            "optimiser": optimiser,
            "average": self.average.state_dict() if self.average else None,
            "identity": dict(self.identity),
            "progress": asdict(progress),
            "generators": gathered,
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
        content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        if differing := differences(content["identity"], self.identity, prefix=""):
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
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "config."
) -> list[str]:
    """What differs between two configurations as plain values, aside from what may."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        name, old, new = prefix + key, before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{name}.")
        elif old != new and not name.startswith(_FREE):
            found.append(f"{name}: {old!r} before, {new!r} now")
    return found
