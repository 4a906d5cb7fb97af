# SPDX-License-Identifier: Apache-2.0
"""The camera-driven synchroniser: each rule, the loop that breaks the stock one, and properties."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.sync import CAMERA, AuxiliarySync, Entry, SyncConfig, SyncedSet, Synchroniser

MS = 1_000_000


@dataclass
class Feed:
    """Gives messages at steady times (ms), polls at every deadline between, settles as "used"."""

    sync: Synchroniser
    now: int = 0
    settles: bool = True
    sets: list[SyncedSet] = field(default_factory=list)

    def collect(self, sets: list[SyncedSet]) -> list[SyncedSet]:
        for synced in sets:
            self.sets.append(synced)
            if self.settles:
                self.sync.settle(synced, "used")
        return sets

    def until(self, now: int) -> list[SyncedSet]:
        closed = []
        while (deadline := self.sync.next_deadline()) is not None and deadline <= now / 1e3 + 1e-9:
            closed += self.collect(self.sync.poll(deadline))
        self.now = now
        return closed

    def __call__(self, stream: str, stamp: int, message: Any = None, at: int | None = None) -> Any:
        """The sets closed by this message; the stamp is in ms, and so is its steady time."""
        self.until(self.now if at is None else at)
        return self.collect(self.sync.add(stream, stamp * MS, message, self.now / 1e3))

    def check(self) -> dict[str, dict[str, int]]:
        counts = self.sync.counts()
        for stream, tally in counts.items():
            assert sum(tally.values()) == 2 * tally["received"], (stream, tally)
            assert min(tally.values()) >= 0, (stream, tally)
        return counts


def feed(
    *, deadline: float = 0.05, queue: int = 30, settles: bool = True, **auxiliaries: Any
) -> Feed:
    auxiliaries = auxiliaries or {"lidar": AuxiliarySync(slop=0.02)}
    config = SyncConfig(auxiliaries, deadline=deadline, queue=queue)
    return Feed(Synchroniser(config), settles=settles)


def stamps(synced: SyncedSet) -> dict[str, int]:
    return {
        "camera": synced.camera.stamp_ns // MS,
        **{name: entry.stamp_ns // MS for name, entry in synced.auxiliaries.items()},
    }


def nonzero(counts: dict[str, int]) -> dict[str, int]:
    return {key: value for key, value in counts.items() if value}


# matching and closing


def test_nearest_wins_once_a_later_message_has_come() -> None:
    sync = feed()
    sync("lidar", 985)
    assert sync("camera", 1000) == []
    [synced] = sync("lidar", 1005)
    assert stamps(synced) == {"camera": 1000, "lidar": 1005}
    assert not synced.held


def test_message_before_the_camera_waits_for_a_nearer_one_until_the_deadline() -> None:
    sync = feed()
    sync("lidar", 993)
    assert sync("camera", 1000, at=10) == []
    assert sync.sync.next_deadline() == pytest.approx(0.060)
    assert sync.sync.poll(0.0599) == []
    [synced] = sync.until(60)
    assert stamps(synced) == {"camera": 1000, "lidar": 993}


def test_newer_one_of_two_equally_near_messages_wins() -> None:
    sync = feed()
    for message, stamp in enumerate((990, 1010)):
        sync("lidar", stamp, message)
    [synced] = sync("camera", 1000)
    assert synced.auxiliaries["lidar"].message == 1


def test_known_interval_spares_the_wait() -> None:
    sync = feed(lidar=AuxiliarySync(slop=0.02, min_interval=0.09))
    sync("lidar", 993)
    [synced] = sync("camera", 1000)  # the next one comes at 1083 at the earliest
    assert stamps(synced)["lidar"] == 993
    sync("lidar", 1050)
    assert sync("camera", 1100) == []  # the next one comes at 1140 at the earliest: nearer


def test_equal_stamp_closes_at_once_in_either_order() -> None:
    for first, second in itertools.permutations(("camera", "lidar")):
        sync = feed()
        assert sync(first, 1000) == []
        assert [stamps(synced) for synced in sync(second, 1000)] == [
            {"camera": 1000, "lidar": 1000}
        ]


def test_nothing_outside_slop_and_absent_at_the_deadline() -> None:
    sync = feed()
    sync("lidar", 979)
    sync("camera", 1000)
    [synced] = sync("lidar", 1021)
    assert stamps(synced) == {"camera": 1000}
    sync("camera", 1060)
    assert [stamps(synced) for synced in sync.until(50)] == [{"camera": 1060}]


def test_offset_moves_the_stamp_onto_the_cameras_clock() -> None:
    sync = feed(lidar=AuxiliarySync(slop=0.005, offset=-0.1))
    sync("camera", 1000)
    assert sync("lidar", 1000) == []  # 900 on the camera's clock
    [synced] = sync("lidar", 1102)
    assert synced.auxiliaries["lidar"].stamp_ns == 1102 * MS
    assert synced.auxiliaries["lidar"].time_ns == 1002 * MS


def test_slower_sensor_is_held_up_to_its_age() -> None:
    sync = feed(thermal=AuxiliarySync(slop=0.01, max_age=0.25))
    sync("thermal", 1000)
    for camera, expected in ((1000, False), (1100, True), (1250, True), (1260, None)):
        sync("camera", camera, at=camera)
        sync.until(camera + 50)
        synced = sync.sets[-1]
        assert synced.camera.stamp_ns == camera * MS
        assert ("thermal" in synced.auxiliaries) == (expected is not None)
        assert ("thermal" in synced.held) == bool(expected)
    counts = sync.check()
    assert nonzero(counts["thermal"]) == {"received": 1, "used": 1}  # the best of its three sets


def test_held_is_the_latest_earlier_one_never_a_later_one() -> None:
    sync = feed(thermal=AuxiliarySync(slop=0.01, max_age=0.5))
    for stamp in (700, 800, 1030):
        sync("thermal", stamp)
    [synced] = sync("camera", 1000)
    assert stamps(synced) == {"camera": 1000, "thermal": 800}
    assert synced.held == {"thermal"}
    assert sync.check()["thermal"]["held"] == 0  # it may still come to more
    sync.collect(sync.sync.flush(1.0))
    assert nonzero(sync.check()["thermal"]) == {"received": 3, "held": 1, "dropped:unmatched": 2}


def test_one_message_serves_every_camera_frame_within_slop() -> None:
    sync = feed(lidar=AuxiliarySync(slop=0.04))
    for stamp in (970, 1000, 1030):
        sync("camera", stamp)
    sync("lidar", 1000)
    sync.until(50)
    assert [stamps(synced).get("lidar") for synced in sync.sets] == [1000] * 3


def test_sets_leave_in_camera_order_when_a_frame_comes_out_of_order() -> None:
    sync = feed()
    sync("camera", 1000, at=0)
    sync("camera", 960, at=20)
    closed = sync.until(50)  # the deadline of 1000 takes 960 along
    assert [synced.camera.stamp_ns // MS for synced in closed] == [960, 1000]
    assert sync.sync.next_deadline() is None


def test_without_auxiliaries_every_frame_leaves_at_once() -> None:
    sync = Feed(Synchroniser(SyncConfig({}, deadline=1.0)))
    assert [stamps(synced) for synced in sync("camera", 5)] == [{"camera": 5}]


def test_one_dead_sensor_costs_the_deadline_only() -> None:
    sync = feed(lidar=AuxiliarySync(0.02), thermal=AuxiliarySync(0.02))
    for stamp in range(1000, 2000, 100):
        sync("camera", stamp, at=stamp)
        sync("lidar", stamp, at=stamp + 1)
        assert [set(stamps(synced)) for synced in sync.until(stamp + 50)] == [{"camera", "lidar"}]


def test_stream_that_nobody_publishes_costs_no_time_but_is_taken_when_it_is_there() -> None:
    sync = feed(lidar=AuxiliarySync(0.02), thermal=AuxiliarySync(0.02))
    sync.sync.expect("thermal", False)
    sync("lidar", 1000)
    assert [set(stamps(synced)) for synced in sync("camera", 1000)] == [{"camera", "lidar"}]
    sync("thermal", 1100)
    sync("lidar", 1100)
    assert [len(stamps(synced)) for synced in sync("camera", 1100)] == [3]
    sync.sync.expect("thermal", True)
    sync("lidar", 1200)
    assert sync("camera", 1200) == []


# outcomes


def test_late_camera_frame_and_late_auxiliary() -> None:
    sync = feed()
    sync("camera", 1000, at=0)
    sync.until(50)
    assert sync("camera", 970) == []
    assert sync("lidar", 1001) == []  # would have been the match of 1000
    assert sync("lidar", 1045) == []  # of nothing
    sync("camera", 1200)
    sync("lidar", 1200)
    counts = sync.check()
    assert nonzero(counts["camera"]) == {"received": 3, "used": 2, "late": 1}
    assert counts["lidar"]["late"] == 1
    assert counts["lidar"]["dropped:unmatched"] == 1


def test_message_after_the_close_that_is_no_nearer_is_not_late() -> None:
    sync = feed()
    sync("camera", 1000)
    for stamp in (1001, 1001, 1010):
        sync("lidar", stamp)
    sync.collect(sync.sync.flush(1.0))
    counts = sync.check()["lidar"]
    assert nonzero(counts) == {"received": 3, "used": 1, "dropped:unmatched": 2}


def test_message_after_an_unpolled_deadline_is_late_all_the_same() -> None:
    sync = feed()
    sync("camera", 1000)
    [synced] = sync.collect(sync.sync.add("lidar", 1000 * MS, None, now=0.06))
    assert stamps(synced) == {"camera": 1000}
    sync.collect(sync.sync.flush(1.0))
    assert nonzero(sync.check()["lidar"]) == {"received": 1, "late": 1}


def test_small_disorder_of_an_auxiliary_is_no_jump() -> None:
    sync = feed()
    for stream, stamp in (("camera", 900), ("lidar", 900), ("lidar", 1000), ("lidar", 980)):
        sync(stream, stamp)
    assert [stamps(synced) for synced in sync("camera", 985)] == [{"camera": 985, "lidar": 980}]


def test_late_message_that_is_held_for_the_next_frame_is_held() -> None:
    sync = feed(lidar=AuxiliarySync(slop=0.02, max_age=0.2))
    sync("camera", 1000, at=0)
    sync("lidar", 1000, at=60)
    sync("camera", 1100, at=100)
    sync.until(150)
    sync.collect(sync.sync.flush(1.0))
    assert nonzero(sync.check()["lidar"]) == {"received": 1, "held": 1}


def test_outcomes_that_the_worker_reports() -> None:
    sync = feed(settles=False, lidar=AuxiliarySync(0.02), thermal=AuxiliarySync(0.02))
    for stamp in (1000, 1100, 1200, 1300):
        for stream in ("lidar", "thermal", "camera"):
            sync(stream, stamp)
    first, second, third, fourth = sync.sets
    assert sync.check()["camera"]["waiting"] == 4
    sync.sync.settle(first, "used", refused={"thermal": "size"})
    sync.sync.settle(second, "dropped")
    sync.sync.settle(third, "refused", "encoding")
    sync.sync.settle(fourth, "used")
    sync.sync.flush(1.0)
    counts = {name: nonzero(tally) for name, tally in sync.check().items()}
    assert counts["camera"] == {
        "received": 4,
        "used": 2,
        "dropped:busy": 1,
        "refused:encoding": 1,
    }
    rest = {"dropped:busy": 1, "dropped:camera": 1}
    assert counts["lidar"] == {"received": 4, "used": 2, **rest}
    assert counts["thermal"] == {"received": 4, "used": 1, "refused:size": 1, **rest}
    with pytest.raises(RosError, match="settled twice"):
        sync.sync.settle(first, "used")


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (("dropped", "used"), "used"),
        (("dropped", "refused-lidar"), "refused:bad"),
        (("refused-lidar", "used"), "used"),
        (("dropped", "dropped"), "dropped:busy"),
    ],
)
def test_best_outcome_of_all_its_sets_counts_once(outcomes: tuple[str, str], expected: str) -> None:
    for order in (1, -1):
        sync = feed(settles=False, lidar=AuxiliarySync(0.05))
        for stream, stamp in (("lidar", 1020), ("camera", 1000), ("camera", 1020)):
            sync(stream, stamp)
        for synced, outcome in list(zip(sync.sets, outcomes, strict=True))[::order]:
            if outcome == "refused-lidar":
                sync.sync.settle(synced, "used", refused={"lidar": "bad"})
            else:
                sync.sync.settle(synced, outcome)  # type: ignore[arg-type]
            sync.check()
        sync.sync.flush(1.0)
        assert nonzero(sync.check()["lidar"]) == {"received": 1, expected: 1}


def test_message_waits_while_a_set_holds_it() -> None:
    sync = feed(settles=False)
    sync("lidar", 1000)
    [synced] = sync("camera", 1000)
    sync.sync.flush(1.0)
    assert sync.check()["lidar"]["waiting"] == 1
    sync.sync.settle(synced, "used")
    assert nonzero(sync.check()["lidar"]) == {"received": 1, "used": 1}


def test_outcome_is_counted_soon_not_when_the_queue_is_full() -> None:
    sync = feed()
    for stamp in range(0, 1000, 100):
        sync("lidar", stamp)
        sync("camera", stamp)
    assert nonzero(sync.check()["lidar"]) == {"received": 10, "used": 9, "waiting": 1}


def test_queues_are_bounded() -> None:
    sync = feed(queue=3, deadline=10.0)
    for stamp in range(0, 1000, 100):
        sync("lidar", stamp)
    assert nonzero(sync.check()["lidar"]) == {
        "received": 10,
        "dropped:overflow": 7,
        "waiting": 3,
    }
    closed = [sync("camera", stamp) for stamp in range(2000, 2500, 100)]
    assert [len(sets) for sets in closed] == [0, 0, 0, 1, 1]  # the oldest leaves early, not lost
    assert [synced.camera.stamp_ns // MS for synced in sync.sets] == [2000, 2100]


def test_decoded_value_is_shared_between_sets() -> None:
    sync = feed(thermal=AuxiliarySync(slop=0.01, max_age=1.0))
    sync("thermal", 1000)
    [first] = sync("camera", 1000)
    first.auxiliaries["thermal"].decoded = "expensive"
    sync("camera", 1100)
    [second] = sync.until(50)
    assert second.auxiliaries["thermal"].decoded == "expensive"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"deadline": -1.0}, "deadline is -1.0"),
        ({"deadline": float("nan")}, "deadline is nan"),
        ({"queue": 0}, "queue is 0"),
        ({"jump": float("inf")}, "jump is inf"),
        ({"auxiliaries": {"lidar": AuxiliarySync(slop=-0.1)}}, r"lidar\.slop is -0\.1"),
        ({"auxiliaries": {CAMERA: AuxiliarySync(slop=0.1)}}, "cannot be an auxiliary"),
    ],
)
def test_bad_configuration_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RosError, match=message):
        SyncConfig(**{"auxiliaries": {}, "deadline": 0.1, **change})


def test_unknown_stream_is_refused() -> None:
    with pytest.raises(RosError, match="no stream 'radar'"):
        feed()("radar", 0)


# backward jumps


@pytest.mark.parametrize("order", list(itertools.permutations(("camera", "lidar", "thermal"))))
@pytest.mark.parametrize("max_age", [0.0, 0.3])
def test_looped_bag_with_a_drop_out_loses_no_frame(order: tuple[str, ...], max_age: float) -> None:
    """anchors E.2: the stock synchroniser gives 80, 0, 0 here."""
    sync = feed(lidar=AuxiliarySync(0.02), thermal=AuxiliarySync(0.02, max_age=max_age))
    for loop, step, stream in itertools.product(range(3), range(100), order):
        if stream != "thermal" or step < 80:
            at = loop * 10_000 + step * 100 + order.index(stream)
            sync(stream, step * 100, (loop, step), at=at)
    sync.until(100_000)
    sync.collect(sync.sync.flush(1e3))
    frames = [synced.camera.message for synced in sync.sets]
    assert frames == list(itertools.product(range(3), range(100)))
    for synced in sync.sets:
        loop, step = synced.camera.message
        thermal = synced.auxiliaries.get("thermal")
        assert synced.auxiliaries["lidar"].message == (loop, step)
        if step < 80:
            assert thermal is not None
            assert thermal.message == (loop, step)
        elif max_age and step <= 82:
            assert thermal is not None
            assert thermal.message == (loop, 79)
        else:
            assert thermal is None
        assert ("thermal" in synced.held) == (thermal is not None and step >= 80)
    counts = {name: nonzero(tally) for name, tally in sync.check().items()}
    assert counts == {
        "camera": {"received": 300, "used": 300},
        "lidar": {"received": 300, "used": 300},
        "thermal": {"received": 240, "used": 240},
    }


def test_pending_frames_close_at_the_cameras_jump_with_what_they_have() -> None:
    sync = feed(lidar=AuxiliarySync(0.02), thermal=AuxiliarySync(0.02))
    sync("lidar", 9000)
    sync("camera", 9000)
    sync("lidar", 9100)
    assert [stamps(synced) for synced in sync("camera", 0)] == [{"camera": 9000, "lidar": 9000}]
    assert sync.check()["lidar"]["dropped:reset"] == 1
    sync("lidar", 0)
    assert [set(stamps(synced)) for synced in sync("thermal", 0)] == [
        {"camera", "lidar", "thermal"}
    ]


def test_stream_that_jumps_first_disturbs_no_other() -> None:
    sync = feed(lidar=AuxiliarySync(0.02), thermal=AuxiliarySync(0.02))
    sync("camera", 8900)
    sync.until(50)
    sync("lidar", 9000, "old")
    sync("lidar", 9100, "old")
    sync("lidar", 0, "new")
    sync("camera", 9000)
    [synced] = sync("thermal", 9000, "old")  # neither waits for the lidar nor loses its old message
    assert {name: entry.message for name, entry in synced.auxiliaries.items()} == {
        "lidar": "old",
        "thermal": "old",
    }
    sync("camera", 9100)
    assert sync.sync.next_deadline() is not None  # the thermal message may still come
    [synced] = sync("thermal", 9100)
    assert stamps(synced) == {"camera": 9100, "lidar": 9100, "thermal": 9100}
    sync("camera", 0)
    [synced] = sync("thermal", 0)
    assert synced.auxiliaries["lidar"].message == "new"


def test_straggler_of_the_old_loop_neither_matches_nor_closes() -> None:
    sync = feed()
    sync("lidar", 9000)
    sync("camera", 9000)
    sync("camera", 0)
    assert sync("lidar", 9100) == []  # from before the jump: says nothing about frame 0
    assert [stamps(synced) for synced in sync("lidar", 5)] == [{"camera": 0, "lidar": 5}]
    assert sync.check()["lidar"]["dropped:reset"] == 1


def test_second_jump_of_a_short_bag() -> None:
    sync = feed(lidar=AuxiliarySync(0.02))
    for loop, stamp in itertools.product(range(5), (0, 100, 200)):
        sync("camera", stamp, loop)
        sync("lidar", stamp, loop)
    assert [synced.auxiliaries["lidar"].message for synced in sync.sets] == [
        synced.camera.message for synced in sync.sets
    ]
    assert len(sync.sets) == 15


def test_bag_of_one_frame() -> None:
    sync = feed()
    for _ in range(10):
        sync("camera", 1000)
        sync("lidar", 1000)
    sync.collect(sync.sync.flush(1.0))
    assert [set(stamps(synced)) for synced in sync.sets] == [{"camera", "lidar"}] * 10
    assert nonzero(sync.check()["camera"]) == {"received": 10, "used": 10}


def test_stream_that_does_not_jump_itself_is_taken_up_again() -> None:
    """A sensor that was silent while the others looped, and one that sends once a loop."""
    sync = feed(deadline=0.0, lidar=AuxiliarySync(0.02))
    sync("lidar", 500)
    for loop in range(3):
        for stamp in range(0, 1000, 100):
            if stamp == 600 and loop:
                sync("lidar", 600, loop)
            sync("camera", stamp, loop)
    matched = [(s.camera.message, stamps(s)["lidar"]) for s in sync.sets if s.auxiliaries]
    assert matched == [(0, 500), (1, 600), (2, 600)]


def test_single_stream_with_a_clock_step_is_taken_up_again() -> None:
    sync = feed(lidar=AuxiliarySync(0.02))
    for stamp in range(0, 1000, 100):
        sync("lidar", stamp)
        sync("camera", stamp)
    sync("lidar", 840)  # stepped back once; nobody else jumps
    for stamp in range(1000, 2000, 100):
        sync("lidar", stamp)
        sync("camera", stamp)
    sync.until(1000)
    assert len(sync.sets) == 20
    assert sum("lidar" not in synced.auxiliaries for synced in sync.sets) <= 1


def test_frame_that_waits_when_the_camera_follows_a_step_keeps_what_it_has() -> None:
    sync = feed(lidar=AuxiliarySync(0.02), thermal=AuxiliarySync(0.02))
    for stream in ("camera", "lidar", "thermal"):
        sync(stream, 900)
    sync("lidar", 1000)
    sync("camera", 1000)  # waits for the thermal message
    for stamp in (940, 1050, 1100):  # the lidar's clock steps back and goes on
        sync("lidar", stamp)
    assert [stamps(synced) for synced in sync("camera", 1100)] == [{"camera": 1000, "lidar": 1000}]
    assert [stamps(synced) for synced in sync.until(50)] == [{"camera": 1100, "lidar": 1100}]


def test_frames_before_a_jump_make_nothing_late_after_it() -> None:
    sync = feed()
    sync("camera", 1000, at=0)
    sync.until(50)  # without a lidar message
    sync("camera", 0)
    for stamp in (0, 1000):
        sync("lidar", stamp)
    sync.collect(sync.sync.flush(1.0))
    assert nonzero(sync.check()["lidar"]) == {"received": 2, "used": 1, "dropped:unmatched": 1}


def test_stream_that_jumps_before_the_first_camera_frame() -> None:
    sync = feed()
    for stamp in (9000, 9100, 0):
        sync("lidar", stamp)
    assert [stamps(synced) for synced in sync("camera", 0)] == [{"camera": 0, "lidar": 0}]
    assert sync.check()["lidar"]["dropped:reset"] == 2


def test_camera_alone_steps_back() -> None:
    sync = feed(lidar=AuxiliarySync(0.02))
    for stamp in (*range(0, 1000, 100), *range(700, 2000, 100)):
        sync("lidar", max(stamp, 900) if sync.now else stamp)
        sync("camera", stamp, at=sync.now + 100)
    sync.until(100_000)
    assert len(sync.sets) == 23
    assert all(synced.auxiliaries for synced in sync.sets[-8:])


def test_flush_starts_anew() -> None:
    sync = feed()
    sync("lidar", 990)
    sync("camera", 1000)
    assert [stamps(s) for s in sync.collect(sync.sync.flush(0.0))] == [
        {"camera": 1000, "lidar": 990}
    ]
    assert sync.sync.next_deadline() is None
    sync("camera", 970)  # neither late nor matched with what was there before
    assert [stamps(s) for s in sync.until(50)] == [{"camera": 970}]


# properties

STREAMS = ("lidar", "thermal")


@st.composite
def bags(draw: st.DrawFn) -> tuple[SyncConfig, list[tuple[float, str, int, int]]]:
    """A looped bag as it arrives: (steady ms, stream, stamp ms, loop), late by up to an eighth."""
    length = draw(st.sampled_from([800, 2000, 4000]))
    offsets = {name: draw(st.sampled_from([-150, 0, 40])) for name in STREAMS}
    events = []
    for stream in (CAMERA, *STREAMS):
        period = draw(st.sampled_from([50, 70, 100]))
        phase = draw(st.integers(0, 30))
        delays = st.integers(0, length // 8)
        out = draw(st.integers(0, length * 3 // 10))  # silent for the last part of each loop
        lost = draw(st.sets(st.integers(0, 20)))
        arrival = 0.0
        for loop in range(draw(st.integers(2, 3))):
            times = range(phase, length - out, period)
            for index, time in enumerate(times):
                if index in lost and stream != CAMERA and time not in (times[0], times[-1]):
                    continue
                arrival = max(arrival, loop * length + time + draw(delays))
                stamp = time - offsets.get(stream, 0)
                events.append((arrival, stream, stamp, loop))
    config = SyncConfig(
        {
            name: AuxiliarySync(
                slop=draw(st.sampled_from([0.0, 0.02, 0.05])),
                offset=offsets[name] / 1e3,
                max_age=draw(st.sampled_from([0.0, 0.15, 0.4])),
            )
            for name in STREAMS
        },
        deadline=draw(st.sampled_from([0.0, 0.03, 0.5])),
        queue=100,
    )
    return config, sorted(events, key=lambda event: event[0])


@settings(max_examples=150, deadline=None)
@given(bags())
def test_every_frame_of_a_looped_bag_gets_exactly_what_had_arrived_for_it(
    bag: tuple[SyncConfig, list[tuple[float, str, int, int]]],
) -> None:
    """Against a brute-force oracle: the best of all messages of its loop that were there."""
    config, events = bag
    sync = Feed(Synchroniser(config))
    arrived: dict[str, list[tuple[int, int]]] = {name: [] for name in STREAMS}

    def expect(sets: list[SyncedSet]) -> None:
        for synced in sets:
            loop, camera = synced.camera.message
            for name, auxiliary in config.auxiliaries.items():
                entry = synced.auxiliaries.get(name)
                there = [time for of, time in arrived[name] if of == loop]
                near = [abs(time - camera) for time in there]
                held = [time for time in there if 0 <= camera - time <= auxiliary.max_age * 1e3]
                if near and min(near) <= auxiliary.slop * 1e3:
                    assert entry is not None
                    assert (entry.message[0], abs(entry.message[1] - camera)) == (loop, min(near))
                elif held:
                    assert entry is not None
                    assert entry.message == (loop, max(held))
                else:
                    assert entry is None
                assert (name in synced.held) == (
                    entry is not None and min(near) > auxiliary.slop * 1e3
                )

    for arrival, stream, stamp, loop in events:
        expect(sync.until(int(arrival)))
        time = stamp + round(config.auxiliaries[stream].offset * 1e3) if stream != CAMERA else stamp
        if stream != CAMERA:
            arrived[stream].append((loop, time))
        expect(sync(stream, stamp, (loop, time)))
        sync.check()
    expect(sync.collect(sync.sync.flush(1e6)))
    frames = [synced.camera.message for synced in sync.sets]
    assert frames == [(loop, stamp) for _, stream, stamp, loop in events if stream == CAMERA]
    assert all(tally["waiting"] == 0 for tally in sync.check().values())


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes in whatever order: nothing is lost, counted twice or out of bounds."""

    slop, max_age, queue, jump = 20, 150, 4, 50

    @initialize(deadline=st.sampled_from([0.0, 0.05]))
    def start(self, deadline: float) -> None:
        auxiliaries = {
            "lidar": AuxiliarySync(self.slop / 1e3),
            "thermal": AuxiliarySync(self.slop / 1e3, 0.01, self.max_age / 1e3, 0.04),
        }
        self.sync = Synchroniser(SyncConfig(auxiliaries, deadline, self.queue, self.jump / 1e3))
        self.now = 0
        self.unsettled: list[SyncedSet] = []
        self.sent: Counter[str] = Counter()
        self.served: dict[Entry, int] = {}  # auxiliary message -> timeline of its first frame
        self.left: list[int] = []  # camera messages that have left, by number
        self.last = (0, 0)  # timeline and stamp of the last frame that left
        self.timeline, self.newest = 0, -1  # number of jumps, newest camera stamp since the last

    def take(self, sets: list[SyncedSet]) -> None:
        for synced in sets:
            camera = synced.camera.stamp_ns // MS
            timeline, number = synced.camera.message
            assert number not in self.left
            self.left.append(number)
            assert self.last <= (timeline, camera)
            self.last = timeline, camera
            for name, entry in synced.auxiliaries.items():
                # what served one timeline of the camera never serves the next
                assert self.served.setdefault(entry, timeline) == timeline
                age = (synced.camera.time_ns - entry.time_ns) // MS
                if name in synced.held:
                    assert self.slop < age <= self.max_age
                else:
                    assert abs(age) <= self.slop
        self.unsettled += sets

    @rule(
        stream=st.sampled_from((CAMERA, *STREAMS)), stamp=st.integers(0, 30), wait=st.integers(0, 9)
    )
    def message(self, stream: str, stamp: int, wait: int) -> None:
        self.now += wait
        self.sent[stream] += 1
        if stream == CAMERA:
            if stamp * 10 < self.newest - self.jump:
                self.timeline, self.newest = self.timeline + 1, -1
            self.newest = max(stamp * 10, self.newest)
        message = self.timeline, self.sent[stream]
        self.take(self.sync.add(stream, stamp * 10 * MS, message, self.now / 1e3))

    @rule(wait=st.integers(0, 60))
    def poll(self, wait: int) -> None:
        self.now += wait
        self.take(self.sync.poll(self.now / 1e3))
        deadline = self.sync.next_deadline()
        assert deadline is None or deadline > self.now / 1e3

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        if self.unsettled:
            synced = self.unsettled.pop(data.draw(st.integers(0, len(self.unsettled) - 1)))
            refused = {name: "x" for name in synced.auxiliaries if data.draw(st.booleans())}
            outcome: Any = data.draw(st.sampled_from(["used", "dropped", "refused"]))
            self.sync.settle(synced, outcome, "x", refused)

    @rule()
    def flush(self) -> None:
        self.take(self.sync.flush(self.now / 1e3))
        self.timeline, self.newest = self.timeline + 1, -1

    @invariant()
    def all_accounted_for(self) -> None:
        counts = self.sync.counts()
        held = {entry for s in self.unsettled for entry in (s.camera, *s.auxiliaries.values())}
        for stream, tally in counts.items():
            ends = sum(value for key, value in tally.items() if key not in ("received", "waiting"))
            assert tally["received"] == self.sent[stream] == ends + tally["waiting"]
            in_sets = sum(entry.stream == stream for entry in held)
            assert in_sets <= tally["waiting"] <= in_sets + 2 * self.queue

    def teardown(self) -> None:
        if hasattr(self, "sync"):
            self.flush()
            for synced in self.unsettled:
                self.sync.settle(synced, "used")
            counts = self.sync.counts()
            assert all(tally["waiting"] == 0 for tally in counts.values())
            late = counts[CAMERA]["late"]
            assert len(self.left) == self.sent[CAMERA] - late  # every frame in one set, or late


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase


def test_threads_share_it() -> None:
    """Four producers and a settling worker at once: the books still balance."""
    sync = Synchroniser(SyncConfig({name: AuxiliarySync(0.02) for name in STREAMS}, deadline=0.01))
    start = threading.Barrier(4)
    closed: list[SyncedSet] = []

    def produce(stream: str | None) -> None:
        start.wait()
        for step in range(2000):
            now = step / 10
            sets = (
                sync.poll(now) if stream is None else sync.add(stream, step * 100 * MS, None, now)
            )
            for synced in sets:
                closed.append(synced)
                sync.settle(synced, "used")

    threads = [threading.Thread(target=produce, args=(name,)) for name in (CAMERA, *STREAMS, None)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for synced in sync.flush(1e6):
        closed.append(synced)
        sync.settle(synced, "used")
    counts = sync.counts()
    assert len(closed) + counts[CAMERA]["late"] == 2000
    for tally in counts.values():
        assert tally["waiting"] == 0
        assert sum(tally.values()) == 2 * tally["received"] == 4000
