# SPDX-License-Identifier: Apache-2.0
"""One input: which topic it reads, with the QoS that its publishers offer."""

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from mmsam_ros.ros.topics import Topic, message_class

DEPTH = 5  # messages; callbacks only store, so a longer queue would only hold older ones


class Input:
    """Subscribes to the first candidate that has publishers, never to two.

    It subscribes when a publisher is there, because the publisher's offer decides the QoS. With a
    given reliability (`reliable` or `best_effort`, not `auto`) and one candidate it subscribes at
    once. `candidates` are in order of preference.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        candidates: list[Topic],
        reliability: str,
        callback: Callable[[Any], None],
    ) -> None:
        self.name = name
        self._node, self._candidates, self._callback = node, candidates, callback
        self._reliability = reliability
        self._warned: set[tuple[str, str]] = set()
        self._subscription: Subscription | None = None
        self._current: tuple[Topic, bool, bool] | None = None  # candidate, reliable, latched
        if reliability != "auto" and len(candidates) == 1:
            self._follow(candidates[0], [])

    @property
    def topic(self) -> str | None:
        """The topic that is read now, after remapping."""
        return self._subscription.topic_name if self._subscription else None

    def update(self) -> bool:
        """Follow the publishers; returns whether the input has one."""
        current = self._current and self._current[0]  # kept while it is published
        for candidate in sorted(self._candidates, key=lambda c: c != current):
            publishers = self._node.get_publishers_info_by_topic(candidate.name)
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
        if self._reliability != "auto":
            reliable = self._reliability == "reliable"
        if self._current == (candidate, reliable, latched):
            return
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        qos = QoSProfile(
            depth=DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        self._subscription = self._node.create_subscription(
            message_class(candidate.type), candidate.name, self._callback, qos
        )
        self._current = (candidate, reliable, latched)
        word = "reliable" if reliable else "best effort"
        self._node.get_logger().info(f"{self.name}: reading {candidate.name} ({word})")

    def _warn_of_type(self, candidate: Topic, found: str) -> None:
        """Warn once of a publisher of another type, which ROS itself does not report."""
        if (candidate.name, found) not in self._warned:
            self._warned.add((candidate.name, found))
            self._node.get_logger().warning(
                f"{self.name}: {candidate.name} is published as {found}, expected "
                f"{candidate.type}; it is not read. Remap the input to another topic"
            )
