# SPDX-License-Identifier: Apache-2.0
"""The node's subscriptions, with the QoS that publishers offer, and its publishers."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.interface import (
    COMPRESSED,
    IMAGE,
    LAUNCH_ARGUMENTS,
    OUTPUTS,
    Topic,
    message_class,
)
from mmsam_ros.sensors.limits import MAX_NOTES

_TOPICS = {topic.name: topic for topic in OUTPUTS}
DEPTH = 5  # messages; callbacks only store, so a longer queue would only hold older ones
RATED = 100  # messages from which an input's rate is taken
SHOWN = 12  # topics that a message lists at most


@dataclass
class Input:
    """Subscribes to the first candidate that has publishers, never to two.

    Nothing is subscribed to before `update`. It waits for a publisher, whose offer decides the QoS,
    unless the reliability is given and there is one candidate.
    """

    node: Node
    name: str
    candidates: list[Topic]  # in order of preference
    reliability: str  # auto, reliable, best_effort
    callback: Callable[[Any], None]
    last: float | None = None  # when a message came last, on the steady clock
    published: bool = False  # at the last update
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=RATED))  # the last ones
    _warned: set[tuple[str, str]] = field(default_factory=set)
    _subscription: Subscription | None = None
    _current: tuple[Topic, bool, bool] | None = None  # candidate, reliable, latched
    _read: str | None = None  # kept, as the worker asks while the subscription is replaced

    @property
    def topic(self) -> str | None:
        """The topic that is read now, after remapping."""
        return self._read

    def update(self) -> bool:
        """Follow the publishers; returns whether the input has one."""
        if self._current is None and self.reliability != "auto" and len(self.candidates) == 1:
            self._follow(self.candidates[0], [])
        self.published = self._find_publisher()
        return self.published

    def close(self) -> None:
        """Unsubscribe; `update` begins anew."""
        if self._subscription is not None:
            self.node.destroy_subscription(self._subscription)
        self._subscription = self._current = self._read = self.last = None
        self.published = False
        self.arrivals.clear()

    def _find_publisher(self) -> bool:
        current = self._current and self._current[0]  # kept while it is published
        for candidate in sorted(self.candidates, key=lambda c: c != current):
            publishers = self.node.get_publishers_info_by_topic(candidate.name)
            offers = [p.qos_profile for p in publishers if p.topic_type == candidate.type]
            if offers:
                self._follow(candidate, offers)
                self._warn_of_many(candidate, publishers)
                return True
            if publishers:
                self._warn_of_type(candidate, publishers[0].topic_type)
        return False

    def _follow(self, candidate: Topic, offers: list[QoSProfile]) -> None:
        """Subscribe with QoS that every publisher can serve, unless subscribed so already."""
        reliable = all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
        latched = {offer.durability for offer in offers} == {DurabilityPolicy.TRANSIENT_LOCAL}
        if self.reliability != "auto":
            reliable = self.reliability == "reliable"
        if self._current == (candidate, reliable, latched):
            return
        if self._subscription is not None:
            self.node.destroy_subscription(self._subscription)
        qos = QoSProfile(
            depth=DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        kind, name = message_class(candidate.type), candidate.name
        self._subscription = self.node.create_subscription(kind, name, self._receive, qos)
        self._current, self._read = (candidate, reliable, latched), self._subscription.topic_name
        word = "reliable" if reliable else "best effort"
        self.node.get_logger().info(f"{self.name}: reading {self.topic} ({word})")

    def _receive(self, message: Any) -> None:
        self.last = time.monotonic()
        self.arrivals.append(self.last)
        self.callback(message)

    def _warn_of_type(self, candidate: Topic, found: str) -> None:
        """Warn once of a publisher of another type, which ROS itself does not report."""
        if (candidate.name, found) not in self._warned and len(self._warned) < MAX_NOTES:
            self._warned.add((candidate.name, found))
            name = self.node.resolve_topic_name(candidate.name)
            base, _, transport = name.rpartition("/")
            remedy = "remap the input to another topic"
            if candidate.type == IMAGE and found == COMPRESSED:
                given = transport == "compressed"
                remedy = (
                    f"give the name without /compressed: {base}"
                    if given
                    else f"a CompressedImage is read from {name}/compressed: remap that name"
                )
            self.node.get_logger().warning(
                f"{self.name}: {name} is published as {found}, expected {candidate.type}; it is "
                f"not read: {remedy}"
            )

    def _warn_of_many(self, candidate: Topic, publishers: list[TopicEndpointInfo]) -> None:
        """Warn once if several nodes publish on one sensor's topic."""
        nodes = sorted({f"{p.node_namespace.rstrip('/')}/{p.node_name}" for p in publishers})
        key = candidate.name, " ".join(nodes)
        if len(nodes) > 1 and key not in self._warned and len(self._warned) < MAX_NOTES:
            self._warned.add(key)
            self.node.get_logger().warning(
                f"{self.name}: {len(nodes)} nodes publish {self.topic} ({', '.join(nodes)}); of "
                "two sensors with one header.frame_id, masks are mixed: give each its own topic"
            )

    def explain_silence(self) -> str:
        """What this input waits for, and what there is instead, for a log line."""
        names = {c.name: self.node.resolve_topic_name(c.name) for c in self.candidates}
        awaited = dict.fromkeys(names.values(), "")  # and as what it is published instead
        for candidate in self.candidates:
            publishers = self.node.get_publishers_info_by_topic(candidate.name)
            fitting = [p for p in publishers if p.topic_type == candidate.type]
            if fitting:
                return f"on {names[candidate.name]}, though {self._explain_loss(fitting)}"
            if publishers:
                awaited[names[candidate.name]] = f" (published as {publishers[0].topic_type})"
        text = "on " + " or ".join(f"{name}{found}" for name, found in awaited.items())
        there = self._published({c.type for c in self.candidates})
        if there:
            text = f"{text}. Published: {', '.join(there)}; {self._how_to_remap()}"
        else:
            kinds = " or ".join(dict.fromkeys(c.type.split("/")[-1] for c in self.candidates))
            text = (
                f"{text}, and no other topic of type {kinds} is published: is the driver or the "
                "bag running, with the same ROS_DOMAIN_ID?"
            )
        doubled = any(
            names[c.name].endswith("/compressed" if c.type == IMAGE else "/compressed/compressed")
            for c in self.candidates
        )
        return text + " Give the name without /compressed" * doubled

    def _explain_loss(self, publishers: list[TopicEndpointInfo]) -> str:
        """Why messages that are published may not arrive."""
        by = ", ".join(sorted({p.node_name for p in publishers}))
        offers = {p.qos_profile.reliability for p in publishers}
        if self.reliability == "reliable" and ReliabilityPolicy.BEST_EFFORT in offers:
            return f"{by} publishes it as best effort: set input_reliability to 'auto'"
        return (
            f"{by} publishes it. If its source is not paused, large messages are lost between "
            "processes: with Fast DDS, set FASTRTPS_DEFAULT_PROFILES_FILE to the package's "
            "config/fastdds_shm.xml for the publisher"
        )

    def _how_to_remap(self) -> str:
        name = self.candidates[0].name
        return f"remap {name} (launch argument {LAUNCH_ARGUMENTS[name]}) to the right one."

    def _published(self, kinds: set[str]) -> list[str]:
        """Topics of others with one of these types, at most `SHOWN` of them."""
        own = f"{self.node.get_fully_qualified_name()}/"
        found = sorted(
            name
            for name, types in self.node.get_topic_names_and_types()
            if kinds & set(types) and not name.startswith(own) and self.node.count_publishers(name)
        )
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        return [*found[:SHOWN], *more]


def check_names(node: Node, inputs: Sequence[Input]) -> None:
    """RosError if remapping gives one topic to two inputs, or to an input and an output: a camera
    image read as the thermal one would look valid.
    """
    used = [(publisher.topic_name, "an output") for publisher in node.publishers]
    candidates = (candidate for stream in inputs for candidate in stream.candidates)
    used += [(node.resolve_topic_name(c.name), f"the input {c.name}") for c in candidates]
    first: dict[str, str] = {}
    for name, use in used:
        if name in first:
            raise RosError(f"topic {name}: found as {first[name]} and as {use}, expected a topic "
                           "of its own for each: check the remappings")  # fmt: skip
        first[name] = use


def advertise(node: Node, name: str, row: str | None = None) -> Publisher:
    """A publisher with type and QoS of the table's row `name`, or of another row."""
    topic = _TOPICS[row or name]
    qos = QoSProfile(depth=1 if topic.latched else 5, reliability=ReliabilityPolicy.RELIABLE)
    if topic.latched:
        qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
    return node.create_publisher(message_class(topic.type), name, qos)
