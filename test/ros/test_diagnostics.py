# SPDX-License-Identifier: Apache-2.0
"""What diagnostics say of masks that come, stop, fail or lack a sensor, and what is logged."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from mmsam_ros.ros.diagnostics import FAILURES, Mask, Monitor, Snapshot, diagnose
from mmsam_ros.ros.sets import Entry, Outcome, SyncedSet
from mmsam_ros.sensors import Refusal

COUNTS: Mapping[str, Mapping[str, int]] = {"camera": {"received": 9}, "lidar": {}}


def snapshot(
    times: list[float], age: float, fused: int | None = None, latency: float = 0.05
) -> Snapshot:
    """Masks at `times`, the last `age` seconds ago; the first `fused` (default: all) with LiDAR."""
    fused = len(times) if fused is None else fused
    masks = [Mask(t, latency, ("lidar",) if i < fused else (), {}) for i, t in enumerate(times)]
    return Snapshot({}, age, tuple(masks))


def status(found: Snapshot, failures: int = 0) -> tuple[bytes, str]:
    said = diagnose("mmsam", "w", dataclasses.replace(found, failures=failures), COUNTS, {})
    return said.level, said.message


def synced(arrival: float | None = None) -> SyncedSet:
    now = time.monotonic() if arrival is None else arrival
    return SyncedSet(Entry("camera", 0, None, 0, now), {}, frozenset())


def ignore(_: str) -> None:
    """For outcomes that are not logged."""


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


def test_only_failures_of_the_node_count_as_failures() -> None:
    monitor = Monitor(ignore)
    ends = [Outcome("refused", reason, "why") for reason in ("defect", "out_of_memory")]
    for k in range(FAILURES):
        monitor.settled(synced(), ends[k % 2])
        monitor.settled(synced(), Outcome("refused", "encoding", "of the camera"))
        monitor.settled(synced(), Outcome("dropped", "busy"))
    assert monitor.snapshot().failures == FAILURES
    monitor.settled(synced(), Outcome("used"))
    assert monitor.snapshot().failures == 0


def test_refusals_are_logged_but_not_again_and_again() -> None:
    lines: list[str] = []
    monitor = Monitor(lines.append)
    lidar = Refusal("lidar", "blank", "no point in view")
    for _ in range(3):
        monitor.settled(synced(), Outcome("used", sensors={"lidar": lidar}))
        monitor.settled(synced(), Outcome("refused", "size", "0x0", {"lidar": lidar}))
    assert lines == ["lidar refused (blank): no point in view", "camera refused (size): 0x0"]


def test_a_refusal_has_an_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, now = Monitor(ignore), time.monotonic()
    monkeypatch.setattr("mmsam_ros.ros.diagnostics.time.monotonic", lambda: now)
    monitor.settled(synced(), Outcome("refused", "blank", "nothing in view"))
    now += 7.0
    values = {v.key: v.value for v in diagnose("", "", monitor.snapshot(), COUNTS, {}).values}
    assert values["last_refusal.camera"] == "blank: nothing in view (7 s ago)"


def test_latency_and_fused_sensors_are_counted() -> None:
    monitor, now = Monitor(ignore), time.monotonic()
    for sensors in (("lidar",), ("lidar",), ()):
        monitor.settled(synced(now - 0.5), Outcome("used", fused=sensors, timings={"network": 1.0}))
    found = monitor.snapshot()
    assert found.fused == {"camera+lidar": 2, "camera": 1}
    assert (found.latency(50) or 0) >= 0.5
    values = {v.key: v.value for v in diagnose("", "", found, COUNTS, {"device": "cpu"}).values}
    assert (values["masks"], values["step_network_ms"], values["device"]) == ("3", "1.0", "cpu")


def test_two_masks_stay_for_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the window, which here is over at once."""
    monkeypatch.setattr("mmsam_ros.ros.diagnostics.WINDOW", 0.0)
    monitor = Monitor(ignore)
    for _ in range(3):
        monitor.settled(synced(), Outcome("used", fused=("lidar",)))
    found = monitor.snapshot()
    assert (len(found.recent), sum(found.fused.values())) == (2, 3)
    assert found.rate is not None
