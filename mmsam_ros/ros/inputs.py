# SPDX-License-Identifier: Apache-2.0
"""One input: which topic it reads, with the QoS that its publishers offer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from mmsam_ros.ros.interface import Topic, message_class

DEPTH = 5  # messages; callbacks only store, so a longer queue would only hold older ones


@dataclass
class Input:
    """Subscribes to the first candidate that has publishers, never to two.

    It waits for a publisher, whose offer decides the QoS, unless the reliability is given and there
    is one candidate.
    """

    node: Node
    name: str
    candidates: list[Topic]  # in order of preference
    reliability: str  # auto, reliable, best_effort
    callback: Callable[[Any], None]
    _warned: set[tuple[str, str]] = field(default_factory=set)
    _subscription: Subscription | None = None
    _current: tuple[Topic, bool, bool] | None = None  # candidate, reliable, latched

    def __post_init__(self) -> None:
        if self.reliability != "auto" and len(self.candidates) == 1:
            self._follow(self.candidates[0], [])

    @property
    def topic(self) -> str | None:
        """The topic that is read now, after remapping."""
        return self._subscription.topic_name if self._subscription else None

    def update(self) -> bool:
        """Follow the publishers; returns whether the input has one."""
        current = self._current and self._current[0]  # kept while it is published
        for candidate in sorted(self.candidates, key=lambda c: c != current):
            publishers = self.node.get_publishers_info_by_topic(candidate.name)
            offers = [p.qos_profile for p in publishers if p.topic_type == candidate.type]
            if offers:
                self._follow(candidate, offers)
                return True
            if publishers:
                self._warn_of_type(candidate, publishers[0].topic_type)
        return False

    def _follow(self, candidate: Topic, offers: list[QoSProfile]) -> None:
        """Subscribe with what every publisher can serve, unless that is so already."""
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
        self._subscription = self.node.create_subscription(
            message_class(candidate.type), candidate.name, self.callback, qos
        )
        self._current = (candidate, reliable, latched)
        word = "reliable" if reliable else "best effort"
        self.node.get_logger().info(f"{self.name}: reading {candidate.name} ({word})")

    def _warn_of_type(self, candidate: Topic, found: str) -> None:
        """Warn once of a publisher of another type, which ROS itself does not report."""
        if (candidate.name, found) not in self._warned:
            self._warned.add((candidate.name, found))
            self.node.get_logger().warning(
                f"{self.name}: {candidate.name} is published as {found}, expected "
                f"{candidate.type}; it is not read. Remap the input to another topic"
            )
