# SPDX-License-Identifier: Apache-2.0
"""`~/points` of a camera of 1280x720, 22 MB, from the node's process to the test's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from domains import free_domain
from harness import LIDAR_POSE, camera_info, cloud, image, running
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from test_node import pixels, stamp_of

pytestmark = pytest.mark.dds
WIDTH, HEIGHT = 1280, 720
CLOUDS = 5  # each is sent when the one before has come


def test_clouds_arrive_whole(weights: Path) -> None:
    """All of them at a reliable subscriber, and most at a best-effort one."""
    rng = np.random.default_rng(8)
    rgb = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    points = rng.uniform((2, -8, -2, 0), (40, 8, 3, 1), (20000, 4)).astype(np.float32)
    with running(
        free_domain(8), "-p", f"weights:={weights}", "-p", "device:=cpu", "-p", LIDAR_POSE,
        "-p", "sync.deadline:=10.0", "-p", "lidar.max_age:=0.0",
    ) as (_, client):  # fmt: skip
        camera = client.publisher(Image, "/camera/image")
        info = client.publisher(CameraInfo, "/camera/camera_info")
        lidar = client.publisher(PointCloud2, "/lidar/points")
        masks = client.record(Image, "/mmsam/semantic")
        reliable = client.record(PointCloud2, "/mmsam/points", 5)
        best_effort: list[PointCloud2] = []
        client.node.create_subscription(
            PointCloud2, "/mmsam/points", best_effort.append, qos_profile_sensor_data
        )
        client.spin_until(
            lambda: (
                all(p.get_subscription_count() for p in (camera, info, lidar))
                and all(map(client.node.count_publishers, ("/mmsam/points", "/mmsam/semantic")))
            ),
            "the node's topics",
        )
        info.publish(camera_info(0, WIDTH, HEIGHT))

        stamps = [5 * 10**9]

        def send() -> None:
            stamps.append(stamps[-1] + 10**8)
            lidar.publish(cloud(stamps[-1], points))
            camera.publish(image(stamps[-1], rgb, "rgb8"))

        def begun() -> bool:
            """Frames are sent until all subscriptions have matched."""
            send()
            return bool(masks and reliable and best_effort)

        client.spin_until(begun, "the first cloud at each subscriber")
        last = stamps[-1]
        for _ in range(CLOUDS):
            send()
            client.spin_until(
                lambda: all(stamps[-1] in map(stamp_of, got) for got in (reliable, masks)),
                "the cloud and the mask of a frame",
            )
        assert sum(stamp_of(message) > last for message in best_effort) > CLOUDS // 2
        of = {stamp_of(mask): pixels(mask) for mask in masks}
        for message in (*reliable, *best_effort):
            assert (message.height, message.width) == (HEIGHT, WIDTH)
            assert len(message.data) == HEIGHT * WIDTH * 24
            values = np.frombuffer(message.data, "<u4").reshape(HEIGHT, WIDTH, 6)
            assert np.array_equal(values[..., 4], of[stamp_of(message)])
            assert np.isfinite(values.view("<f4")[..., :3]).all(axis=-1).sum() > 1000
