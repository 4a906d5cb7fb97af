# SPDX-License-Identifier: Apache-2.0
"""What diagnostics say of masks that come, stop, fail or lack a sensor, and what is logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from mmsam_ros.ros.diagnostics import FAILURES, Monitor
from mmsam_ros.ros.sets import Entry, Outcome, SyncedSet
from mmsam_ros.sensors import Refusal

COUNTS: Mapping[str, Mapping[str, int]] = {"camera": {"received": 9}, "lidar": {}}
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Watched:
    """A monitor on a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.logged: list[str] = []
        self.told: list[str] = []
        self.monitor = Monitor(
            self.logged.append,
            lambda: self.now,
            self.told.append,
            stamp=lambda: round(1e9 * (self.now + 1000)),  # another clock
        )

    def settle(self, outcome: Outcome, latency: float = 0.05) -> None:
        stamp = round(1e9 * (self.now + 1000 - latency)) - 20_000_000  # sent 20 ms later
        entry = Entry("camera", stamp, None, 0, self.now - latency)
        self.monitor.settled(SyncedSet(entry, {}, frozenset()), outcome)

    def status(self, **facts: Any) -> tuple[bytes, str]:
        said = self.monitor.status("mmsam", COUNTS, facts)
        return said.level, said.message

    def values(self, **facts: Any) -> dict[str, str]:
        return {v.key: v.value for v in self.monitor.status("mmsam", COUNTS, facts).values}


def watched(
    times: list[float], age: float, fused: int | None = None, latency: float = 0.05
) -> Watched:
    """Masks at `times`, the last `age` seconds ago; the first `fused` (default: all) with LiDAR."""
    fused = len(times) if fused is None else fused
    found = Watched()
    for i, found.now in enumerate(times):
        found.settle(Outcome("used", fused=("lidar",) if i < fused else ()), latency)
    found.now += age
    return found


def test_nothing_yet() -> None:
    assert Watched().status() == (WARN, "no mask yet")
    said = Watched().monitor.status("mmsam", {"camera": {"received": 0}}, {"weights": "w"})
    assert (said.level, said.message, said.hardware_id) == (WARN, "no camera image yet", "w")


def test_the_rate_falls_when_masks_stop() -> None:
    tenths = [i / 10 for i in range(51)]
    assert watched(tenths, 0.05).values()["rate_hz"] == "10.0"
    assert watched(tenths, 5.1).values()["rate_hz"] == "4.9"
    assert watched([1.0], 0.0).values()["rate_hz"] == ""


def test_a_slow_network_is_no_silence() -> None:
    slow = watched([0.0, 12.0], 11.0, latency=12.0)
    assert slow.values()["rate_hz"] == "0.1"
    assert slow.status() == (OK, "running")
    assert watched([0.0, 12.0], 25.0, latency=12.0).status() == (WARN, "no mask for 25 s")
    for before in (0.0, -60.0):  # and after a pause
        assert watched([before, 0.1], 3.0).status() == (WARN, "no mask for 3 s")


def test_a_sensor_that_is_rarely_fused_is_a_warning() -> None:
    times = [i / 10 for i in range(10)]
    assert watched(times, 0.1, fused=5).status() == (OK, "running")
    assert watched(times, 0.1, fused=1).status() == (WARN, "running with lidar in 1 of 10 masks")
    assert watched(times, 0.1, fused=0).status() == (WARN, "running without lidar")


def test_failures_of_the_node_in_a_row_are_an_error() -> None:
    found = watched([0.0, 0.1], 0.1)
    ends = [Outcome("refused", reason, "why") for reason in ("defect", "out_of_memory")]
    for k in range(FAILURES):
        assert found.status() == (OK, "running")
        found.settle(ends[k % 2])
        found.settle(Outcome("refused", "encoding", "of the camera"))  # not the node's
        found.settle(Outcome("dropped", "busy"))
    assert found.status() == (ERROR, f"{FAILURES} frames in a row failed")
    found.settle(Outcome("used", fused=("lidar",)))
    assert found.status() == (OK, "running")


def test_refusals_are_logged_but_not_again_and_again() -> None:
    found = Watched()
    lidar = Refusal("lidar", "blank", "no point in view")
    lines = ["lidar refused (blank): no point in view", "camera refused (size): 0x0"]
    for found.now in (0.0, 1.0, 4.9):
        found.settle(Outcome("used", sensors={"lidar": lidar}))
        found.settle(Outcome("refused", "size", "0x0", {"lidar": lidar}))
        assert found.logged == lines
    found.now = 5.1
    found.settle(Outcome("refused", "size", "0x0"))
    assert found.logged == [*lines, lines[1]]
    found.settle(Outcome("refused", "step", "0"))
    assert found.logged[-1] == "camera refused (step): 0", "another reason is logged at once"


