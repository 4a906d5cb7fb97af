# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/evidence.md are those of the results, and the runs that they need exist."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
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
    files = sorted((root / "config/experiments/evidence/sensors").glob("*.yaml"))
    trained = {name.removesuffix(evidence.OWN) for name in evidence.NETWORKS}
    assert {file.stem for file in files} == trained
    for file in files:
        assert load_experiment(str(file)).base == "evidence"


def rows(**networks: dict[str, float]) -> list[dict[str, object]]:
    """Results of three seeds, a point apart, by network and set of sensors."""
    return [
        {"network": name, "mode": mode, "miou": {k: [v, v + 1, v + 2] for k in ("all", HARD)},
         "gate auroc": [0.7, 0.8, 0.9]}
        for name, own in networks.items()
        for mode, v in own.items()
    ]  # fmt: skip


HARD = "difficulty=hard"
MODES = ("all", "no LiDAR", "no thermal", "camera alone")


def test_the_bars_compare_with_the_specialists(evidence: ModuleType) -> None:
    """The numbers that routing to specialists and one network had in an earlier world."""
    own = dict(zip(MODES, (40.4, 27.7, 39.7, 24.2), strict=True))
    special = {"rgb": 25.4, "rgb_thermal": 31.2, "rgb_lidar": 42.8}
    found = rows(all={"all": 45.3}, fallback=own, **{n: {"all": v} for n, v in special.items()})
    bars = {b["name"]: b for b in evidence.bars(found) if b["network"] == "fallback"}
    values = {
        "all, over its specialist": -4.9, "no LiDAR, over its specialist": -3.5,
        "no thermal, over its specialist": -3.1, "camera alone, over RGB": -1.2,
        "all on hard, over the best pair": -2.4, "gate, area under the ROC curve": 0.8,
        "expected at p = 0.1, over the specialists": -4.575,
    }  # fmt: skip
    assert {name: bars[name]["value"] for name in values} == pytest.approx(values)
    assert [name for name in values if bars[name]["holds"]] == ["gate, area under the ROC curve"]
    others = [b for b in evidence.bars(found) if b["network"] != "fallback"]
    assert {b["value"] for b in others} == {None}
    specialists = evidence.Found(found).expected("specialists", 0.1)
    assert specialists == pytest.approx([43.607, 44.607, 45.607])


def test_area_under_the_roc_curve(evidence: ModuleType) -> None:
    """Wrong pixels at bins 0 and 1, right ones at 1 and 3: of four pairs three are in order, and
    one is equal.
    """
    found = evidence.gate_scores(np.array([[1.0, 1, 0, 0], [0, 1, 0, 1]]))
    assert found == pytest.approx({"auroc": 3.5 / 4, "right": 1.25, "wrong": 0.5})
