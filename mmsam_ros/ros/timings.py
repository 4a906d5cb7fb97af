# SPDX-License-Identifier: Apache-2.0
"""How long each step of a mask took, on topics for tools that plot."""

import time
from collections.abc import Mapping

from rclpy.node import Node
from std_msgs.msg import Float64

from mmsam_ros.ros.interface import STEPS
from mmsam_ros.ros.sets import SyncedSet
from mmsam_ros.ros.topics import advertise


class Timings:
    """The publishers of `~/debug`."""

    def __init__(self, node: Node) -> None:
        row = "~/debug/processing_time_ms/<step>"
        names = (*STEPS, "total")
        self._steps = {name: advertise(node, row.replace("<step>", name), row) for name in names}
        self._latency = advertise(node, "~/debug/latency_ms")

    def publish(self, synced: SyncedSet, took: Mapping[str, float]) -> None:
        """Publish the milliseconds by step of a set that has become a mask just now."""
        steps = {name: took[key] for name, key in STEPS.items()}
        steps["total"] = sum(steps.values())
        latency = 1e3 * (time.monotonic() - synced.camera.arrival)
        values = [(self._steps[name], ms) for name, ms in steps.items()]
        for publisher, value in [*values, (self._latency, latency)]:
            if publisher.get_subscription_count():
                publisher.publish(Float64(data=float(value)))
