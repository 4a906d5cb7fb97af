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
from harness import Client, cloud, header, image, nano_weights, running
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, PointCloud2

from mmsam_ros._util.findings import ERROR, OK, WARNING
from mmsam_ros.cli.main import main
from mmsam_ros.ros.interface import message_class
from mmsam_ros.ros.live import judge, look_at

pytestmark = pytest.mark.dds
TF = "tf2_msgs/msg/TFMessage"
PIXELS = np.random.default_rng(5).integers(0, 255, (60, 80, 3), np.uint8)
POINTS = np.random.default_rng(6).uniform(1, 20, (50, 4)).astype(np.float32)


@contextmanager
def camera(client: Client, age: float = 0.0, *, clock: bool = False) -> Iterator[None]:
    """Publishes images and clouds with stamps of that age, until the end; with `clock`, on /clock
    it is as late.
    """
    publisher, stop = client.publisher(Image, "/camera/image"), threading.Event()
    lidar = client.publisher(PointCloud2, "/lidar/points")
    clocks = client.publisher(Clock, "/clock") if clock else None

    def publish() -> None:
        while not stop.wait(0.3):
            stamp = time.time_ns() - round(age * 1e9)
            if clocks is not None:
                clocks.publish(Clock(clock=header(stamp, "").stamp))
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


def test_a_recording_with_its_own_clock_and_a_renamed_output(tmp_path: Path) -> None:
    weights = nano_weights(tmp_path / "nano.safetensors", "muses_rgb_lidar")
    with running(
        free_domain(10), "-p", f"weights:={weights}", "-p", "device:=cpu", "-p",
        "use_sim_time:=true", "-r", "~/semantic:=/seg",
    ) as (_, client):  # fmt: skip
        masks = client.record(Image, "/seg")
        silent = look_until("/clock", ERROR)
        assert "--clock" in silent["/clock"].remedy
        with camera(client, age=3600.0, clock=True):
            client.spin_until(lambda: len(masks) > 1, "masks")
            found = look_until("masks", OK)
        assert "/clock" not in found
        assert found["/seg"].level == found["/camera/image"].level == OK, found


@pytest.mark.parametrize(
    ("stamps", "size", "said"),
    [
        ([1, 2, 3], (4, 4), (OK, "of 3 are those of their images")),
        ([1, 3], (4, 6), (ERROR, "size 6x4, image 4x4")),
        # of images before and after those that came
        ([0, 1, 90], (4, 4), (OK, "of 1 are those of their images")),
        ([1, 2, 25], (4, 4), (WARNING, "1 of 3 have the stamp of no image")),
        ([15, 25, 35], (4, 4), (ERROR, "none of 3 has the stamp of one of the 4 images")),
    ],
)
def test_masks_against_the_images_that_came(
    stamps: list[int], size: tuple[int, int], said: tuple[str, str]
) -> None:
    """Images have the stamps 1, 2, 3 and 40; a second sensor's lie between them."""
    images = [image(at, np.zeros((4, 4, 3), np.uint8), "rgb8") for at in (1, 2, 3, 40)]
    thermal = [image(at, np.zeros((4, 4), np.uint8), "mono8") for at in (7, 50)]
    masks = [image(at, np.zeros(size, np.uint8), "mono8") for at in stamps]
    found = judge(masks, [images, thermal], {0})
    assert (found.level, said[1] in found.text) == (said[0], True), found


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
