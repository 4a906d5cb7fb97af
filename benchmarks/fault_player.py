# SPDX-License-Identifier: Apache-2.0
"""Plays a synthetic bag in a loop with random faults; `bench_faults.py` starts and kills it.

Each line of its log is an image that it is about to publish: time, stamp, fault (`-`: none), number
of subscriptions.
"""

import argparse
import array
import heapq
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import rclpy
from rclpy.serialization import deserialize_message

from mmsam_ros.ros.interface import message_class
from mmsam_ros.ros.recording import Recording

CAMERA, INFO, LIDAR, THERMAL = (
    "/camera/image", "/camera/camera_info", "/lidar/points", "/thermal/image"
)  # fmt: skip
TOPICS = (CAMERA, INFO, LIDAR, THERMAL, "/thermal/camera_info")
GAP = 0.1  # seconds between two loops
SPAN = (2.0, 5.0)  # seconds that a fault lasts, and that there is none in between
SECOND = 10**9

Copies = Iterator[tuple[float, int]]  # delay in seconds and shift of the stamp in ns, of each copy
Spoil = Callable[[Any, random.Random], None]


@dataclass(frozen=True)
class Fault:
    """What happens to the messages of a topic."""

    topic: str
    times: Callable[[float, random.Random], Copies] = lambda t, rng: iter([(0.0, 0)])
    spoil: Spoil = lambda message, rng: None

    @property
    def of_camera(self) -> bool:
        """Whether images are not as they should be."""
        return self.topic == CAMERA


def _every(share: float) -> Callable[[float, random.Random], Copies]:
    return lambda t, rng: iter([(0.0, 0)] if rng.random() < share else [])


def _later(low: float, high: float) -> Callable[[float, random.Random], Copies]:
    return lambda t, rng: iter([(rng.uniform(low, high), 0)])


def _shifted(shift: Callable[[float], float]) -> Callable[[float, random.Random], Copies]:
    return lambda t, rng: iter([(0.0, round(shift(t) * SECOND))])


def _set(**values: Any) -> Spoil:
    def spoil(message: Any, rng: random.Random) -> None:
        for name, value in values.items():
            setattr(message, name, value)

    return spoil


def _unstamped(message: Any, rng: random.Random) -> None:
    message.header.stamp.sec = message.header.stamp.nanosec = 0


def _far(message: Any, rng: random.Random) -> None:
    if rng.random() < 0.2:
        message.header.stamp.sec += 3600


def _cut(message: Any, rng: random.Random) -> None:
    message.data = array.array("B", bytes(message.data)[: rng.randrange(len(message.data))])


def _smaller(message: Any, rng: random.Random) -> None:
    height = message.height // 2
    message.data = array.array("B", bytes(message.data)[: height * message.step])
    message.height = height


def _other_camera(message: Any, rng: random.Random) -> None:
    if rng.random() < 0.5:
        message.header.frame_id = "another_camera"


FAULTS = {
    "lidar lost": Fault(LIDAR, _every(0.0)),
    "lidar with gaps": Fault(LIDAR, _every(0.5)),
    "lidar slow": Fault(LIDAR, _every(0.2)),
    "lidar late": Fault(LIDAR, _later(0.05, 0.3)),
    "lidar bursty": Fault(LIDAR, lambda t, rng: iter([(0.5 - t % 0.5, 0)])),
    "lidar duplicated": Fault(LIDAR, lambda t, rng: iter([(0.0, 0), (0.02, 0)])),
    "lidar without stamps": Fault(LIDAR, spoil=_unstamped),
    "lidar in the future": Fault(LIDAR, spoil=_far),
    "lidar on another clock": Fault(LIDAR, _shifted(lambda t: 37.0)),
    "lidar drifting": Fault(LIDAR, _shifted(lambda t: 0.02 * t)),
    "lidar damaged": Fault(LIDAR, spoil=_cut),
    "thermal lost": Fault(THERMAL, _every(0.0)),
    "thermal in another encoding": Fault(THERMAL, spoil=_set(encoding="bayer")),
    "thermal damaged": Fault(THERMAL, spoil=_cut),
    "calibration lost": Fault(INFO, _every(0.0)),
    "calibration of another camera": Fault(INFO, spoil=_set(width=100, height=90)),
    "calibration empty": Fault(INFO, spoil=_set(k=[0.0] * 9, p=[0.0] * 12)),
    "camera lost": Fault(CAMERA, _every(0.0)),
    "camera late": Fault(CAMERA, _later(0.05, 0.3)),
    "camera bursty": Fault(CAMERA, lambda t, rng: iter([(0.5 - t % 0.5, 0)])),
    "camera duplicated": Fault(CAMERA, lambda t, rng: iter([(0.0, 0), (0.02, 0)])),
    "camera without stamps": Fault(CAMERA, spoil=_unstamped),
    "camera in the future": Fault(CAMERA, spoil=_far),
    "camera damaged": Fault(CAMERA, spoil=_cut),
    "camera smaller": Fault(CAMERA, spoil=_smaller),
    "camera in another encoding": Fault(CAMERA, spoil=_set(encoding="bgr8")),
    "camera in an unknown encoding": Fault(CAMERA, spoil=_set(encoding="what")),
    "two cameras": Fault(CAMERA, spoil=_other_camera),
}


