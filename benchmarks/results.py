# SPDX-License-Identifier: Apache-2.0
"""The form in which every benchmark writes what it measured (one JSON in benchmarks/results/)."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "timm", "numpy", "opencv-python-headless", "rosbags")


def bar(
    name: str, value: float | None, unit: str, limit: float, holds: Callable[[float, float], bool],
    reason: str = "",
) -> dict[str, Any]:  # fmt: skip
    """A bar; whether it holds is computed. Not measured: value None and a reason."""
    entry: dict[str, Any] = {"name": name, "value": value, "unit": unit, "bar": limit}
    entry["holds"] = None if value is None else holds(value, limit)
    return entry | ({"reason": reason} if value is None else {})


def write(name: str, rows: Sequence[Mapping[str, Any]], bars: Sequence[Mapping[str, Any]]) -> Path:
    """Write benchmarks/results/<name>.json; returns its path."""
    path = FOLDER / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    content = {
        "name": name,
        "command": " ".join(["python", *_relative(sys.argv)]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **_versions()},
        "revision": _revision(),
        "rows": list(rows),
        "bars": list(bars),
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def machine() -> dict[str, Any]:
    """Processor, cores, memory and GPU of this machine."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": model, "cores": os.cpu_count(), "memory_gib": round(memory, 1), "gpu": gpu}


def _relative(argv: Sequence[str]) -> list[str]:
    script = Path(argv[0]).resolve()
    return [str(script.relative_to(Path(__file__).resolve().parents[1])), *argv[1:]]


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _revision() -> str:
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
