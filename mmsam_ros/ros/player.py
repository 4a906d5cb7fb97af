# SPDX-License-Identifier: Apache-2.0
"""Plays a rosbag2 recording into ROS 2, without rosbag2 or the `ros2` command.

Publishes the bag's serialised bytes, paced on the steady clock by their receive times.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import cast

import rclpy
from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from rosbags import interfaces as bag
from rosbags.rosbag2 import Reader
from rosgraph_msgs.msg import Clock

from mmsam_ros._util import require
from mmsam_ros.ros.bags import open_raw, read_messages
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.interface import message_class
from mmsam_ros.ros.logs import ensure_log_folder

NODE = "mmsam_replay"
MAX_QUEUE = 1000  # messages of a latched topic that late subscribers get
LOOP_GAP = 0.1  # seconds of bag time between the last message of a loop and the first of the next
CLOCK_PERIOD = 0.025  # seconds between two messages on /clock while no other message is due
SETTLED = 0.5  # seconds without a new subscription after which all are taken to be there
FLUSH = 5.0  # seconds that reliable subscribers get to acknowledge the last messages


@dataclass(frozen=True)
class ReplayConfig:
    """What to play and how. Seconds; those of `start` and `duration` are bag time."""

    bag: Path
    rate: float = 1.0
    loop: bool = False
    start: float = 0.0
    duration: float | None = None
    remap: Sequence[str] = ()
    clock: bool = False
    wait: float = 10.0

    def __post_init__(self) -> None:
        for name, value in (("rate", self.rate), ("duration", self.duration)):
            fits = value is None or 0 < value < inf
            require(fits, f"--{name}", value, "a number above 0", RosError)
        for name, value in (("start", self.start), ("wait", self.wait)):
            require(0 <= value < inf, f"--{name}", value, "a number from 0", RosError)


@dataclass
class Summary:
    """What a replay did. `latest`: seconds by which the latest message was behind its time."""

    published: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)  # topic -> reason
    loops: int = 0
    seconds: float = 0.0
    latest: float = 0.0

    def __str__(self) -> str:
        topics = ", ".join(f"{topic} {count}" for topic, count in sorted(self.published.items()))
        skipped = ", ".join(f"{topic} ({why})" for topic, why in sorted(self.skipped.items()))
        return (
            f"played {self.published.total()} messages in {self.seconds:.2f} s, "
            f"{self.loops} time(s): {topics or 'none'}; skipped: {skipped or 'none'}; "
            f"late at worst {self.latest * 1e3:.1f} ms"
        )


def play_bag(config: ReplayConfig, ros_args: Sequence[str], stop: threading.Event) -> None:
    """Play `config.bag` until its end or until `stop` is set; see `mmsam_ros.ros.replay.play`."""
    with open_raw(config.bag) as reader:
        try:
            ensure_log_folder()
            rclpy.init(args=list(ros_args), signal_handler_options=SignalHandlerOptions.NO)
        except RuntimeError as error:  # rclpy's own have no other base
            raise RosError(f"ROS arguments {' '.join(ros_args)}: {error}") from error
        with ExitStack() as closing:
            closing.callback(rclpy.try_shutdown)
            node = rclpy.create_node(NODE, start_parameter_services=False)
            closing.callback(node.destroy_node)
            summary = Player(config, reader, node, stop).run()
    _say(str(summary))


def _say(text: str) -> None:
    print(f"replay: {text}", flush=True)


def parse_remaps(config: ReplayConfig, reader: Reader) -> dict[str, str]:
    """FROM -> TO; RosError if one is not FROM:=TO, or names a topic that is not in the bag."""
    names = {}
    for remap in config.remap:
        source, _, names[source] = remap.partition(":=")
        if not (source and names[source]):
            raise RosError(f"--remap: found {remap!r}, expected FROM:=TO")
        if source not in reader.topics:
            found = ", ".join(sorted(reader.topics))
            raise RosError(f"--remap: found topic {source!r}, but the bag has {found}")
    return names


def offered_qos(connection: bag.Connection) -> QoSProfile:
    """What all recorded publishers offered, else reliable with depth 10.

    A queue below 10 is enlarged, but not that of a latched topic, which late subscribers get as a
    whole: it holds what all publishers together kept, such as one transform each.
    """
    offers = cast(bag.ConnectionExtRosbag2, connection.ext).offered_qos_profiles
    latched = connection.topic.split("/")[-1] == "tf_static"
    if offers:
        latched = all(offer.durability == bag.QosDurability.TRANSIENT_LOCAL for offer in offers)
    depths = [offer.depth for offer in offers]
    depth = min(sum(depths), MAX_QUEUE) if latched else max(depths, default=0)
    weak = any(offer.reliability == bag.QosReliability.BEST_EFFORT for offer in offers)
    everything = any(offer.history == bag.QosHistory.KEEP_ALL for offer in offers)
    return QoSProfile(
        history=HistoryPolicy.KEEP_ALL if everything else HistoryPolicy.KEEP_LAST,
        depth=depth if latched and depth else max(depth, 10),
        reliability=ReliabilityPolicy.BEST_EFFORT if weak else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def window(config: ReplayConfig, reader: Reader) -> tuple[int, int]:
    """First bag time to play and first one not to play (ns)."""
    if not reader.message_count:
        raise RosError(f"{config.bag}: the bag has no messages")
    begin, end = reader.start_time + round(config.start * 1e9), reader.end_time
    if begin >= end:
        length = (end - reader.start_time) / 1e9
        raise RosError(f"--start: found {config.start} s, but the bag is {length:.3f} s long")
    if config.duration is not None:
        end = min(end, begin + round(config.duration * 1e9))
    return begin, end


class Player:
    """An open bag and its publishers on `node`; `stop` ends it early."""

    def __init__(
        self, config: ReplayConfig, reader: Reader, node: Node, stop: threading.Event
    ) -> None:
        self.config, self.reader, self.node, self.stop = config, reader, node, stop
        self.begin, self.end = window(config, reader)
        self.summary = Summary()
        self.publishers: dict[int, Publisher] = {}  # by id of the bag's connection
        self.latched: list[bag.Connection] = []
        self._advertise()
        self.connections = [c for c in reader.connections if c.id in self.publishers]
        self.clock: Publisher | None = None
        if config.clock:
            if any(publisher.topic_name == "/clock" for publisher in self.publishers.values()):
                raise RosError("--clock: the bag has its own /clock; remap it or omit --clock")
            self.clock = node.create_publisher(Clock, "/clock", 10)

    def _advertise(self) -> None:
        names = parse_remaps(self.config, self.reader)
        for connection in self.reader.connections:
            kind = message_class(connection.msgtype)
            if kind is None:
                self.summary.skipped[connection.topic] = f"{connection.msgtype} is not installed"
                continue
            qos, topic = offered_qos(connection), names.get(connection.topic, connection.topic)
            try:
                publisher = self.node.create_publisher(kind, topic, qos)
            except InvalidTopicNameException as error:
                raise RosError(f"cannot publish on {topic!r}: {error}") from error
            self.publishers[connection.id] = publisher
            if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
                self.latched.append(connection)
        for topic, why in sorted(self.summary.skipped.items()):
            _say(f"skipping {topic}: {why}")
        if not self.publishers:
            raise RosError(f"{self.config.bag}: none of its message types is installed")

    def run(self) -> Summary:
        """Wait for subscribers, play, and give reliable subscribers time to receive the rest."""
        self._wait_for_subscribers()
        started = time.monotonic()
        self._play_once()
        while self.config.loop and not self.stop.wait(LOOP_GAP / self.config.rate):
            self._play_once()
        self.summary.seconds = time.monotonic() - started
        self._flush()
        return self.summary

    def _wait_for_subscribers(self) -> None:
        """Until there are subscriptions and no new one appears, at most `wait` seconds."""
        begin = since = time.monotonic()
        count = 0
        while (now := time.monotonic()) < begin + self.config.wait and not self.stop.is_set():
            found = sum(p.get_subscription_count() for p in self.publishers.values())
            if found != count:
                count, since = found, now
            elif count and now - since >= SETTLED:
                break
            self.stop.wait(0.02)
        _say(f"{count} matched subscription(s) after {time.monotonic() - begin:.1f} s, starting")

    def _messages(self) -> Iterator[tuple[bag.Connection, int, bytes]]:
        """(connection, bag time, data); latched messages from before the beginning come first."""
        if self.latched and self.begin > self.reader.start_time:
            for connection, _, data in read_messages(self.reader, self.latched, stop=self.begin):
                yield connection, self.begin, data
        yield from read_messages(self.reader, self.connections, self.begin, self.end)

    def _play_once(self) -> None:
        self.summary.loops += 1
        origin: float | None = None
        for connection, stamp, data in self._messages():
            if origin is None:  # opening the first chunk of the bag is not lateness
                origin = time.monotonic()
            due = origin + (stamp - self.begin) / 1e9 / self.config.rate
            self._wait_until(due, stamp)
            if self.stop.is_set():
                return
            self.summary.latest = max(self.summary.latest, time.monotonic() - due)
            publisher = self.publishers[connection.id]
            publisher.publish(data)
            self.summary.published[publisher.topic_name] += 1

    def _wait_until(self, due: float, stamp: int) -> None:
        """Sleep; with --clock the bag's time goes on meanwhile and ends at `stamp`."""
        while (remaining := due - time.monotonic()) > 0 and not self.stop.is_set():
            self._tick(stamp - round(remaining * self.config.rate * 1e9))
            self.stop.wait(min(remaining, CLOCK_PERIOD) if self.clock else remaining)
        self._tick(stamp)

    def _tick(self, stamp: int) -> None:
        if self.clock is not None:
            self.clock.publish(Clock(clock=Time(nanoseconds=stamp).to_msg()))

    def _flush(self) -> None:
        end = time.monotonic() + (0.0 if self.stop.is_set() else FLUSH)
        for publisher in self.publishers.values():
            left = max(0.0, end - time.monotonic())
            if not publisher.wait_for_all_acked(Duration(seconds=left)) and left:
                _say(f"{publisher.topic_name}: a subscriber has not acknowledged the last messages")
