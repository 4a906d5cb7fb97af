# SPDX-License-Identifier: Apache-2.0
"""A share of the fuzzed messages, the same ones each time."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


def test_mutated_messages_are_used_or_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    fuzz = importlib.import_module("fuzz_messages")
    tally = fuzz.run(2000)
    assert tally.bugs == {}
    assert tally.ends.total() == 2000
    assert tally.inferred >= 1
    assert tally.taken.keys() == fuzz.BASES.keys()
    assert {end.partition(":")[0] for end in tally.ends} == {stream for stream, _ in fuzz.BASES}
    assert sum(n for end, n in tally.ends.items() if not end.endswith(":used")) > 500
