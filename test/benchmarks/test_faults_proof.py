# SPDX-License-Identifier: Apache-2.0
"""benchmarks/bench_faults.py for a minute: every image is accounted for, whatever was killed."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "results", raising=False)
    return importlib.import_module("bench_faults")


def test_why_a_node_said_nothing_of_an_image(bench: ModuleType) -> None:
    """Killed at 60, read again from 80 on, and orderly at its end; the player starts at 20."""
    spans = [(10.0, 60.0, True), (None, 70.0, True), (80.0, 200.0, False)]
    why = {
        5.0: "no node", 21.0: "not connected yet", 40.0: "lost between the processes",
        59.0: "in a node that was killed", 65.0: "no node", 79.0: "no node",
        81.0: "not connected yet", 199.0: "lost between the processes", 201.0: "no node",
    }  # fmt: skip
    why_unsaid = importlib.import_module("fault_account").why_unsaid
    assert {at: why_unsaid(at, spans, [20.0]) for at in why} == why


def test_an_image_that_is_counted_and_not_named_is_found(bench: ModuleType, tmp_path: Path) -> None:
    """Names of later images do not hide it."""
    account = importlib.import_module("fault_account")

    def session(named: list[float], counted: list[tuple[float, int]]) -> Any:
        log = tmp_path / f"{len(list(tmp_path.iterdir()))}.log"
        lines = [f"[DEBUG] [{at}] [mmsam]: camera {i}: used" for i, at in enumerate(named)]
        log.write_text("\n".join(lines))
        return SimpleNamespace(counted=counted, read=account.Session(log, None).read)

    sound = [100.2 + 0.2 * i for i in range(50)]
    looks = [(101.0 + i, 5 * (i + 1)) for i in range(9)]
    ahead = [(101.0 + i, 5 * (i + 1) + (i == 8)) for i in range(9)]  # named a moment later
    lost = [(at, count + 1) for at, count in looks]
    last = session(sound, [*looks, (112.0, 50)])
    assert account.unnamed([session(sound, looks), last]) == 0
    assert account.unnamed([session(sound, ahead), last]) == 0
    assert account.unnamed([session(sound, lost), last]) == 1
    assert account.unnamed([session(sound, []), last]) == 0
    assert account.unnamed([last, session(sound, [(112.0, 53)])]) == 3


def test_faults_come_in_turn_and_half_of_the_time_is_sound(bench: ModuleType) -> None:
    player = importlib.import_module("fault_player")
    schedule = player.Schedule(player.random.Random(3))
    found = Counter(schedule.at(t / 10) for t in range(20_000))
    assert found.keys() == {"-", *player.FAULTS}
    assert 0.4 < found["-"] / found.total() < 0.6


@pytest.mark.dds
@pytest.mark.slow
def test_every_image_is_accounted_for(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Node and player are killed once each. Rates are the machine's; the books are not."""
    monkeypatch.syspath_prepend(str(ROOT / "test/ros"))
    from domains import free_domain

    monkeypatch.setenv("ROS_DOMAIN_ID", str(free_domain(8)))
    row = bench.faults(1.0, (96, 64), "")
    assert row["unexplained"] == 0, row
    assert row["restarts"] == {"node": 1, "player": 1}
    assert row["published"] > 0
    assert row["expected"] == sum(row["ended"].values())
