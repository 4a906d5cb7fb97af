# SPDX-License-Identifier: Apache-2.0
"""One input stream: which topic it reads, and with the QoS that its publishers offer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

DEPTH = 5  # messages; callbacks only store, so more would only be older


@dataclass(frozen=True)
class Candidate:
    """A topic that can feed the stream."""

    topic: str
    kind: type

    @property
    def type_name(self) -> str:
        """As the graph names it, "sensor_msgs/msg/Image"."""
        package, _, _ = self.kind.__module__.partition(".")
        return f"{package}/msg/{self.kind.__name__}"


class Input:
    """Subscribes to the first candidate that has publishers, never to two.

    Until a publisher is there nothing is subscribed: its offer decides the QoS. With a given
    reliability and one candidate the subscription exists at once.

    Args:
        node: the node.
        stream: name, for messages to people.
        candidates: in order of preference.
        reliability: `auto`, `reliable` or `best_effort`.
        callback: gets each message.
    """

    def __init__(
        self,
        node: Node,
        stream: str,
        candidates: list[Candidate],
        reliability: str,
        callback: Callable[[Any], None],
    ) -> None:
        self.stream = stream
        self._node, self._candidates, self._callback = node, candidates, callback
        self._reliability = reliability
        self._warned: set[tuple[str, str]] = set()
        self._subscription: Subscription | None = None
        self._current: tuple[Candidate, QoSProfile] | None = None
        if reliability != "auto" and len(candidates) == 1:
            self._subscribe(candidates[0], self._qos([]))

    @property
    def topic(self) -> str | None:
        """The topic that is read now, as it is after remapping."""
        return self._subscription.topic_name if self._subscription else None

    def update(self) -> bool:
        """Follow what is published now; returns whether this stream has a publisher."""
        chosen = self._choose()
        if chosen is None:
            return False
        candidate, publishers = chosen
        qos = self._qos(publishers)
        if self._current is None or self._differs(candidate, qos):
            self._subscribe(candidate, qos)
        return True

    def _choose(self) -> tuple[Candidate, list[Any]] | None:
        """The current candidate while it has publishers, else the first that has."""
        order = list(self._candidates)
        if self._current is not None:
            order.sort(key=lambda c: c is not self._current[0])  # type: ignore[index]
        for candidate in order:
            publishers = self._node.get_publishers_info_by_topic(candidate.topic)
            fitting = [p for p in publishers if p.topic_type == candidate.type_name]
            if fitting:
                return candidate, fitting
            if publishers:
                self._warn_of_type(candidate, publishers[0].topic_type)
        return None

    def _warn_of_type(self, candidate: Candidate, found: str) -> None:
        """A publisher that cannot be read would otherwise go unnoticed; said once."""
        if (candidate.topic, found) not in self._warned:
            self._warned.add((candidate.topic, found))
            self._node.get_logger().warning(
                f"{self.stream}: {candidate.topic} is published as {found}, expected "
                f"{candidate.type_name}: not read"
            )

    def _qos(self, publishers: list[Any]) -> QoSProfile:
        """What every publisher can serve: reliable or latched only where all of them are."""
        profiles = [info.qos_profile for info in publishers]
        reliable = all(p.reliability == ReliabilityPolicy.RELIABLE for p in profiles)
        latched = bool(profiles) and all(
            p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in profiles
        )
        if self._reliability != "auto":
            reliable = self._reliability == "reliable"
        return QoSProfile(
            depth=DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

    def _differs(self, candidate: Candidate, qos: QoSProfile) -> bool:
        assert self._current is not None
        now, profile = self._current
        return (
            candidate is not now
            or profile.reliability != qos.reliability
            or profile.durability != qos.durability
        )

    def _subscribe(self, candidate: Candidate, qos: QoSProfile) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription = self._node.create_subscription(
            candidate.kind, candidate.topic, self._callback, qos
        )
        self._current = (candidate, qos)
        word = "reliable" if qos.reliability == ReliabilityPolicy.RELIABLE else "best effort"
        self._node.get_logger().info(f"{self.stream}: reading {candidate.topic} ({word})")
