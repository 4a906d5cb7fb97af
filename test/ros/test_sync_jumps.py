# SPDX-License-Identifier: Apache-2.0
"""Time jumps back: looped bags, clock steps, the loop that breaks the stock synchroniser."""

from __future__ import annotations

import itertools

import pytest
from sync_feed import feed, nonzero, stamps

from mmsam_ros.ros.sync import AuxiliarySync


@pytest.mark.parametrize("order", list(itertools.permutations(("camera", "lidar", "thermal"))))
@pytest.mark.parametrize("max_age", [0.0, 0.3])
def test_looped_bag_with_a_drop_out_loses_no_frame(order: tuple[str, ...], max_age: float) -> None:
    """A sensor drops out before the end of a bag: the stock synchroniser gives 80, 0, 0 sets."""
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
