# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run, to go on from as if nothing had happened."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric

from mmsam_ros._util import atomic_path
from mmsam_ros.training.devices import is_sharded, load_shards
from mmsam_ros.training.errors import TrainingError

CHECKPOINT = "checkpoint.pt"
# what may differ between a run and its continuation
_FREE = (
    "out",
    "data.root",
    "data.lists",
    "data.workers",
    "log.",
    "device.devices",
    "device.nodes",
    "device.checkpointing",
)


@dataclass(frozen=True)
class Checkpoints:
    """The last checkpoint of a run: one file, whole at any time.

    Attributes:
        fabric: of the run; every process takes part.
        path: the file.
        parts: network, optimiser and the like, whose states it holds.
        identity: what the run is, as plain values, its configuration as `config`; a checkpoint of
            another run is refused.
    """

    fabric: Fabric
    path: Path
    parts: Mapping[str, Any]
    identity: Mapping[str, Any]

    def save(self, progress: Mapping[str, float]) -> None:
        """Write parts, random states of all processes and `progress`, in place of the last.

        Raises:
            TrainingError: it cannot be written, as of a full disk; the last one is as it was.
        """
        content = {
            **self.parts,
            "identity": dict(self.identity),
            "progress": dict(progress),
            "random": self._gather(_random_states()),
        }
        try:
            self._write(content)
        except (OSError, RuntimeError) as error:  # torch's own writer has no error of its own
            if isinstance(error, torch.OutOfMemoryError):
                raise
            free = shutil.disk_usage(self.path.parent).free / 2**30
            raise TrainingError(
                f"{self.path} cannot be written with {free:.2f} GiB free: {error}"
            ) from error
        self.fabric.barrier()

    def _write(self, content: dict[str, Any]) -> None:
        if is_sharded(self.fabric):  # gathers the shards; the first process writes
            first = self.fabric.is_global_zero
            with atomic_path(self.path) if first else nullcontext(self.path) as part:
                self.fabric.save(part, content)
        elif self.fabric.is_global_zero:
            states = {name: value.state_dict() for name, value in self.parts.items()}
            with atomic_path(self.path) as part:
                torch.save(content | states, part)

    def load(self) -> dict[str, Any]:
        """Set parts and random states to the checkpoint's; returns its `progress`.

        Raises:
            TrainingError: it belongs to a run that differs; names the keys.
        """
        content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        found, expected = content["identity"], self.identity
        differing = [
            f"{key}: {found.get(key)!r} in the checkpoint, {expected[key]!r} now"
            for key in expected.keys() - {"config"}
            if found.get(key) != expected[key]
        ]
        differing += differences(found["config"], expected["config"])
        if differing:
            raise TrainingError(f"{self.path} is of another run: {'; '.join(differing)}")
        if is_sharded(self.fabric):
            load_shards(self.parts["model"], self.parts["optimiser"], content)
        else:
            self.fabric.load(self.path, dict(self.parts), weights_only=True)
        _set_random_states(content["random"][self.fabric.global_rank])
        return dict(content["progress"])

    def _gather(self, states: dict[str, Any]) -> list[dict[str, Any]]:
        gathered: list[Any] = [states] * self.fabric.world_size
        if self.fabric.world_size > 1:
            torch.distributed.all_gather_object(gathered, states)
        return gathered


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two configurations as plain values, aside from what may."""
    found, expected = dict(_flat(before)), dict(_flat(now))
    return [
        f"config.{key}: {found.get(key)!r} before, {expected.get(key)!r} now"
        for key in sorted(found.keys() | expected.keys())
        if found.get(key) != expected.get(key) and not key.startswith(_FREE)
    ]


def _random_states() -> dict[str, Any]:
    state: Any = np.random.get_state()  # noqa: NPY002 (the global one is meant)
    name, keys, *rest = state
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def _set_random_states(states: Mapping[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(a.b.c, value) of nested mappings."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
