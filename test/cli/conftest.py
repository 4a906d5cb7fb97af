# SPDX-License-Identifier: Apache-2.0
"""A recording to label, and weights for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.drives import write_drive, write_weights


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))
