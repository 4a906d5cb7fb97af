# SPDX-License-Identifier: Apache-2.0
"""Recordings of real sensors through `mmsam replay` and the node: a mask for every camera frame."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from domains import free_domain
from harness import GUARD, ROOT, Client, environment, nano_weights, running
from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from mmsam_ros.cli.main import main as mmsam
from mmsam_ros.weights import default_weights

pytestmark = pytest.mark.dds


def replay(bag: Path, domain: int, *args: str) -> None:
    """Play a bag in a process of its own, slowly enough for one frame at a time."""
    command = [sys.executable, "-m", "mmsam_ros.cli.main", "replay", str(bag), *args]
    done = subprocess.run(
        command, env=environment(domain), cwd=ROOT, capture_output=True, text=True, timeout=GUARD
    )
    assert done.returncode == 0, done.stdout + done.stderr


KITTI = {"/kitti/camera_color_left/image_raw/compressed": CompressedImage,
         "/kitti/velo/pointcloud": PointCloud2}  # fmt: skip
RGB_THERMAL = {"/rgb/image_raw": Image, "/thermal/image_raw": Image}
# Waiting is for a slow machine: sensors that are on their way are awaited.
PATIENT = ("-p", "device:=cpu", "-p", "sync.deadline:=10.0")


def check_masks(
    client: Client, masks: list[Image], size: tuple[int, int], count: int, fused: str
) -> dict[str, str]:
    """Of `count` camera frames: all have a mask with the sensor fused, or on a slow machine gave
    way to a newer one. Returns diagnostics.
    """
    facts: dict[str, str] = {}

    def explained() -> bool:
        facts.update(client.diagnostics())
        used, busy = int(facts["camera.used"]), int(facts.get("camera.dropped:busy", 0))
        return used + busy == count and len(masks) >= used

    client.spin_until(explained, f"{count} frames are masks or dropped as busy")
    assert masks
    assert int(facts["camera.received"]) == count
    assert len(masks) == int(facts["camera.used"]) == int(facts[f"fused.camera+{fused}"])
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in masks]
    assert stamps == sorted(set(stamps))
    for mask in masks:
        assert (mask.height, mask.width) == size
        assert np.frombuffer(mask.data, np.uint8).max() < 19
    return facts


def test_kitti_camera_and_lidar(shared: Path, tmp_path: Path) -> None:
    bag = shared / "data/kitti_camera_lidar_mcap"
    weights = nano_weights(tmp_path / "nano.safetensors", "muses_rgb_lidar")
    calibration = tmp_path / "calibration.yaml"
    assert mmsam(["bag", "calib", str(bag), "-o", str(calibration)]) == 0
    domain = free_domain(3)
    with running(
        domain, "--params-file", str(ROOT / "config/segment.yaml"),
        "--params-file", str(calibration), *PATIENT, "-p", f"weights:={weights}",
        "-p", "geometry.mode:=pad", "-r", "camera/image:=/kitti/camera_color_left/image_raw",
        "-r", "lidar/points:=/kitti/velo/pointcloud",
    ) as (node, client):  # fmt: skip
        masks = client.record(Image, "/mmsam/semantic")
        subscribed(client, KITTI)
        replay(bag, domain, "--rate", "0.2")
        facts = check_masks(client, masks, (375, 1242), 4, "lidar")
        assert facts["topic.camera"] == "/kitti/camera_color_left/image_raw/compressed"
        assert "geometry is pad" in node.output  # an override is logged


def test_rgb_and_thermal(shared: Path, tmp_path: Path) -> None:
    bag = shared / "data/rgb_thermal_mcap"
    weights = nano_weights(tmp_path / "nano.safetensors", "fmb_rgb_thermal")
    domain = free_domain(4)
    with running(
        domain, *PATIENT, "-p", f"weights:={weights}",
        "-r", "camera/image:=/rgb/image_raw", "-r", "thermal/image:=/thermal/image_raw",
    ) as (_, client):  # fmt: skip
        masks = client.record(Image, "/mmsam/semantic")
        subscribed(client, RGB_THERMAL)
        replay(bag, domain, "--rate", "0.2")
        check_masks(client, masks, (480, 640), 5, "thermal")
        # a looping bag keeps working, sensors fused, also after time has jumped back twice
        before = len(masks)
        with looping(bag, domain, "--rate", "0.5"):
            client.spin_until(lambda: jumps(masks[before:]) >= 2, "masks of three loops")
        facts = client.diagnostics()
        assert int(facts["fused.camera+thermal"]) >= len(masks) - 2, facts


def test_the_packages_own_weights_take_real_sensors(shared: Path, tmp_path: Path) -> None:
    """Without a word about weights; what they make of it is in docs/synthetic.md."""
    calibration = tmp_path / "calibration.yaml"
    kitti = shared / "data/kitti_camera_lidar_mcap"
    assert mmsam(["bag", "calib", str(kitti), "-o", str(calibration)]) == 0
    for bag, size, count, sensor, more in (
        (
            kitti, (375, 1242), 4, "lidar",
            ("--params-file", str(calibration), "-r",
             "camera/image:=/kitti/camera_color_left/image_raw",
             "-r", "lidar/points:=/kitti/velo/pointcloud"),
        ),
        (
            shared / "data/rgb_thermal_mcap", (480, 640), 5, "thermal",
            ("-r", "camera/image:=/rgb/image_raw", "-r", "thermal/image:=/thermal/image_raw"),
        ),
    ):  # fmt: skip
        domain = free_domain(5)
        with running(domain, *more, *PATIENT) as (_, client):
            masks = client.record(Image, "/mmsam/semantic")
            subscribed(client, KITTI if bag == kitti else RGB_THERMAL)
            replay(bag, domain, "--rate", "0.1")
            facts = check_masks(client, masks, size, count, sensor)
            assert facts["weights"] == default_weights().name


def subscribed(client: Client, topics: Mapping[str, type]) -> None:
    """Wait until the node reads these topics, so that no message of a bag comes too early."""
    publishers = [client.publisher(kind, topic) for topic, kind in topics.items()]
    client.spin_until(
        lambda: all(p.get_subscription_count() for p in publishers), f"{list(topics)} are read"
    )


def jumps(masks: list[Image]) -> int:
    """How often time goes back."""
    stamps = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in masks]
    return sum(later < earlier for earlier, later in itertools.pairwise(stamps))


@contextmanager
def looping(bag: Path, domain: int, *args: str) -> Iterator[None]:
    """Play a bag again and again until left; it must end cleanly."""
    command = [sys.executable, "-m", "mmsam_ros.cli.main", "replay", str(bag), "--loop", *args]
    process = subprocess.Popen(command, env=environment(domain), cwd=ROOT)
    try:
        yield
        process.send_signal(signal.SIGINT)
        assert process.wait(GUARD) == 0
    finally:
        process.kill()
