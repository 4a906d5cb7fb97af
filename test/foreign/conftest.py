# SPDX-License-Identifier: Apache-2.0
"""The package's weights and a drive of the synthetic world."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.networks import of_one_rig
from support.plausible import frames_of

from mmsam_ros.sensors import (
    Frame,
)
from mmsam_ros.weights import Spec, read_spec


@pytest.fixture(scope="module")
def spec(root: Path) -> Spec:
    return of_one_rig(read_spec(root / "models/tiny_synthetic.safetensors"))


@pytest.fixture(scope="module")
def drive() -> list[Frame]:
    return frames_of("sun", "ordinary")
