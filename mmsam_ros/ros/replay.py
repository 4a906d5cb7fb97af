# SPDX-License-Identifier: Apache-2.0
"""Plays a rosbag2 recording into ROS 2 without rosbag2 or the `ros2` command.

Messages are published as the serialised bytes of the bag, paced on the steady clock by the bag's
receive times. `ros2 run mmsam_ros replay` enters at `main`; `mmsam replay` at `play`.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import math
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mmsam_ros.ros.bags import check_cdr, open_raw, read_messages
from mmsam_ros.ros.errors import RosError

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.publisher import Publisher
    from rclpy.qos import QoSProfile
    from rosbags.interfaces import Connection, ConnectionExtRosbag2
    from rosbags.rosbag2 import Reader

NODE = "mmsam_replay"
MAX_QUEUE = 1000  # messages that late subscribers of a latched topic get
LOOP_GAP = 0.1  # seconds of bag time between the last message of a loop and the first of the next
CLOCK_PERIOD = 0.025  # seconds between two messages on /clock while no other message is due
SETTLED = 0.5  # seconds without a new subscription after which all are taken to be there
FLUSH = 5.0  # seconds that reliable subscribers get to acknowledge the last messages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path, help="rosbag2 folder, or a bare .mcap or .db3 file")
    parser.add_argument("--rate", type=float, default=1.0, help="speed, 2 is twice as fast")
    parser.add_argument("--loop", action="store_true", help="play again and again")
    parser.add_argument(
        "--start", type=float, default=0.0, metavar="S", help="seconds of the bag to leave out"
    )
    parser.add_argument(
        "--duration", type=float, metavar="S", help="seconds of the bag to play (default: all)"
    )
    parser.add_argument(
        "--remap", nargs="+", action="extend", default=[], metavar="FROM:=TO", help="rename topics"
    )
    parser.add_argument("--clock", action="store_true", help="publish the bag's time on /clock")
    parser.add_argument(
        "--wait",
        type=float,
        default=10.0,
        metavar="S",
        help="longest time to wait for subscribers before the first message (default: 10)",
    )


@dataclass(frozen=True)
class ReplayConfig:
    """Times in seconds; `start` and `duration` are bag time."""

    bag: Path
    rate: float = 1.0
    loop: bool = False
    start: float = 0.0
    duration: float | None = None
    remap: tuple[str, ...] = ()
    clock: bool = False
    wait: float = 10.0

    def __post_init__(self) -> None:
        positive = {"rate": self.rate, "duration": 1.0 if self.duration is None else self.duration}
        for name, value in (positive | {"start": self.start, "wait": self.wait}).items():
            if not math.isfinite(value) or value < 0 or (name in positive and value == 0):
                expected = "a number > 0" if name in positive else "a number >= 0"
                raise RosError(f"--{name} is {value}, expected {expected}")

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> ReplayConfig:
        values = {name: getattr(args, name) for name in cls.__dataclass_fields__}
        return cls(**values | {"remap": tuple(args.remap)})


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


def _say(text: str) -> None:
    print(f"replay: {text}", flush=True)


def parse_remaps(config: ReplayConfig, reader: Reader) -> dict[str, str]:
    """FROM -> TO; RosError for what is not FROM:=TO, or names a topic that is not in the bag."""
    names = {}
    for remap in config.remap:
        source, separator, target = remap.partition(":=")
        if not (source and separator and target):
            raise RosError(f"--remap got {remap!r}, expected FROM:=TO")
        if source not in reader.topics:
            found = ", ".join(sorted(reader.topics))
            raise RosError(f"--remap names {source!r}, the bag has: {found}")
        names[source] = target
    return names


def message_class(msgtype: str) -> Any | None:
    """The installed class of `package/msg/Name`, None where it is not installed."""
    package, _, name = msgtype.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name, None)
    except ModuleNotFoundError:
        return None


def offered_qos(connection: Connection) -> QoSProfile:
    """What the recorded publishers offered, else reliable with depth 10.

    Of several publishers the weakest promise that all kept; a queue of fewer than 10 is enlarged,
    except for latched topics, where late subscribers get the whole queue: as much as all of the
    publishers together kept, each a transform, for instance.
    """
    from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
    from rosbags.interfaces import QosDurability, QosHistory, QosReliability

    offers = cast("ConnectionExtRosbag2", connection.ext).offered_qos_profiles
    latched = connection.topic.split("/")[-1] == "tf_static"
    if offers:
        latched = all(offer.durability == QosDurability.TRANSIENT_LOCAL for offer in offers)
    depths = [offer.depth for offer in offers]
    depth = min(sum(depths), MAX_QUEUE) if latched else max(depths, default=0)
    weak = any(offer.reliability == QosReliability.BEST_EFFORT for offer in offers)
    everything = any(offer.history == QosHistory.KEEP_ALL for offer in offers)
    return QoSProfile(
        history=HistoryPolicy.KEEP_ALL if everything else HistoryPolicy.KEEP_LAST,
        depth=depth if latched and depth else max(depth, 10),
        reliability=ReliabilityPolicy.BEST_EFFORT if weak else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def window(config: ReplayConfig, reader: Reader) -> tuple[int, int]:
    """First bag time to play and first one not to (ns)."""
    if not reader.message_count:
        raise RosError(f"{config.bag}: the bag has no messages")
    begin, end = reader.start_time + round(config.start * 1e9), reader.end_time
    if begin >= end:
        length = (end - reader.start_time) / 1e9
        raise RosError(f"--start is {config.start} s, the bag is {length:.3f} s long")
    if config.duration is not None:
        end = min(end, begin + round(config.duration * 1e9))
    return begin, end


class Replay:
    """One bag, opened, with its publishers on `node`. `stop` ends it early."""

    def __init__(
        self, config: ReplayConfig, reader: Reader, node: Node, stop: threading.Event
    ) -> None:
        self.config, self.reader, self.node, self.stop = config, reader, node, stop
        self.begin, self.end = window(config, reader)
        self.summary = Summary()
        self.publishers: dict[int, Publisher] = {}  # by id of the bag's connection
        self.connections: list[Connection] = []
        self.latched: list[Connection] = []
        self._advertise()
        self.clock = self._advertise_clock() if config.clock else None

    def _advertise(self) -> None:
        from rclpy.exceptions import InvalidTopicNameException
        from rclpy.qos import DurabilityPolicy

        names = parse_remaps(self.config, self.reader)
        missing: dict[str, list[str]] = {}
        for connection in self.reader.connections:
            kind = message_class(connection.msgtype)
            if kind is None:
                missing.setdefault(connection.msgtype, []).append(connection.topic)
                continue
            qos, topic = offered_qos(connection), names.get(connection.topic, connection.topic)
            try:
                publisher = self.node.create_publisher(kind, topic, qos)
            except InvalidTopicNameException as error:
                raise RosError(f"cannot publish on {topic!r}: {error}") from error
            self.publishers[connection.id] = publisher
            self.connections.append(connection)
            if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
                self.latched.append(connection)
        for msgtype, topics in sorted(missing.items()):
            _say(f"{msgtype} is not installed, skipping {', '.join(topics)}")
            self.summary.skipped |= dict.fromkeys(topics, f"{msgtype} is not installed")
        if not self.publishers:
            raise RosError(f"{self.config.bag}: none of its message types is installed")

    def _advertise_clock(self) -> Publisher:
        from rosgraph_msgs.msg import Clock

        if any(publisher.topic_name == "/clock" for publisher in self.publishers.values()):
            raise RosError("the bag has its own /clock; leave --clock out or remap it")
        return self.node.create_publisher(Clock, "/clock", 10)

    def run(self) -> Summary:
        """Waits for subscribers, plays, and gives reliable subscribers time to take it in."""
        self._wait_for_subscribers()
        started = time.monotonic()
        for _ in itertools.count() if self.config.loop else range(1):
            self._play_once()
            if self.stop.is_set():
                break
            if self.config.loop:
                self.stop.wait(LOOP_GAP / self.config.rate)
        self.summary.seconds = time.monotonic() - started
        self._flush()
        return self.summary

    def _wait_for_subscribers(self) -> None:
        """Until some subscription is there and none has come for a while, at most `wait`."""
        begin = since = time.monotonic()
        count = 0
        while (now := time.monotonic()) < begin + self.config.wait and not self.stop.is_set():
            if (matched := self._subscriptions()) != count:
                count, since = matched, now
            if count and now - since >= SETTLED:
                break
            self.stop.wait(0.02)
        waited = time.monotonic() - begin
        _say(f"{self._subscriptions()} matched subscription(s) after {waited:.1f} s, starting")

    def _subscriptions(self) -> int:
        return sum(publisher.get_subscription_count() for publisher in self.publishers.values())

    def _messages(self) -> Iterator[tuple[int, Connection, bytes]]:
        """(bag time, connection, data); latched ones of before the beginning come at it."""
        if self.latched and self.begin > self.reader.start_time:
            for connection, _, data in read_messages(self.reader, self.latched, stop=self.begin):
                yield self.begin, connection, data
        rest = read_messages(self.reader, self.connections, self.begin, self.end)
        for connection, stamp, data in rest:
            yield stamp, connection, data

    def _play_once(self) -> None:
        self.summary.loops += 1
        origin: float | None = None
        for stamp, connection, data in self._messages():
            if origin is None:  # opening the first chunk of the bag is not lateness
                origin = time.monotonic()
            due = origin + (stamp - self.begin) / 1e9 / self.config.rate
            self._wait_until(due, stamp)
            if self.stop.is_set():
                return
            self.summary.latest = max(self.summary.latest, time.monotonic() - due)
            publisher = self.publishers[connection.id]
            publisher.publish(check_cdr(self.config.bag, connection.topic, data))
            self.summary.published[publisher.topic_name] += 1

    def _wait_until(self, due: float, stamp: int) -> None:
        """Sleeps; with --clock the bag's time goes on meanwhile and ends at `stamp`."""
        while (remaining := due - time.monotonic()) > 0 and not self.stop.is_set():
            if self.clock is None:
                self.stop.wait(remaining)
            else:
                self._tick(stamp - round(remaining * self.config.rate * 1e9))
                self.stop.wait(min(remaining, CLOCK_PERIOD))
        if self.clock is not None:
            self._tick(stamp)

    def _tick(self, stamp: int) -> None:
        from builtin_interfaces.msg import Time
        from rosgraph_msgs.msg import Clock

        assert self.clock is not None
        seconds, nanoseconds = divmod(stamp, 1_000_000_000)
        self.clock.publish(Clock(clock=Time(sec=seconds, nanosec=nanoseconds)))

    def _flush(self) -> None:
        from rclpy.duration import Duration

        end = time.monotonic() + (0.0 if self.stop.is_set() else FLUSH)
        for publisher in self.publishers.values():
            left = max(0.0, end - time.monotonic())
            if not publisher.wait_for_all_acked(Duration(seconds=left)) and left:
                _say(f"{publisher.topic_name}: a subscriber has not acknowledged the last messages")


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C (as often as it comes) and SIGTERM set."""
    stop = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def play(config: ReplayConfig, ros_args: Sequence[str] = ()) -> Summary:
    """Plays `config.bag` from the main thread; `ros_args` go to rclpy (--ros-args ...)."""
    with _stop_on_signals() as stop, open_raw(config.bag) as reader:
        window(config, reader)  # options are checked before anything is started
        parse_remaps(config, reader)
        try:
            import rclpy
            from rclpy.signals import SignalHandlerOptions
        except ImportError as error:
            raise RosError(f"replay needs ROS 2 with rclpy: {error}") from error
        try:
            rclpy.init(args=list(ros_args), signal_handler_options=SignalHandlerOptions.NO)
        except RuntimeError as error:  # rclpy's own have no other base
            raise RosError(f"ROS arguments {' '.join(ros_args)}: {error}") from error
        try:
            node = rclpy.create_node(NODE, start_parameter_services=False)
            try:
                summary = Replay(config, reader, node, stop).run()
            finally:
                node.destroy_node()
        finally:
            rclpy.try_shutdown()
    _say(str(summary))
    return summary


def split_ros_args(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """(own arguments, those between --ros-args and -- or the end).

    rclpy's own `remove_ros_args` would take `FROM:=TO` of --remap for an outdated ROS argument.
    """
    own: list[str] = []
    ros: list[str] = []
    inside = False
    for arg in args:
        if inside and arg == "--":
            inside = False
        elif inside or arg == "--ros-args":
            inside = True
            ros.append(arg)
        else:
            own.append(arg)
    return own, ros


def main(args: list[str] | None = None) -> int:
    """Entry point of `ros2 run mmsam_ros replay`; ROS arguments may follow the own ones."""
    own, ros = split_ros_args(sys.argv[1:] if args is None else args)
    parser = argparse.ArgumentParser("replay", description="Plays a rosbag2 recording.")
    add_arguments(parser)
    try:
        play(ReplayConfig.from_arguments(parser.parse_args(own)), ros)
    except RosError as error:
        print(f"replay: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
