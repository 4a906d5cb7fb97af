# SPDX-License-Identifier: Apache-2.0
"""What does not come is said once: inputs without messages, sensors that never match."""

from __future__ import annotations

import dataclasses

import pytest

from mmsam_ros.ros.sets import Outcome
from mmsam_ros.ros.sync import AuxiliarySync, SyncConfig, Synchroniser
from mmsam_ros.ros.watch import PATIENCE, Watch


@dataclasses.dataclass
class Stream:
    """An input, without ROS."""

    name: str
    last: float | None = None
    published: bool = False
    topic: str | None = "/t"

    def explain_silence(self) -> str:
        return f"on /{self.name}"


class Watched:
    """A watch on a clock that the test sets."""

    def __init__(self, *names: str) -> None:
        self.now = 100.0
        self.warned: list[str] = []
        self.told: list[str] = []
        self.streams = {name: Stream(name) for name in names}
        self.apart: dict[str, float] = {}
        self.ros_time = 1
        self.watch = Watch(
            list(self.streams.values()), lambda: self.apart, {"lidar": 0.0, "thermal": 1.5},
            self.warned.append, self.told.append, lambda: self.now, lambda: self.ros_time,
        )  # fmt: skip

    def go(self, seconds: float, *coming: str) -> None:
        """Time passes, with messages of some inputs."""
        for _ in range(round(seconds * 2)):
            self.now += 0.5
            for name in coming:
                self.streams[name].last = self.now
            self.watch.look()


def test_a_clock_that_does_not_come_is_named_once() -> None:
    found = Watched("camera")
    found.ros_time = 0
    found.go(4.5, "camera")
    assert found.warned == []
    found.go(60, "camera")
    (line,) = found.warned
    assert line.startswith("use_sim_time is set, and nothing has come on /clock for 5 s: ")


def silence(name: str) -> str:
    return f"{name}: nothing received for 5 s on /{name}"


def test_what_never_comes_is_named_once() -> None:
    found = Watched("camera", "lidar", "camera_info")
    found.go(4.5)
    assert found.warned == []
    found.go(60)
    assert found.warned == [silence("camera"), silence("lidar")]
    found.go(10, "camera", "lidar")
    assert found.warned[2:] == [silence("camera_info")], "only with a camera"


def test_a_look_tells_one_silence() -> None:
    """Each explanation asks the graph, for which all else of the node waits."""
    found = Watched("camera", "lidar", "thermal")
    found.go(5)
    assert found.warned == [silence("camera")]
    found.go(0.5)
    assert found.warned == [silence("camera"), silence("lidar")]
    found.go(0.5)
    assert found.warned == [silence(name) for name in ("camera", "lidar", "thermal")]


def test_a_sensor_that_stops_is_named_while_the_camera_runs() -> None:
    found = Watched("camera", "lidar", "camera_info")
    found.go(10, "camera", "lidar", "camera_info")
    found.go(10, "camera")
    gone = "lidar: nothing received for 5 s on /t, which nobody publishes any more"
    assert found.warned == [gone], "one CameraInfo may be all"
    found.go(2, "camera", "lidar")
    found.streams["lidar"].published = True
    found.go(10, "camera")
    assert found.warned == [gone, silence("lidar")], "each time"


def test_the_end_of_a_bag_is_one_line() -> None:
    found = Watched("camera", "lidar")
    found.go(10, "camera", "lidar")
    found.go(60)
    assert found.warned == []
    end = "camera: nothing received for 5 s on /t, which nobody publishes any more"
    assert found.told == [end]
    found.go(1, "camera", "lidar")
    found.streams["camera"].published = True
    found.go(10, "lidar")
    assert found.warned == [silence("camera")], "a publisher that is silent"


@pytest.mark.parametrize(
    ("name", "ahead", "text"),
    [
        ("lidar", -37.0, "37.00 s behind the camera's. If its clock is off by a constant, set "
         "lidar.offset to 37.00; if they are that late to arrive, raise sync.deadline above 37.00"),
        ("lidar", 3.25, "3.25 s ahead of the camera's. If its clock is off by a constant, set "
         "lidar.offset to -3.25"),
        ("thermal", 0.5, "set thermal.offset to 1.00"),
        ("lidar", -1.7e9, "1700000000.00 s behind the camera's. One of the two has another clock "
         "or stamps that are not set"),
    ],
)  # fmt: skip
def test_a_sensor_that_never_matches_is_named_with_the_distance(
    name: str, ahead: float, text: str
) -> None:
    found = Watched()
    found.apart = {name: ahead}
    found.go(PATIENCE)
    assert found.warned == []
    found.go(60)
    (line,) = found.warned
    assert line.startswith(
        f"{name}: its messages come but never match (masks use older ones or none): its stamps are "
    )
    assert text in line
    found.apart = {}
    found.go(1)
    found.apart = {name: ahead}
    found.go(6)
    assert len(found.warned) == 2, "again after it has matched"


