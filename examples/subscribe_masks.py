# SPDX-License-Identifier: Apache-2.0
"""Print what is in each mask of the running node `mmsam`.

python examples/subscribe_masks.py
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import String


class MaskPrinter(Node):
    """Subscribes to the label images and to the names of their classes."""

    def __init__(self) -> None:
        super().__init__("mask_printer")
        self.names: dict[int, str] = {}
        # published once, before this node may have started
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(String, "/mmsam/classes", self.on_classes, latched)
        self.create_subscription(Image, "/mmsam/semantic", self.on_mask, 10)

    def on_classes(self, message: Any) -> None:
        """Keep the class names; 255 is "no label" whatever the weights."""
        self.names = {info["id"]: info["name"] for info in json.loads(message.data)["classes"]}
        self.names[255] = "no label"
        print(f"classes: {', '.join(self.names.values())}", flush=True)

    def on_mask(self, message: Any) -> None:
        """Print the share of every class in a mask (mono8, a class id per pixel)."""
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        labels = rows[:, : message.width]
        ids, counts = np.unique(labels, return_counts=True)
        shares = ", ".join(
            f"{self.names.get(int(i), i)} {100 * n / labels.size:.1f} %"
            for i, n in zip(ids, counts, strict=True)
        )
        stamp = message.header.stamp  # that of the camera image
        print(f"{stamp.sec}.{stamp.nanosec:09d}: {shares}", flush=True)


if __name__ == "__main__":
    rclpy.init()
    with suppress(KeyboardInterrupt, ExternalShutdownException):  # Ctrl-C
        rclpy.spin(MaskPrinter())
