# SPDX-License-Identifier: Apache-2.0
"""The node with use_sim_time while /clock jumps, over DDS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from domains import free_domain
from harness import image, nano_weights, running
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

pytestmark = pytest.mark.dds
SECOND = 10**9


def test_masks_go_on_when_the_clock_jumps(tmp_path: Path) -> None:
    """To and fro, and while it stands still: each image has a mask with its own stamp."""
    weights = nano_weights(tmp_path / "nano.safetensors", "synthetic_rgb_lidar_thermal")
    with running(
        free_domain(5), "-p", f"weights:={weights}", "-p", "device:=cpu",
        "-p", "use_sim_time:=true",
    ) as (node, client):  # fmt: skip
        clock = client.publisher(Clock, "/clock")
        camera = client.publisher(Image, "/camera/image")
        masks = client.record(Image, "/mmsam/semantic")
        client.spin_until(
            lambda: camera.get_subscription_count() and clock.get_subscription_count(), "the node"
        )
        sent = []
        for base in (100, 100, 10, 10_000, 10_000, 5):
            for after in (0.0, 0.2, 0.4):
                stamp = int((base + after) * SECOND) + len(sent)
                sent.append(stamp)
                clock.publish(Clock(clock=Time(sec=base, nanosec=int(after * SECOND))))
                camera.publish(image(stamp, np.zeros((48, 64, 3), np.uint8), "rgb8"))
                client.spin_until(lambda: len(masks) == len(sent), f"a mask of {stamp}")
        stamps = [m.header.stamp.sec * SECOND + m.header.stamp.nanosec for m in masks]
        assert stamps == sent
        assert "Traceback" not in node.output
        assert "ahead of this node's clock" not in node.output
