# SPDX-License-Identifier: Apache-2.0
"""The camera-driven synchroniser: each rule of matching, closing and accounting."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from sync_feed import DROPPED, MS, USED, Feed, feed, nonzero, stamps

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.sets import CAMERA, Outcome
from mmsam_ros.ros.sync import AuxiliarySync, SyncConfig, Synchroniser
from mmsam_ros.sensors import Refusal


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


def test_learned_interval_spares_the_wait() -> None:
    """A LiDAR at 10 Hz that is stamped 7 ms before the camera: KITTI's rig."""
    sync = feed(lidar=AuxiliarySync(slop=0.02, min_interval=-1.0))
    waited = []
    for k in range(20):
        stamp = 100 * k
        sync("lidar", stamp - 7, at=stamp)
        waited.append(not sync("camera", stamp, at=stamp))
        sync.until(stamp + 60)
    assert waited == [True] * 10 + [False] * 10  # ten intervals are known after eleven messages
    assert [stamps(s) for s in sync.sets] == [
        {"camera": 100 * k, "lidar": 100 * k - 7} for k in range(20)
    ]
    assert sync.check()["lidar"]["used"] == 19  # the last one may still serve


def test_learned_interval_does_not_trust_a_sensor_that_just_sent_two() -> None:
    sync = feed(lidar=AuxiliarySync(slop=0.02, min_interval=-1.0))
    for k in range(11):
        sync("lidar", 100 * k, at=100 * k)
    sync("lidar", 1004, at=1004)  # an interval of 4 ms
    assert not sync("camera", 1010, at=1010)  # a nearer one may come
    sync("lidar", 1012, at=1012)
    assert stamps(sync.sets[0]) == {"camera": 1010, "lidar": 1012}


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


def refused(sensor: str, reason: str) -> dict[str, Refusal]:
    return {sensor: Refusal(sensor, reason, "")}


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
    sync.sync.settle(first, Outcome("used", sensors=refused("thermal", "size")))
    sync.sync.settle(second, DROPPED)
    sync.sync.settle(third, Outcome("refused", "encoding"))
    sync.sync.settle(fourth, USED)
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
        sync.sync.settle(first, USED)


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
        ends = {
            "used": USED,
            "dropped": DROPPED,
            "refused-lidar": Outcome("used", sensors=refused("lidar", "bad")),
        }
        for synced, outcome in list(zip(sync.sets, outcomes, strict=True))[::order]:
            sync.sync.settle(synced, ends[outcome])
            sync.check()
        sync.sync.flush(1.0)
        assert nonzero(sync.check()["lidar"]) == {"received": 1, expected: 1}


def test_message_waits_while_a_set_holds_it() -> None:
    sync = feed(settles=False)
    sync("lidar", 1000)
    [synced] = sync("camera", 1000)
    sync.sync.flush(1.0)
    assert sync.check()["lidar"]["waiting"] == 1
    sync.sync.settle(synced, USED)
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
        ({"deadline": -1.0}, r"sync\.deadline: found -1\.0, expected at least 0"),
        ({"deadline": float("nan")}, r"deadline: found nan"),
        ({"queue": 0}, r"queue: found 0, expected at least 1"),
        ({"jump": float("inf")}, r"jump: found inf"),
        ({"auxiliaries": {CAMERA: AuxiliarySync(slop=0.1)}}, "expected streams besides 'camera'"),
    ],
)
def test_bad_configuration_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RosError, match=message):
        SyncConfig(**{"auxiliaries": {}, "deadline": 0.1, **change})


@pytest.mark.parametrize(
    "change", [{"slop": -0.1}, {"slop": float("nan")}, {"max_age": -1.0}, {"offset": 1e9}]
)
def test_bad_matching_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(RosError, match=rf"sync\.{next(iter(change))}: found"):
        AuxiliarySync(**{"slop": 0.1, **change})


def test_unknown_stream_is_refused() -> None:
    with pytest.raises(RosError, match="stream: unknown 'radar'"):
        feed()("radar", 0)


def test_values_can_change_while_it_runs() -> None:
    sync = feed(lidar=AuxiliarySync(slop=0.01))
    sync("lidar", 940)
    sync("camera", 1000)
    sync("lidar", 1080)
    wider = SyncConfig({"lidar": AuxiliarySync(slop=0.07)}, deadline=0.2)
    sync.sync.update(wider)
    assert sync("camera", 1120) == []
    [synced] = sync("lidar", 1180)
    assert stamps(synced) == {"camera": 1120, "lidar": 1080}
    sync("camera", 1300, at=1300)
    assert sync.sync.next_deadline() == pytest.approx(1.5)


def test_a_new_offset_is_no_jump() -> None:
    """A second back: the old messages are given up, the new ones match at once."""
    sync = feed(lidar=AuxiliarySync(slop=0.01))
    for k in range(3):
        sync("lidar", 2000 + 100 * k)
    sync.sync.update(SyncConfig({"lidar": AuxiliarySync(slop=0.01, offset=-1.0)}, deadline=0.05))
    sync("lidar", 2300)
    [synced] = sync("camera", 1300)
    assert stamps(synced) == {"camera": 1300, "lidar": 2300}
    assert sync.sync.counts()["lidar"]["dropped:reset"] == 3