def test_a_refusal_names_the_topic() -> None:
    logged: list[str] = []
    monitor = Monitor(logged.append, topic={"camera": "/front/image"}.get)
    synced = SyncedSet(Entry("camera", 0, None, 0), {}, frozenset())
    lidar = {"lidar": Refusal("lidar", "blank", "no point in view")}
    monitor.settled(synced, Outcome("refused", "size", "0x0", lidar))
    assert logged == [
        "lidar refused (blank): no point in view", "camera refused (size): /front/image: 0x0"
    ]  # fmt: skip


def test_a_refusal_has_an_age() -> None:
    found = Watched()
    found.settle(Outcome("refused", "blank", "nothing in view"))
    found.now += 7.0
    assert found.values()["last_refusal.camera"] == "blank: nothing in view (7 s ago)"


def test_figures_are_keys() -> None:
    found = Watched()
    for sensors, latency in ((("lidar",), 0.1), (("lidar",), 0.1), ((), 0.4)):
        found.settle(Outcome("used", fused=sensors, timings={"network": 1.04}), latency)
    values = found.values(device="cpu")
    assert (
        values.items()
        >= {
            "masks": "3",
            "fused.camera+lidar": "2",
            "fused.camera": "1",
            "latency_p50_ms": "100.0",
            "age_p50_ms": "120.0",
            "age_p95_ms": "390.0",
            "step_network_ms": "1.0",
            "camera.received": "9",
            "device": "cpu",
        }.items()
    )


def test_two_masks_stay_for_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the window, which here is over at once."""
    monkeypatch.setattr("mmsam_ros.ros.diagnostics.WINDOW", 0.0)
    values = watched([0.0, 1.0, 2.0], 0.5).values()
    assert (values["masks"], values["rate_hz"]) == ("3", "1.0")


def test_the_first_mask_is_told_and_then_one_line_in_ten_seconds() -> None:
    found = Watched()
    found.monitor.report()
    assert found.told == [], "nothing before the first mask"
    for k in range(250):  # 10 images/s; masks from second 5 on, of every second image
        found.now = k / 10
        end = Outcome("dropped", "busy") if k < 50 or k % 2 else Outcome("used", fused=("lidar",))
        found.settle(end)
        if k % 10 == 0:
            found.monitor.report()
    line = "5.0 masks/s of 10.0 camera images/s; 50 of 100 dropped as busy; fused: camera+lidar 50"
    assert found.told == ["first mask 5.0 s after the start, of camera+lidar", line]
    found.now = 60.0
    found.monitor.report()
    assert len(found.told) == 2, "no images, no line"
    assert found.logged == []


def test_frames_dropped_as_busy_are_a_warning() -> None:
    """140 of 165 images in ten seconds."""
    found = Watched()
    for k in range(165):
        found.now = k * 10 / 165
        found.settle(
            Outcome("dropped", "busy") if k % 33 < 28 else Outcome("used", fused=("lidar",))
        )
    level, text = found.status()
    assert level == WARN
    assert text.startswith("running with 140 of 165 images dropped as busy: the network is slower")
    found.now = 15.0
    found.monitor.report()
    (line,) = found.logged
    assert "the network is slower than the camera; a GPU, precision bf16 or smaller" in line
    assert "dropped as busy" in line
    assert len(found.told) == 1, "the first mask"


def test_half_of_the_frames_are_enough() -> None:
    found = Watched()
    for k in range(20):
        found.now = k / 10
        found.settle(Outcome("dropped", "busy") if k % 2 else Outcome("used", fused=("lidar",)))
    assert found.status() == (OK, "running")
    found.settle(Outcome("dropped", "busy"))
    assert found.status()[0] == WARN
    found.now = 13.0  # those in the window count
    for _ in range(3):
        found.settle(Outcome("used", fused=("lidar",)))
    assert found.status() == (OK, "running")


def test_what_is_not_plausible_is_a_warning_with_its_reason() -> None:
    monitor = watched([0.0, 0.1], 0.05).monitor
    found = {"lidar.intensity": "is 0 to 1, 4 to 200 in training"}
    said = monitor.status("mmsam", COUNTS, {}, found)
    assert (said.level, said.message) == (WARN, "implausible: lidar.intensity")
    values = {v.key: v.value for v in said.values}
    assert values["implausible.lidar.intensity"] == found["lidar.intensity"]
    assert monitor.status("mmsam", COUNTS, {}, {}).level == OK