def feed(sync: Synchroniser, ahead: float, latency: float, seconds: float = 4.0) -> None:
    """A camera of 8 Hz and a LiDAR of 16 Hz, whose stamps are `ahead` and messages late."""
    messages = [(k / 8, "camera", k / 8) for k in range(round(8 * seconds))]
    messages += [(k / 16 + latency, "lidar", k / 16 + ahead) for k in range(round(16 * seconds))]
    for now, stream, stamp in sorted(messages):
        sync.add(stream, round((1000 + stamp) * 1e9), None, now)


@pytest.mark.parametrize(
    ("ahead", "latency", "offset", "distance"),
    [
        (0.0, 0.0, 0.0, None),
        (37.0, 0.0, 0.0, 37.0),
        (-37.0, 0.0, 37.0, None),
        (-0.5, 0.01, 0.0, -0.51),  # a clock that is behind, or messages that are late
        (0.0, 1.0, 0.0, -1.0),
        (-3.0, 0.0, 1.0, -2.0),
        (-1000.0, 0.0, 0.0, -1000.0),
    ],
)
def test_the_distance_of_stamps(
    ahead: float, latency: float, offset: float, distance: float | None
) -> None:
    config = SyncConfig({"lidar": AuxiliarySync(slop=0.05, offset=offset)}, deadline=0.1)
    sync = Synchroniser(config)
    feed(sync, ahead, latency)
    found = sync.unmatched()
    assert found == ({} if distance is None else {"lidar": pytest.approx(distance, abs=1e-6)})


@pytest.mark.parametrize(
    ("latency", "hertz", "ahead", "deadline", "distance"),
    [
        (0.15, 10, 0.0, 0.1, -0.15),  # after each deadline
        (0.25, 10, 0.0, 0.1, -0.25),
        (0.15, 5, 0.0, 0.1, -0.15),
        (0.02, 5, -0.15, 0.1, -0.17),  # a clock that is behind
        (0.04, 10, 0.0, 0.02, -0.04),  # within slop, but too late
        (0.05, 10, 0.0, 0.1, None),
        (0.15, 10, 0.0, 0.2, None),  # what the line says to set
        (0.02, 2, 0.0, 0.1, None),  # held between matches: a slower sensor
        (0.0, 20, 0.0, 0.1, None),
    ],
)
def test_what_is_only_held_has_not_matched(
    latency: float, hertz: int, ahead: float, deadline: float, distance: float | None
) -> None:
    """Messages that are too late for every set are reused for the next one."""
    config = AuxiliarySync(slop=0.05, max_age=0.5, min_interval=-1.0)
    sync = Synchroniser(SyncConfig({"lidar": config}, deadline=deadline))
    messages = [(k / 10, "camera", k / 10) for k in range(100)]
    messages += [
        (k / hertz + latency, "lidar", k / hertz + ahead) for k in range(round(10 * hertz))
    ]
    found: list[dict[str, float]] = []
    for now, stream, stamp in sorted(messages):
        for synced in sync.add(stream, round((1000 + stamp) * 1e9), None, now):
            sync.settle(synced, Outcome("used"))
        found.append(sync.unmatched())
    counts = sync.counts()["lidar"]
    if distance is None:
        assert not any(found)
        assert counts["used"]
    else:
        assert counts["held"] > 10 * counts["used"]
        assert found[-1] == {"lidar": pytest.approx(distance, abs=1e-6)}


def test_few_messages_are_not_enough() -> None:
    sync = Synchroniser(SyncConfig({"lidar": AuxiliarySync(slop=0.05)}, deadline=0.1))
    feed(sync, 37.0, 0.0, seconds=1.0)
    assert sync.unmatched() == {}


def test_a_sensor_that_has_gone_is_not_accused() -> None:
    """Of stamps that are off: it is published no longer, or the node begins anew."""
    for leave in (lambda sync: sync.expect("lidar", False), lambda sync: sync.flush(20.0)):
        sync = Synchroniser(SyncConfig({"lidar": AuxiliarySync(slop=0.05, max_age=0.2)}, 0.1))
        for k in range(40):
            for stream, ahead in (("camera", 0), ("lidar", 10**10)):
                for synced in sync.add(stream, (k + 1) * 10**8 + ahead, None, k / 10):
                    sync.settle(synced, Outcome("used"))
        assert sync.unmatched() == {"lidar": pytest.approx(10.0, abs=0.2)}
        leave(sync)
        assert sync.unmatched() == {}
    feed(sync, 37.0, 0.0, seconds=2.0)
    assert sync.unmatched()
