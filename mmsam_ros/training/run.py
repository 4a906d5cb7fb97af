# SPDX-License-Identifier: Apache-2.0
"""The folder of a training run and the papers in it."""

from __future__ import annotations

import dataclasses
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from mmsam_ros import __version__
from mmsam_ros._util import machine, revision, versions, write_atomic
from mmsam_ros.training.config import TrainConfig
from mmsam_ros.training.errors import TrainingError

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
_PACKAGES = ("torch", "torchvision", "timm", "lightning", "torchmetrics", "numpy")


def check_folder(config: TrainConfig, resume: Path | None) -> Path:
    """The run's folder; nothing is written.

    Raises:
        TrainingError: it holds another run, or there is none to resume.
    """
    folder = resume or Path(config.out)
    exists = (folder / CONFIG).is_file()
    if resume and not exists:
        raise TrainingError(f"{folder}: expected a run's folder, but {CONFIG} is missing")
    if not resume and exists:
        raise TrainingError(
            f"{folder}: holds a run; go on with it (--resume {folder}) or give another --out"
        )
    return folder


def describe(folder: Path, config: TrainConfig, world_size: int) -> None:
    """Write config.yaml, and add this start to environment.json."""
    path = folder / ENVIRONMENT
    starts = json.loads(path.read_text()) if path.is_file() else []
    write_atomic(path, json.dumps([*starts, environment(world_size)], indent=2) + "\n")
    write_atomic(folder / CONFIG, yaml.safe_dump(plain(config), sort_keys=False))


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
