# SPDX-License-Identifier: Apache-2.0
"""What the node publishes; pictures are drawn only while somebody subscribes to them."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from mmsam_ros.inference import Result
from mmsam_ros.inference.draw import colorise, highlight, overlay
from mmsam_ros.ros.interface import OUTPUTS, message_class
from mmsam_ros.ros.messages import fill_image
from mmsam_ros.sensors import CAMERA, NO_LABEL, palette, topic_names
from mmsam_ros.weights import Spec

# (rgb (H, W, 3), labels (H, W)) -> picture (H, W, 3)
Draw = Callable[[NDArray[Any], NDArray[np.uint8]], NDArray[np.uint8]]
_TOPICS = {topic.name: topic for topic in OUTPUTS}


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
        self._pictures: list[tuple[Publisher, Draw]] = [
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
        self.has_label_info = message_class(_TOPICS["~/label_info"].type) is not None
        if self.has_label_info:
            _publish_label_info(node, spec)
        else:
            node.get_logger().warning(
                "~/label_info is not published: vision_msgs is not installed; if you need it, "
                "install ros-jazzy-vision-msgs"
            )

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


def _publish_label_info(node: Node, spec: Spec) -> None:
    from vision_msgs.msg import LabelInfo, VisionClass

    classes = [VisionClass(class_id=c.id, class_name=c.name) for c in spec.classes]
    info = LabelInfo(class_map=classes, threshold=0.0)
    info.header.stamp = node.get_clock().now().to_msg()
    advertise(node, "~/label_info").publish(info)
