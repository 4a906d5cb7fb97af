# SPDX-License-Identifier: Apache-2.0
"""A training run as a process: its directory, what it notes there, and the signals that end it."""

import dataclasses
import json
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Self

import yaml

from mmsam_ros import __version__
from mmsam_ros._util import machine, revision, versions, write_atomic
from mmsam_ros.training.config import TrainConfig
from mmsam_ros.training.errors import TrainingError

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
_PACKAGES = ("torch", "torchvision", "timm", "lightning", "torchmetrics", "numpy")


def run_directory(config: TrainConfig, resume: Path | None) -> Path:
    """The run directory; TrainingError where it holds another run, or there is none to resume."""
    directory = resume or Path(config.out)
    exists = (directory / CONFIG).is_file()
    if resume and not exists:
        raise TrainingError(f"{directory}: expected a run directory, but {CONFIG} is missing")
    if not resume and exists:
        raise TrainingError(
            f"{directory}: holds a run; go on with it (--resume {directory}) or give another --out"
        )
    return directory


def describe(directory: Path, config: TrainConfig, world_size: int) -> None:
    """Write config.yaml, and add this start to environment.json."""
    path = directory / ENVIRONMENT
    starts = json.loads(path.read_text()) if path.is_file() else []
    write_atomic(path, json.dumps([*starts, environment(world_size)], indent=2) + "\n")
    write_atomic(directory / CONFIG, yaml.safe_dump(plain(config), sort_keys=False))


def plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as YAML reads it back: no tuples."""
    return dict(yaml.safe_load(yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)))


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


class StopSignals:
    """Notes SIGINT and SIGTERM (SLURM's, before it takes a machine) instead of dying of them.

    Attributes:
        number: the signal that came, or 0. The default action is back for a second one.
    """

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> Self:
        caught = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._note) for number in caught}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.number = number
        signal.signal(number, self._before[signal.Signals(number)])
