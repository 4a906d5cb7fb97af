# SPDX-License-Identifier: Apache-2.0
"""What diagnostics say of masks that come, stop, fail, or lack a sensor."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from mmsam_ros.ros.statistics import Mask, Snapshot, Statistics, diagnose

COUNTS: Mapping[str, Mapping[str, int]] = {"camera": {"received": 9}, "lidar": {}}


def snapshot(
    times: list[float], age: float, fused: int | None = None, latency: float = 0.05
) -> Snapshot:
    """Masks at `times`, the last `age` seconds ago; the first `fused` (default: all) with LiDAR."""
    fused = len(times) if fused is None else fused
    masks = [Mask(t, latency, ("lidar",) if i < fused else (), {}) for i, t in enumerate(times)]
    return Snapshot(len(times), {}, age, tuple(masks))


def status(found: Snapshot, failures: int = 0) -> tuple[bytes, str]:
    said = diagnose("mmsam", "w", found, COUNTS, {}, {}, failures)
    return said.level, said.message


def test_the_rate_falls_when_masks_stop() -> None:
    tenths = [i / 10 for i in range(51)]
    assert snapshot(tenths, 0.05).rate == pytest.approx(10)
    assert snapshot(tenths, 5.1).rate == pytest.approx(5)
    assert snapshot([1.0], 0.0).rate is None


def test_a_slow_network_is_no_silence() -> None:
    slow = snapshot([0.0, 12.0], 11.0, latency=12.0)
    assert slow.rate == pytest.approx(1 / 12)
    assert status(slow) == (DiagnosticStatus.OK, "running")
    assert status(snapshot([0.0, 12.0], 25.0, latency=12.0)) == (
        DiagnosticStatus.WARN,
        "no mask for 25 s",
    )
    for before in (0.0, -60.0):  # and after a pause
        found = snapshot([before, 0.1], 3.0)
        assert status(found) == (DiagnosticStatus.WARN, "no mask for 3 s")


def test_a_sensor_that_is_rarely_fused_is_a_warning() -> None:
    times = [i / 10 for i in range(10)]
    assert status(snapshot(times, 0.1, fused=5)) == (DiagnosticStatus.OK, "running")
    assert status(snapshot(times, 0.1, fused=1)) == (
        DiagnosticStatus.WARN, "running with lidar in 1 of 10 masks",
    )  # fmt: skip
    assert status(snapshot(times, 0.1, fused=0)) == (
        DiagnosticStatus.WARN, "running without lidar",
    )  # fmt: skip


def test_frames_that_fail_in_a_row_are_an_error() -> None:
    times = [0.0, 0.1]
    assert status(snapshot(times, 0.1), failures=4)[0] == DiagnosticStatus.OK
    assert status(snapshot(times, 0.1), failures=5) == (
        DiagnosticStatus.ERROR, "5 frames in a row failed",
    )  # fmt: skip


def test_a_refusal_has_an_age() -> None:
    refusals = {"lidar": (time.monotonic() - 7.0, "blank: nothing in view")}
    said = diagnose("mmsam", "w", snapshot([0.0], 0.1), COUNTS, {}, refusals)
    values = {v.key: v.value for v in said.values}
    age = re.fullmatch(r"blank: nothing in view \((\d+) s ago\)", values["last_refusal.lidar"])
    assert age
    assert int(age[1]) >= 7


def test_two_masks_stay_for_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the window, which here is over at once."""
    monkeypatch.setattr("mmsam_ros.ros.statistics.WINDOW", 0.0)
    statistics = Statistics()
    for _ in range(3):
        statistics.mask(time.monotonic(), ("lidar",), {})
    found = statistics.snapshot()
    assert (len(found.recent), found.masks) == (2, 3)
    assert found.rate is not None
