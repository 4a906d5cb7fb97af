# SPDX-License-Identifier: Apache-2.0
"""What the node publishes; pictures are drawn only while somebody subscribes to them."""

from __future__ import annotations

import json
from typing import Any

from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from mmsam_ros.inference import Result
from mmsam_ros.inference.draw import colorise, highlight, overlay
from mmsam_ros.ros.images import fill_image
from mmsam_ros.sensors import NO_LABEL, palette, topic_names
from mmsam_ros.weights import Spec

LABELS = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class Outputs:
    """Publishers of one node, private to it (`~/semantic` and so on)."""

    def __init__(self, node: Node, spec: Spec) -> None:
        self._classes = spec.classes
        self._palette = palette(spec.classes)
        self._semantic = node.create_publisher(Image, "~/semantic", LABELS)
        self._confidence = node.create_publisher(Image, "~/confidence", LABELS)
        self._color = node.create_publisher(Image, "~/color", LABELS)
        self._overlay = node.create_publisher(Image, "~/overlay", LABELS)
        self._class_overlays = [
            node.create_publisher(Image, f"~/overlay/{name}", LABELS)
            for name in topic_names(spec.classes)
        ]
        self._latched = [_publish_classes(node, spec)]
        label_info = _publish_label_info(node, spec)
        self.has_label_info = label_info is not None
        if label_info is not None:
            self._latched.append(label_info)

    @property
    def wants_confidence(self) -> bool:
        """Whether somebody reads the confidence."""
        return self._confidence.get_subscription_count() > 0

    def publish(self, header: Header, rgb: NDArray[Any], result: Result) -> None:
        """Publish a result under the camera message's header."""
        _send(self._semantic, header, result.labels, "mono8")
        if result.confidence is not None:
            _send(self._confidence, header, result.confidence, "mono8")
        if self._color.get_subscription_count():
            _send(self._color, header, colorise(result.labels, self._palette), "rgb8")
        if self._overlay.get_subscription_count():
            _send(self._overlay, header, overlay(rgb, result.labels, self._palette), "rgb8")
        for info, publisher in zip(self._classes, self._class_overlays, strict=True):
            if publisher.get_subscription_count():
                _send(publisher, header, highlight(rgb, result.labels, info.id, info.rgb), "rgb8")


def _send(publisher: Publisher, header: Header, pixels: NDArray[Any], encoding: str) -> None:
    publisher.publish(fill_image(Image(header=header), pixels, encoding))


def _publish_classes(node: Node, spec: Spec) -> Publisher:
    """The class table as JSON, latched."""
    publisher = node.create_publisher(String, "~/classes", LATCHED)
    table = {
        "classes": [{"id": c.id, "name": c.name, "rgb": list(c.rgb)} for c in spec.classes],
        "no_label": NO_LABEL,
        "inputs": ["camera", *spec.sensors],
    }
    publisher.publish(String(data=json.dumps(table)))
    return publisher


def _publish_label_info(node: Node, spec: Spec) -> Publisher | None:
    """vision_msgs/LabelInfo, latched; None (logged) where vision_msgs is not installed."""
    try:
        from vision_msgs.msg import LabelInfo, VisionClass
    except ImportError as error:
        node.get_logger().warning(f"vision_msgs is not installed: no ~/label_info ({error})")
        return None
    publisher = node.create_publisher(LabelInfo, "~/label_info", LATCHED)
    info = LabelInfo(
        class_map=[VisionClass(class_id=c.id, class_name=c.name) for c in spec.classes],
        threshold=0.0,
    )
    info.header.stamp = node.get_clock().now().to_msg()
    publisher.publish(info)
    return publisher
