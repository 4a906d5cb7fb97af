# SPDX-License-Identifier: Apache-2.0
"""The folder of a training run and the papers in it."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from mmsam_ros import __version__
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
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ENVIRONMENT
    starts = json.loads(path.read_text()) if path.is_file() else []
    _write(path, json.dumps([*starts, environment(world_size)], indent=2) + "\n")
    _write(folder / CONFIG, yaml.safe_dump(plain(config), sort_keys=False))


def plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as YAML reads it back: no tuples."""
    return dict(yaml.safe_load(yaml.safe_dump(dataclasses.asdict(config))))


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)


def environment(world_size: int) -> dict[str, Any]:
    """Command, versions and machine of this process, as plain values."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "world_size": world_size,
        "mmsam_ros": __version__,
        "revision": _revision(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
        },
        "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "gpus": gpus},
    }


def _revision() -> str | None:
    """The last commit that touched the package; None where it is no checkout."""
    command = ["git", "log", "-1", "--format=%H", "--", "."]
    package = Path(__file__).parents[1]
    try:
        done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return None
    return done.stdout.strip() or None
