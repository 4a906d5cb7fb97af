# SPDX-License-Identifier: Apache-2.0
"""The node's subscriptions, with the QoS that publishers offer, and its publishers."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from mmsam_ros.inference import Result
from mmsam_ros.inference.draw import colorise, highlight, overlay
from mmsam_ros.ros.interface import OUTPUTS, Topic, message_class
from mmsam_ros.ros.messages import fill_image
from mmsam_ros.sensors import CAMERA, NO_LABEL, palette, topic_names
from mmsam_ros.weights import Spec

_TOPICS = {topic.name: topic for topic in OUTPUTS}
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
        kind, name = message_class(candidate.type), candidate.name
        self._subscription = self.node.create_subscription(kind, name, self.callback, qos)
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


def advertise(node: Node, name: str, row: str | None = None) -> Publisher:
    """A publisher with type and QoS of the table's row `name`, or of another row."""
    topic = _TOPICS[row or name]
    qos = QoSProfile(depth=1 if topic.latched else 5, reliability=ReliabilityPolicy.RELIABLE)
    if topic.latched:
        qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
    return node.create_publisher(message_class(topic.type), name, qos)


class Outputs:
    """The publishers of a node but diagnostics."""

    def __init__(self, node: Node, spec: Spec) -> None:
        self._semantic = advertise(node, "~/semantic")
        self._confidence = advertise(node, "~/confidence")
        colours = palette(spec.classes)
        # each with its function (rgb (H, W, 3), labels (H, W)) -> picture (H, W, 3)
        self._pictures: list[tuple[Publisher, Callable[..., NDArray[np.uint8]]]] = [
            (advertise(node, "~/color"), lambda rgb, labels: colorise(labels, colours)),
            (advertise(node, "~/overlay"), partial(overlay, palette=colours)),
        ]
        for info, name in zip(spec.classes, topic_names(spec.classes), strict=True):
            publisher = advertise(node, f"~/overlay/{name}", "~/overlay/<class>")
            draw = partial(highlight, class_id=info.id, color=info.rgb)
            self._pictures.append((publisher, draw))
        classes = [{"id": c.id, "name": c.name, "rgb": list(c.rgb)} for c in spec.classes]
        table = {"classes": classes, "no_label": NO_LABEL, "inputs": [CAMERA, *spec.sensors]}
        advertise(node, "~/classes").publish(String(data=json.dumps(table)))
        self.has_label_info = _publish_label_info(node, spec)

    @property
    def wants_confidence(self) -> bool:
        """Whether somebody subscribes to the confidence."""
        return self._confidence.get_subscription_count() > 0

    def publish(self, header: Header, rgb: NDArray[Any], result: Result) -> None:
        """Publish a result under the camera message's header."""

        def send(publisher: Publisher, pixels: NDArray[Any], encoding: str) -> None:
            publisher.publish(fill_image(Image(header=header), pixels, encoding))

        send(self._semantic, result.labels, "mono8")
        if result.confidence is not None:
            send(self._confidence, result.confidence, "mono8")
        for publisher, draw in self._pictures:
            if publisher.get_subscription_count():
                send(publisher, draw(rgb, result.labels), "rgb8")


def _publish_label_info(node: Node, spec: Spec) -> bool:
    """Whether the classes are published, which needs vision_msgs."""
    try:
        from vision_msgs.msg import LabelInfo, VisionClass
    except ImportError:
        node.get_logger().warning(
            "~/label_info is not published: vision_msgs is not installed; if you need it, "
            "install ros-jazzy-vision-msgs"
        )
        return False
    classes = [VisionClass(class_id=c.id, class_name=c.name) for c in spec.classes]
    info = LabelInfo(class_map=classes, threshold=0.0)
    info.header.stamp = node.get_clock().now().to_msg()
    advertise(node, "~/label_info").publish(info)
    return True
