# SPDX-License-Identifier: Apache-2.0
"""What this process says over DDS stays on the machine and in a domain of its own; fixtures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from domains import free_domain
from harness import environment, nano_weights
from launching import load

# Fast DDS reads its profile once a process, so it must not depend on which test comes first.
os.environ |= environment(free_domain(10))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    return nano_weights(folder / "nano.safetensors", "synthetic_rgb_lidar_thermal")


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return load(tmp_path / "prefix", monkeypatch)
