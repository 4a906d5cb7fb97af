# SPDX-License-Identifier: Apache-2.0
"""Faults of sensors and clocks, simulated: ten seconds of camera and LiDAR on a virtual clock.

What becomes of them is decided in docs/behaviour.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from sync_feed import MS, Feed, nonzero

from mmsam_ros.ros.intake import AHEAD, GONE, Intake
from mmsam_ros.ros.notes import Notes
from mmsam_ros.ros.sync import AuxiliarySync, SyncConfig, Synchroniser
from mmsam_ros.sensors.limits import MAX_NOTES, MAX_TEXT

START = 1_000_000  # ms, of all stamps
IMAGES, PERIOD, LAG = 100, 100, 10  # of the drive; LiDAR stamps follow the camera's by LAG ms
SLOP, MAX_AGE, DEADLINE = 20, 200, 50

Event = tuple[float, str, int]  # arrival, stream, stamp, all in ms from START
Fault = Callable[[list[Event]], list[Event]]


def drive() -> list[Event]:
    """Camera and LiDAR at 10 Hz; each message arrives at its stamp."""
    images = [(float(k * PERIOD), "camera", k * PERIOD) for k in range(IMAGES)]
    clouds = [(float(t + LAG), "lidar", t + LAG) for _, _, t in images]
    return sorted([*images, *clouds])


def each(stream: str, change: Callable[[int, float, int], list[tuple[float, int]]]) -> Fault:
    """A fault that makes (arrival, stamp) pairs of every message (number, arrival, stamp)."""

    def fault(events: list[Event]) -> list[Event]:
        out, number = [], 0
        for arrival, name, stamp in events:
            if name != stream:
                out.append((arrival, name, stamp))
                continue
            out += [(a, name, s) for a, s in change(number, arrival, stamp)]
            number += 1
        return sorted(out, key=lambda event: event[0])

    return fault


@dataclass
class Case:
    """Images (by what of the LiDAR is in their mask), and other ends of messages."""

    name: str
    fault: Fault
    matched: int
    held: int = 0
    absent: int = 0
    ends: dict[str, int] = field(default_factory=dict)  # besides used and held


HOUR, TAI = 3_600_000, 37_000
CASES = [
    Case("sound", lambda events: events, 100),
    # the last cloud, of 4910, is 90 and 190 ms old at 5000 and 5100
    Case("lost", each("lidar", lambda n, a, s: [(a, s)] * (n < 50)), 50, 2, 48),
    Case("back again", each("lidar", lambda n, a, s: [(a, s)] * (not 50 <= n < 60)), 90, 2, 8),
    Case("late, within the deadline", each("lidar", lambda n, a, s: [(a + 30, s)]), 100),
    # each comes after its image's set has closed, and is 90 ms old at the next image; the last
    # one serves none
    Case("late", each("lidar", lambda n, a, s: [(a + 80, s)]), 0, 99, 1, {"lidar.late": 1}),
    # every fifth: stamps 10, 510, ...; at 100 and 200 it is 90 and 190 ms old
    Case("slow", each("lidar", lambda n, a, s: [(a, s)] * (n % 5 == 0)), 20, 40, 40),
    # five at once when the fifth is measured: it serves the next two images, three have none;
    # the other four are late, and so is the last one of all
    Case(
        "bursty", each("lidar", lambda n, a, s: [(a - a % 500 + 490, s)]), 0, 38, 62,
        {"lidar.late": 81},
    ),
    Case(
        "duplicated clouds", each("lidar", lambda n, a, s: [(a, s)] * 2), 100,
        ends={"lidar.dropped:unmatched": 100},
    ),
    # one mask for each message, both under the stamp that they share
    Case("duplicated images", each("camera", lambda n, a, s: [(a, s)] * 2), 200),
    # at the next one its stamps seem to jump back, which ends with the next image
    Case(
        "one cloud in the future", each("lidar", lambda n, a, s: [(a, s + HOUR * (n == 50))]),
        98, 2, 0, {"lidar.dropped:reset": 1, "lidar.dropped:unmatched": 1},
    ),
    Case(
        "one image in the future", each("camera", lambda n, a, s: [(a, s + HOUR * (n == 50))]),
        99, 0, 1,
    ),
    Case("another clock", each("lidar", lambda n, a, s: [(a, s + TAI)]), 0, 0, 100),
    # 4 ms a second: 10 ms, and with them slop, are reached by the first 28 clouds
    Case("drifting", each("lidar", lambda n, a, s: [(a, s + 4 * n // 10)]), 28, 72, 0),
]  # fmt: skip


def play(events: list[Event]) -> tuple[Feed, dict[str, int]]:
    """Feeds them to a synchroniser; how many masks had the LiDAR matched, held or not at all."""
    lidar = AuxiliarySync(SLOP / 1e3, 0.0, MAX_AGE / 1e3)
    sync = Feed(Synchroniser(SyncConfig({"lidar": lidar}, DEADLINE / 1e3)))
    for arrival, stream, stamp in events:
        sync.until(int(arrival))
        sync(stream, START + stamp)
        sync.check()
    sync.until(10**7)
    found = {"matched": 0, "held": 0, "absent": 0}
    for synced in sync.sets:
        entry = synced.auxiliaries.get("lidar")
        age = 0 if entry is None else (synced.camera.time_ns - entry.time_ns) // MS
        held = "lidar" in synced.held
        assert SLOP < age <= MAX_AGE if held else abs(age) <= SLOP
        found["absent" if entry is None else "held" if held else "matched"] += 1
    return sync, found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_of_a_sensor(case: Case) -> None:
    sync, found = play(case.fault(drive()))
    assert found == {"matched": case.matched, "held": case.held, "absent": case.absent}
    sync.collect(sync.sync.flush(1e7))
    ends = {
        f"{stream}.{end}": count
        for stream, tally in sync.check().items()
        for end, count in nonzero(tally).items()
        if end not in ("received", "used", "held")
    }
    if case.ends:
        assert ends == case.ends


@pytest.mark.parametrize(
    ("fault", "ahead"),
    [
        (each("lidar", lambda n, a, s: [(a, s + TAI)]), 37.0),
        # the last ten, of 9.0 to 9.9 s, are 36 to 39 ms ahead
        (each("lidar", lambda n, a, s: [(a, s + 4 * n // 10)]), 0.0375),
    ],
)
def test_the_distance_of_clocks_is_known(fault: Fault, ahead: float) -> None:
    """Of a clock that is off, and of one that drifts."""
    sync, _ = play(fault(drive()))
    assert sync.sync.unmatched() == {"lidar": pytest.approx(ahead, abs=0.002)}


def test_a_bag_in_a_loop_and_a_restart_match_nothing_across() -> None:
    """Three loops, the second half of the LiDAR missing: each loop is as the first."""
    once = each("lidar", lambda n, a, s: [(a, s)] * (n < 50))(drive())
    length = IMAGES * PERIOD + 100
    _, found = play([(a + k * length, stream, s) for k in range(3) for a, stream, s in once])
    assert found == {"matched": 150, "held": 6, "absent": 144}


@pytest.mark.parametrize("stamp_ns", [0, -1])
def test_a_message_without_a_stamp_is_refused(stamp_ns: int) -> None:
    refusal = Intake().refusal("lidar", stamp_ns, "lidar", 1.0)
    assert refusal is not None
    assert refusal.reason == "stamp"
    assert "not set" in refusal.text
    sync = Synchroniser(SyncConfig({"lidar": AuxiliarySync(0.02)}, 0.0))
    sync.refuse("lidar", stamp_ns, refusal.reason)
    assert nonzero(sync.counts()["lidar"]) == {"received": 1, "refused:stamp": 1}


def taken(frames: str, *, period: float = 0.1) -> str:
    """Of messages with these frames, those that are read."""
    intake, out = Intake(), ""
    for k, frame in enumerate(frames):
        out += frame if intake.refusal("camera", 1 + k, frame, k * period) is None else ""
    return out


def test_of_two_sensors_on_one_topic_one_is_read() -> None:
    assert taken("aaaa") == "aaaa"
    # what came first stays; the second is known by the return of the first
    assert taken("abababab") == "abaaa"
    assert taken("aabbaabb") == "aabbaa"
    assert taken("abcabcabc") == "abcaa"
    assert taken("0123456789") == "0123456789", "a frame that counts up is one sensor"
    assert taken("aaabbb") == "aaabbb", "a sensor that was replaced"
    assert taken("abab", period=1.1 * GONE) == "abab", "one after the other"
    intake = Intake()
    for k, frame in enumerate("aba"):
        assert intake.refusal("camera", 1, frame, k * 0.1) is None
    refusal = intake.refusal("camera", 1, "b", 0.3)
    assert refusal is not None
    assert refusal.reason == "two_sources"
    assert "'a' and 'b'" in refusal.text
    assert intake.refusal("lidar", 1, "b", 0.3) is None, "each stream for itself"
    assert intake.refusal("camera", 1, "b", 0.2 + 1.01 * GONE) is None, "the first has gone"


def test_stamps_in_the_future_are_said_once() -> None:
    said: list[str] = []
    clock = 10**18
    intake = Intake(lambda: clock, Notes(said.append, said.append))

    def send(count: int, ahead: float) -> None:
        for _ in range(count):
            assert intake.refusal("camera", clock + int(ahead * 1e9), "camera", 1.0) is None

    send(30, AHEAD - 0.1)
    send(9, 100.0)  # what is left of a loop of a bag whose clock has jumped back
    send(1, -100.0)
    send(9, 100.0)
    assert said == []
    send(20, 100.0)
    assert len(said) == 1
    assert said[0].startswith("camera: its stamps are 100.0 s ahead of this node's clock")
    offsets = {"camera": -100.0}  # corrects them
    intake = Intake(lambda: clock, Notes(said.append, said.append), offsets)
    send(30, 100.0)
    assert len(said) == 1
    unknown = Intake(lambda: 0, Notes(said.append, said.append))  # use_sim_time without a /clock
    for _ in range(30):
        unknown.refusal("camera", clock, "camera", 1.0)
    assert len(said) == 1


def test_texts_that_are_remembered_are_bounded() -> None:
    said: list[str] = []
    notes = Notes(said.append, said.append)
    for k in range(10 * MAX_NOTES):
        notes.warning(f"frame {k}")
    assert len(said) == MAX_NOTES
    notes = Notes(said.append, said.append)
    for key in ("", "k" * 10**6):
        notes.info("t" * 10**6, key)
    assert len(said) == MAX_NOTES + 2
    assert max(map(len, [*said, *notes._said])) <= MAX_TEXT


def test_messages_that_match_nothing_keep_the_queues() -> None:
    """Clocks are hours apart, with disorder and jumps (a million: benchmarks/bench_faults.py)."""
    streams, queue = ("lidar", "thermal"), 30
    auxiliaries = {name: AuxiliarySync(0.05, 0.0, 0.2) for name in streams}
    sync = Feed(Synchroniser(SyncConfig(auxiliaries, deadline=0.1, queue=queue)))
    for k in range(5000):
        for number, stream in enumerate(("camera", "lidar", "thermal", "lidar")):
            stamp = (k * 100 + number * 10**7 - (k % 7) * 30) * MS + 1
            sync.collect(sync.sync.add(stream, stamp, None, k / 10))
        sync.sets.clear()
        for tally in sync.sync.counts().values():
            assert tally["waiting"] <= 2 * queue
    for stream, tally in sync.check().items():
        assert tally["received"] == (10_000 if stream == "lidar" else 5000)
