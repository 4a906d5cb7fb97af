# SPDX-License-Identifier: Apache-2.0
"""Every row of docs/behaviour.md names its tests, and they exist; so do its parameters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmsam_ros.ros.interface import PARAMETERS
from mmsam_ros.sensors import AUXILIARY_SENSORS

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "docs/behaviour.md").read_text().splitlines()
HEAD = "| what happens | what the node does | how it is reported | parameter | test |"
ROWS = [line for line in LINES if line.startswith("| ") and line != HEAD]


def test_there_are_rows() -> None:
    assert len(ROWS) > 30
    assert LINES.count(HEAD) == 5


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_a_row_names_tests_and_parameters_that_exist(row: str) -> None:
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert len(cells) == 5
    assert all(cells)
    tests = re.findall(r"`([\w/.]+)::(\w+)`", cells[4])
    assert tests
    for file, name in tests:
        assert f"\ndef {name}(" in (ROOT / "test" / file).read_text(), f"{file}::{name}"
    known = {parameter.name for parameter in PARAMETERS} | {"use_sim_time"}
    for name in re.findall(r"`([^`]+)`", cells[3]):
        names = {name.replace("<sensor>", sensor) for sensor in AUXILIARY_SENSORS}
        assert any(n in known or f"{n}.width" in known for n in names), name