@dataclass
class Schedule:
    """Which fault is there at a time; half of the time there is none."""

    rng: random.Random
    _until: float = 0.0
    _name: str = "-"
    _bag: list[str] = field(default_factory=list)  # those of this round

    def at(self, time: float) -> str:
        """The fault's name, `-` for none."""
        while time >= self._until:
            self._until = max(self._until, 0.0) + self.rng.uniform(*SPAN)
            if self._name != "-":
                self._name = "-"
                continue
            if not self._bag:
                self._bag = self.rng.sample(sorted(FAULTS), len(FAULTS))
            self._name = self._bag.pop()
        return self._name


def recorded(bag: Path) -> list[tuple[float, str, bytes]]:
    """Seconds from the beginning, topic and data of the messages to play."""
    with Recording(bag) as reader:
        found = [(t, c.topic, data) for c, t, data in reader.messages(reader.connections)]
    return [((t - found[0][0]) / 1e9, topic, data) for t, topic, data in found if topic in TOPICS]


def play(bag: Path, log: TextIO, seed: int, faulty: bool) -> None:
    """Until it is killed. Stamps of each loop differ by a nanosecond, so that each is known."""
    rclpy.init()
    node = rclpy.create_node("fault_player")
    messages, kinds = recorded(bag), {}
    with Recording(bag) as reader:
        for connection in reader.connections:
            kinds[connection.topic] = message_class(connection.msgtype)
    publishers = {t: node.create_publisher(kinds[t], t, 20) for t in TOPICS}
    while not publishers[CAMERA].get_subscription_count():
        time.sleep(0.05)
    length, origin = messages[-1][0] + GAP, time.monotonic()
    rng, queue, order = random.Random(seed), list[Any](), 0
    schedule, loop = Schedule(random.Random(seed + 1)), seed * 1000
    while True:
        for at, topic, data in messages:
            due = (loop - seed * 1000) * length + at
            name = schedule.at(due) if faulty else "-"
            fault = FAULTS.get(name)
            hit = fault is not None and fault.topic == topic
            copies = fault.times(due, rng) if fault is not None and hit else iter([(0.0, 0)])
            for delay, shift in copies:
                message = deserialize_message(data, kinds[topic])
                stamp = message.header.stamp
                total = stamp.sec * SECOND + stamp.nanosec + loop + shift
                stamp.sec, stamp.nanosec = divmod(total, SECOND)
                if fault is not None and hit:
                    fault.spoil(message, rng)
                order += 1
                heapq.heappush(queue, (due + delay, order, topic, message, name))
            while queue and queue[0][0] <= due:
                moment, _, on, message, why = heapq.heappop(queue)
                time.sleep(max(0.0, origin + moment - time.monotonic()))
                if on == CAMERA:
                    stamp, count = message.header.stamp, publishers[CAMERA].get_subscription_count()
                    total = stamp.sec * SECOND + stamp.nanosec
                    ill = why if why in FAULTS and FAULTS[why].of_camera else "-"
                    print(f"{time.time():.6f}\t{total}\t{ill}\t{count}", file=log, flush=True)
                publishers[on].publish(message)
        loop += 1


def main() -> None:
    """Command line of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bag", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sound", action="store_true")
    args = parser.parse_args()
    with args.log.open("a") as log:
        play(args.bag, log, args.seed, not args.sound)


if __name__ == "__main__":
    main()
