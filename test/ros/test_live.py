# SPDX-License-Identifier: Apache-2.0
"""`mmsam doctor --live` on a node that runs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from domains import free_domain
from harness import Client, cloud, image, nano_weights, running
from sensor_msgs.msg import Image, PointCloud2

from mmsam_ros._util.findings import ERROR, OK, WARNING
from mmsam_ros.cli.main import main
from mmsam_ros.ros.interface import message_class
from mmsam_ros.ros.live import look_at

pytestmark = pytest.mark.dds
TF = "tf2_msgs/msg/TFMessage"
PIXELS = np.random.default_rng(5).integers(0, 255, (60, 80, 3), np.uint8)
POINTS = np.random.default_rng(6).uniform(1, 20, (50, 4)).astype(np.float32)


@contextmanager
def camera(client: Client, age: float = 0.0) -> Iterator[None]:
    """Publishes images and clouds with stamps of that age, until the end."""
    publisher, stop = client.publisher(Image, "/camera/image"), threading.Event()
    lidar = client.publisher(PointCloud2, "/lidar/points")

    def publish() -> None:
        while not stop.wait(0.3):
            stamp = time.time_ns() - round(age * 1e9)
            publisher.publish(image(stamp, PIXELS, "rgb8"))
            lidar.publish(cloud(stamp, POINTS))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_node_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = nano_weights(tmp_path / "nano.safetensors", "synthetic_rgb_lidar_thermal")
    # the domain of this process, which `look_at` joins
    domain = free_domain(10)
    with running(domain, "-p", f"weights:={weights}", "-p", "device:=cpu") as (_, client):
        masks = client.record(Image, "/mmsam/semantic")
        with camera(client):
            client.spin_until(lambda: len(masks) > 1, "masks")
            found = look_until("masks", OK)
            assert main(["doctor", "--live", "--node", "/other/mmsam", "--json"]) == 2
        (missing,) = json.loads(capsys.readouterr().out)
        assert missing["level"] == ERROR
        assert "/mmsam" in missing["text"]
        assert found["/camera/image"].level == OK, found
        assert "reliable, rgb8 80x60, frame 'camera'" in found["/camera/image"].text
        assert "are those of their images" in found["masks"].text
        assert "from frame 'lidar' to frame 'camera'" in found["TF of lidar"].text
        # no tf2_msgs: it could not be looked up
        assert found["TF of lidar"].level == (ERROR if message_class(TF) else WARNING)
        with camera(client, age=3600.0):
            old = look_until("/camera/image", WARNING)
        assert "3600." in old["/camera/image"].text
        silent = look_until("masks", ERROR)
        assert "nobody publishes it" in silent["/mmsam: input thermal"].text


def look_until(subject: str, level: str) -> dict[str, Any]:
    """What is found, by subject, once this one has that level: a slow machine needs longer looks,
    to discover the topics and to see the mask of an image that it has seen as well.
    """
    for attempt in range(8):
        findings = look_at("/mmsam", 4.0 * (1 + attempt))
        assert all(finding.remedy for finding in findings if finding.level != OK), findings
        found = {finding.subject: finding for finding in findings}
        if subject in found and found[subject].level == level:
            return found
    raise AssertionError(f"{subject} is not {level} in {found}")
