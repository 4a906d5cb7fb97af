# SPDX-License-Identifier: Apache-2.0
"""Plays a recording into ROS 2, without rosbag2 or the `ros2` command.

Publishes the bag's serialised bytes, paced on the steady clock by their receive times.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import rclpy
from rclpy import qos
from rclpy.duration import Duration, Infinite
from rclpy.exceptions import InvalidTopicNameException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from rosbags import interfaces as bag
from rosgraph_msgs.msg import Clock

from mmsam_ros._util import require
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.interface import message_class
from mmsam_ros.ros.logs import ensure_log_folder
from mmsam_ros.ros.recording import Recording
from mmsam_ros.ros.storage import Connection

NODE = "mmsam_replay"
LATCHED = qos.DurabilityPolicy.TRANSIENT_LOCAL
MAX_QUEUE = 1000  # messages of a latched topic that late subscribers get
LOOP_GAP = 0.1  # seconds of bag time between the last message of a loop and the first of the next
CLOCK_PERIOD = 0.025  # seconds between two messages on /clock while no other message is due
SETTLED = 1.0  # seconds without a new node or subscription after which all are taken to be there
MAX_GAP = 3600.0  # seconds of bag time without a message that are waited for
MOST_SECONDS = 1e9  # of an option; and a rate is within
RATES = (1e-5, 1e5)
CLOCK_END = 2**31 * 10**9  # ns that a message on /clock does not reach
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
    wait_for: Sequence[str] = ()  # topics

    def __post_init__(self) -> None:
        least, most = RATES
        fits, range_ = least <= self.rate <= most, f"a number above 0, {least:g} to {most:g}"
        require(fits, "--rate", self.rate, range_, RosError)
        most = MOST_SECONDS
        fits = self.duration is None or 0 < self.duration <= most
        require(fits, "--duration", self.duration, f"a number above 0 up to {most:g}", RosError)
        for name, value in (("start", self.start), ("wait", self.wait)):
            require(
                0 <= value <= most, f"--{name}", value, f"a number from 0 to {most:g}", RosError
            )


@dataclass
class Summary:
    """What a replay did. `latest`: seconds by which the latest message was behind its time."""

    recorded: int = 0  # messages, also of topics that are skipped
    published: Counter[str] = field(default_factory=Counter)
    loops: int = 0
    seconds: float = 0.0
    latest: float = 0.0

    def __str__(self) -> str:
        topics = ", ".join(f"{topic} {count}" for topic, count in sorted(self.published.items()))
        return (
            f"played {self.published.total()} messages in {self.seconds:.2f} s, "
            f"{self.loops} time(s), of {self.recorded} recorded: {topics or 'none'}; late at worst "
            f"{self.latest * 1e3:.1f} ms"
        )


def play_bag(config: ReplayConfig, ros_args: Sequence[str], stop: threading.Event) -> None:
    """Play `config.bag` until its end or until `stop` is set; see `mmsam_ros.ros.replay.play`."""
    with Recording(config.bag) as recording:
        try:
            ensure_log_folder()
            rclpy.init(args=list(ros_args), signal_handler_options=SignalHandlerOptions.NO)
        except RuntimeError as error:  # rclpy's own have no other base
            raise RosError(f"ROS arguments {' '.join(ros_args)}: {error}") from error
        with ExitStack() as closing:
            closing.callback(rclpy.try_shutdown)
            node = rclpy.create_node(NODE, start_parameter_services=False)
            closing.callback(node.destroy_node)
            player = Player(config, recording, node, stop)
            _say(str(player.run()))
        if loss := player.loss():
            raise RosError(f"{config.bag}: {loss}")


def _say(text: str) -> None:
    print(f"replay: {text}", flush=True)


def parse_remaps(config: ReplayConfig, reader: Recording) -> dict[str, str]:
    """FROM -> TO; RosError if one is not FROM:=TO, or names a topic that is not in the bag."""
    names = {}
    topics = sorted({connection.topic for connection in reader.connections})
    for remap in config.remap:
        source, _, names[source] = remap.partition(":=")
        if not (source and names[source]):
            raise RosError(f"--remap: found {remap!r}, expected FROM:=TO")
        if source not in topics:
            found = ", ".join(topics)
            raise RosError(f"--remap: found topic {source!r}, but the bag has {found}")
    return names


def offered_qos(connection: Connection) -> qos.QoSProfile:
    """What all recorded publishers offered, else reliable with depth 10; for static transforms what
    tf2 asks for.

    A queue below 10 is enlarged, but not that of a latched topic, which late subscribers get as a
    whole: it holds what all publishers together kept, such as one transform each.
    """
    offers = connection.offers
    static = connection.topic.split("/")[-1] == "tf_static"
    kept = [offer.durability == bag.QosDurability.TRANSIENT_LOCAL for offer in offers]
    latched = static or (bool(kept) and all(kept))
    depths = [offer.depth for offer in offers]
    depth = sum(depths) if latched else max(depths, default=0)
    if static:  # also where a recorder merged many broadcasters, or notes no QoS
        depth = max(depth, connection.msgcount)
    depth = min(depth, MAX_QUEUE)
    weak = any(offer.reliability == bag.QosReliability.BEST_EFFORT for offer in offers)
    everything = any(offer.history == bag.QosHistory.KEEP_ALL for offer in offers)
    history, reliability = qos.HistoryPolicy, qos.ReliabilityPolicy
    return qos.QoSProfile(
        history=history.KEEP_ALL if everything else history.KEEP_LAST,
        depth=depth if latched and depth else max(depth, 10),
        reliability=reliability.BEST_EFFORT if weak and not static else reliability.RELIABLE,
        durability=LATCHED if latched else qos.DurabilityPolicy.VOLATILE,
        # as every subscriber reports them: the default, 0, would not count as compatible with that
        deadline=Infinite,
        liveliness_lease_duration=Infinite,
    )


def window(config: ReplayConfig, reader: Recording) -> tuple[int | None, int | None]:
    """First bag time to play and first one not to play (ns); None where the bag has no limit."""
    if not reader.message_count:
        raise RosError("; ".join([f"{config.bag}: the bag has no messages", *reader.faults]))
    begin = reader.start_time + round(config.start * 1e9)
    if begin >= reader.end_time:
        length = (reader.end_time - reader.start_time) / 1e9
        raise RosError(f"--start: found {config.start} s, but the bag is {length:.3f} s long")
    end = None if config.duration is None else begin + round(config.duration * 1e9)
    return begin if config.start else None, end


class Player:
    """An open recording and its publishers on `node`; `stop` ends it early."""

    def __init__(
        self, config: ReplayConfig, reader: Recording, node: Node, stop: threading.Event
    ) -> None:
        self.config, self.reader, self.node, self.stop = config, reader, node, stop
        self.begin, self.end = window(config, reader)
        self.summary = Summary(reader.message_count)
        self.notes: set[str] = set()
        for text in (*reader.notes, *reader.faults):
            self._note(text)
        self.refused: dict[str, str] = {}  # why a topic's messages were not published
        self.publishers: dict[int, Publisher] = {}  # by id of the bag's connection
        self._advertise()
        self.connections = [c for c in reader.connections if c.id in self.publishers]
        self._check_window()
        self.clock: Publisher | None = None
        if config.clock:
            if any(publisher.topic_name == "/clock" for publisher in self.publishers.values()):
                raise RosError("--clock: the bag has its own /clock; remap it or omit --clock")
            self.clock = node.create_publisher(Clock, "/clock", 10)

    def _advertise(self) -> None:
        names = parse_remaps(self.config, self.reader)
        skipped: dict[str, str] = {}  # topic -> reason
        played: dict[str, Connection] = {}  # by name in ROS 2
        # of two types under one name, which no middleware allows, the one with more messages
        for connection in sorted(self.reader.connections, key=lambda c: -c.msgcount):
            topic, msgtype = connection.topic, connection.msgtype
            if reason := self.reader.unreadable.get(connection.id):
                skipped[topic] = reason
                continue
            if (kind := message_class(msgtype)) is None:
                skipped[topic] = f"{msgtype} is not installed"
                continue
            try:
                name = self.node.resolve_topic_name(names.get(topic, topic))
                other = played.setdefault(name, connection)
                if other.msgtype == msgtype:
                    self.publishers[connection.id] = self.node.create_publisher(
                        kind, name, offered_qos(connection)
                    )
                    continue
            except (InvalidTopicNameException, rclpy_implementation.RCLError) as error:
                if topic in names:
                    raise RosError(f"cannot publish on {names[topic]!r}: {error}") from error
                skipped[topic] = "ROS 2 has no such name; give it one with --remap"
                continue
            if other.topic != topic and {other.topic, topic} & names.keys():
                raise RosError(
                    f"--remap: {other.topic} ({other.msgtype}) and {topic} ({msgtype}) would both "
                    f"be {name}"
                )
            skipped[f"{topic} as {msgtype}"] = "the topic has another type, too"
        reasons = [f"{topic}: {why}" for topic, why in sorted(skipped.items())]
        for reason in reasons:
            _say(f"skipping {reason}")
        if not self.publishers:
            raise RosError(
                f"{self.config.bag}: none of its topics can be played: {'; '.join(reasons)}"
            )

    def _check_window(self) -> None:
        """RosError if there is nothing to play, which --loop would repeat for ever."""
        if next(self.reader.messages(self.connections, self.begin, self.end), None) is None:
            begin, length = self.config.start, self.config.duration
            part = f" from --start {begin:g}" if begin else ""
            part += f" in --duration {length:g}" if length else ""
            seconds = (self.reader.end_time - self.reader.start_time) / 1e9
            text = f"{self.config.bag}: no message to play{part}; it is {seconds:.3f} s long"
            raise RosError("; ".join([text, *self.reader.faults]))

    def run(self) -> Summary:
        """Wait for subscribers, play, and give reliable subscribers time to receive the rest."""
        self._wait_for_subscribers()
        started = time.monotonic()
        self._play_once()
        while self.config.loop and not self.stop.wait(LOOP_GAP / self.config.rate):
            self._play_once()
        self.summary.seconds = time.monotonic() - started
        self._flush()
        for text in self.reader.notes:
            self._note(text)
        return self.summary

    def loss(self) -> str:
        """What could not be played; empty if nothing, or if the replay was stopped."""
        played = self.summary.published.total()
        there = sum(c.msgcount for c in self.connections) - self.reader.repeated
        lacks = self.begin is None and self.end is None and played < there
        faults = [*self.reader.faults, *(f"{topic}: {why}" for topic, why in self.refused.items())]
        if self.stop.is_set() or not (faults or lacks):
            return ""
        text = f"a part could not be played: {played} messages were, {there} are known of"
        return "; ".join([text, *faults])

    def _messages(self) -> Iterator[tuple[Connection, int, bytes]]:
        """(connection, bag time, data); latched messages from before the beginning come first."""
        latched = [c for c in self.connections if offered_qos(c).durability == LATCHED]
        if latched and self.begin is not None:
            for connection, _, data in self.reader.messages(latched, stop=self.begin):
                yield connection, self.begin, data
        yield from self.reader.messages(self.connections, self.begin, self.end)

    def _play_once(self) -> None:
        self.summary.loops += 1
        origin, begin = 0.0, 0  # the bag time `begin` is due at the time `origin`
        previous: int | None = None
        for connection, stamp, data in self._messages():
            if previous is None:  # opening the first chunk of the bag is not lateness
                origin = time.monotonic()
                begin = previous = stamp if self.begin is None else self.begin
            if stamp - previous > MAX_GAP * 1e9:
                self._note(
                    f"{(stamp - previous) / 3.6e12:.1f} hours without a message before one on "
                    f"{connection.topic} are left out; was the clock set while recording?"
                )
                begin += stamp - previous
            previous = stamp
            due = origin + (stamp - begin) / 1e9 / self.config.rate
            self._wait_until(due, stamp)
            if self.stop.is_set():
                return
            self.summary.latest = max(self.summary.latest, time.monotonic() - due)
            publisher = self.publishers[connection.id]
            try:
                publisher.publish(data)
            except rclpy_implementation.RCLError as error:  # longer than its type is
                self.refused[connection.topic] = str(error).partition(", at ")[0]
            else:
                self.summary.published[publisher.topic_name] += 1

    def _note(self, text: str) -> None:
        """Say it, once."""
        if text not in self.notes:
            self.notes.add(text)
            _say(f"note: {text}")

    def _wait_for_subscribers(self) -> None:
        """Wait until subscribers are there and no node or subscription appears any more, at most
        `wait` seconds. RosError if one of `wait_for` has none then.
        """
        awaited = self._awaited()
        before: object = None
        matched, refused = Counter[int](), list[str]()
        begin = since = time.monotonic()
        while not self.stop.is_set():
            now = time.monotonic()
            matched = Counter({i: p.get_subscription_count() for i, p in self.publishers.items()})
            known, refused = self._subscriptions()
            nodes = sorted(self.node.get_node_names_and_namespaces())
            audience = matched, known, refused, nodes
            if audience != before:
                before, since = audience, now
            missing = [topic for topic, number in awaited.items() if not matched[number]]
            complete = matched.total() and matched >= known and not missing
            if complete and now - since >= SETTLED:
                break
            if now >= begin + self.config.wait:
                if missing:
                    raise RosError(
                        f"--wait-for: nobody subscribes to {', '.join(missing)} after "
                        f"{self.config.wait:g} s"
                    )
                break
            self.stop.wait(0.02)
        for text in refused:
            self._note(text)
        alone = sorted(self.publishers[i].topic_name for i in matched if not matched[i])
        nobody = f"; nobody subscribes to {', '.join(alone)}" if alone else ""
        _say(
            f"{matched.total()} matched subscription(s) after {time.monotonic() - begin:.1f} s, "
            f"starting{nobody}"
        )

    def _awaited(self) -> dict[str, int]:
        """The publisher of each topic of `wait_for`; RosError for one that is not played."""
        numbers = {publisher.topic_name: i for i, publisher in self.publishers.items()}
        numbers |= {c.topic: c.id for c in self.connections}
        for topic in self.config.wait_for:
            if topic not in numbers:
                found = ", ".join(sorted(numbers))
                raise RosError(f"--wait-for: found topic {topic!r}, but these are played: {found}")
        return {topic: numbers[topic] for topic in self.config.wait_for}

    def _subscriptions(self) -> tuple[Counter[int], list[str]]:
        """How many match each publisher, and what the incompatible ones do not get, and why."""
        known: Counter[int] = Counter()
        refused = []
        for number, publisher in self.publishers.items():
            for info in self.node.get_subscriptions_info_by_topic(publisher.topic_name):
                fits, why = qos.qos_check_compatible(publisher.qos_profile, info.qos_profile)
                if fits == qos.QoSCompatibility.ERROR:
                    name = f"{info.node_namespace.rstrip('/')}/{info.node_name}"
                    refused.append(f"{name} gets nothing of {publisher.topic_name}: {why}")
                else:
                    known[number] += 1
        return known, sorted(refused)

    def _wait_until(self, due: float, stamp: int) -> None:
        """Sleep; with --clock the bag's time goes on meanwhile and ends at `stamp`."""
        while (remaining := due - time.monotonic()) > 0 and not self.stop.is_set():
            self._tick(stamp - round(remaining * self.config.rate * 1e9))
            self.stop.wait(min(remaining, CLOCK_PERIOD) if self.clock else remaining)
        self._tick(stamp)

    def _tick(self, stamp: int) -> None:
        if self.clock is not None and 0 <= stamp < CLOCK_END:
            self.clock.publish(Clock(clock=Time(nanoseconds=stamp).to_msg()))

    def _flush(self) -> None:
        end = time.monotonic() + (0.0 if self.stop.is_set() else FLUSH)
        for publisher in self.publishers.values():
            left = max(0.0, end - time.monotonic())
            if not publisher.wait_for_all_acked(Duration(seconds=left)) and left:
                _say(f"{publisher.topic_name}: a subscriber has not acknowledged the last messages")
