# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/evidence.md are those of the results, and the runs that they need exist."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from mmsam_ros.training.experiments import load_experiment


@pytest.fixture
def evidence(root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    return importlib.import_module("evidence")


def test_the_tables_are_made_from_the_results(root: Path, evidence: ModuleType) -> None:
    content = json.loads((root / "benchmarks/results/evidence.json").read_text())
    page = (root / "docs/evidence.md").read_text()
    for name, block in evidence.tables(content).items():
        assert f"<!-- {name} -->\n{block}\n<!-- /{name} -->" in page
    assert evidence.bars(content["rows"]) == content["bars"]


def test_every_network_has_an_experiment(root: Path, evidence: ModuleType) -> None:
    files = sorted((root / "config/experiments/evidence").rglob("*.yaml"))
    assert {file.stem for file in files} == {name for name, _ in evidence.runs()}
    for file in files:
        assert load_experiment(str(file)).base == "evidence"
