# SPDX-License-Identifier: Apache-2.0
"""A ROS node that keeps what the node `mmsam` publishes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import String

SEMANTIC, CLASSES, DIAGNOSTICS = "/mmsam/semantic", "/mmsam/classes", "/diagnostics"
TOPICS = {
    SEMANTIC: Image,
    "/mmsam/color": Image,
    "/mmsam/overlay": Image,
    CLASSES: String,
    DIAGNOSTICS: DiagnosticArray,
}
RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
# the classes are published once, for subscribers that come later as well
LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class Recorder(Node):
    """Keeps every message, by topic."""

    def __init__(self) -> None:
        super().__init__("mmsam_demo")
        self.messages: dict[str, list[Any]] = {topic: [] for topic in TOPICS}
        for topic, kind in TOPICS.items():
            qos = LATCHED if topic == CLASSES else RELIABLE
            self.create_subscription(kind, topic, self.messages[topic].append, qos)

    @property
    def outputs(self) -> dict[str, list[Any]]:
        """Messages by topic, without the diagnostics."""
        return {topic: found for topic, found in self.messages.items() if topic != DIAGNOSTICS}

    def diagnostics(self) -> dict[str, str]:
        """The newest figures of the node, by name."""
        return {value.key: value.value for value in self.messages[DIAGNOSTICS][-1].status[0].values}

    def spin_until(self, holds: Callable[[], Any], timeout: float) -> bool:
        """Receive messages until the predicate holds; whether it did within `timeout` seconds."""
        end = time.monotonic() + timeout
        while not holds():
            if time.monotonic() > end:
                return False
            rclpy.spin_once(self, timeout_sec=0.05)
        return True


def stamp(message: Any) -> int:
    """Header stamp (ns). A mask has the stamp of its camera image, so this matches them."""
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)


def labels(message: Any) -> NDArray[np.uint8]:
    """A label image (mono8) as an array (height, width) of class ids; 255 is "no label"."""
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    return rows[:, : message.width].copy()
