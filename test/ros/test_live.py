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
import rclpy
from domains import free_domain
from harness import LIDAR_POSE, Client, camera_info, cloud, header, image, nano_weights, running
from published import KINDS
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import String

from mmsam_ros._util.findings import ERROR, OK, WARNING
from mmsam_ros.cli.main import main
from mmsam_ros.ros.interface import message_class
from mmsam_ros.ros.live import look_at
from mmsam_ros.ros.live_outputs import judge, read_output

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
    info = client.publisher(CameraInfo, "/camera/camera_info")
    clocks = client.publisher(Clock, "/clock") if clock else None

    def publish() -> None:
        while not stop.wait(0.3):
            stamp = time.time_ns() - round(age * 1e9)
            if clocks is not None:
                clocks.publish(Clock(clock=header(stamp, "").stamp))
            info.publish(camera_info(stamp, PIXELS.shape[1], PIXELS.shape[0]))
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
            assert main(["doctor", "--live", "--node", "other/mmsam", "--json"]) == 2
        (missing,) = json.loads(capsys.readouterr().out)
        assert missing["level"] == ERROR
        assert missing["text"].startswith("/other/mmsam is not found; nodes: ")
        assert "/mmsam" in missing["text"].partition("nodes: ")[2]
        assert found["/camera/image"].level == OK, found
        assert "reliable, rgb8 80x60, frame 'camera'" in found["/camera/image"].text
        assert "are those of their images" in found["masks"].text
        assert "from frame 'lidar' to frame 'camera'" in found["TF of lidar"].text
        # no tf2_msgs: it could not be looked up
        assert found["TF of lidar"].level == (ERROR if message_class(TF) else WARNING)
        with camera(client, age=-3600.0):
            early = look_until("/camera/image", WARNING)
        assert "s ahead of this clock" in early["/camera/image"].text
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


JUDGED = {name for name in KINDS if "compressed" not in name and name != "probabilities"}


def test_outputs_that_somebody_reads(tmp_path: Path) -> None:
    """Others are not made for us: only the masks are judged then."""
    weights = nano_weights(tmp_path / "nano.safetensors", "synthetic_rgb_lidar_thermal")
    with running(
        free_domain(10), "-p", f"weights:={weights}", "-p", "device:=cpu", "-p", LIDAR_POSE
    ) as (_, client):  # fmt: skip
        masks = client.record(Image, "/mmsam/semantic")
        with camera(client):
            client.spin_until(lambda: len(masks) > 1, "masks")
            alone = look_until("masks", OK)
            assert not JUDGED & alone.keys()
            for name, kind in KINDS.items():
                client.record(kind, f"/mmsam/{name}")
            found = look_until("points/labelled", OK)
        for name in JUDGED - {"semantic", "points/labelled"}:
            assert found[name].level == OK, found[name]
            assert "are those of their images" in found[name].text
            assert ("are classes" in found[name].text) == (name == "points")
        assert "are those of their clouds; ids of" in found["points/labelled"].text


def made(stamp: int, points: int = 6, label: int = 0, frame: str = "camera") -> PointCloud2:
    """A cloud of an image of 3x2, with labels."""
    message = PointCloud2(header=header(stamp, frame), height=2, width=3)
    message.fields = [PointField(name="label", offset=0, datatype=PointField.UINT32, count=1)]
    message.point_step, message.row_step = 4, 12
    message.data.frombytes(np.full(points, label, "<u4").tobytes())
    return message


def test_outputs_without_what_is_judged() -> None:
    unnamed = made(5)
    unnamed.fields = []
    assert read_output("points", unnamed).fault == "it has no field 'label' of UINT32"
    empty = read_output("semantic", Image(width=4, step=4, encoding="mono8"))
    assert (empty.size, empty.ids, empty.fault) == ((0, 4), frozenset(), "")


LIES = {
    "confidence": (Image, lambda at: image(at, np.zeros((2, 4), np.uint8), "mono8"),
                   "size 4x2, image 3x2"),
    "color": (Image, lambda at: image(at, np.zeros((2, 3, 3), np.uint8), "bgr8"),
              "bgr8 with rows of 9 and 18 bytes in all, expected rgb8 of 3x2"),
    "overlay": (Image, lambda at: image(at, np.zeros((2, 3, 3), np.uint8), "rgb8", "lidar"),
                "frame 'lidar', image 'camera'"),
    "overlay/car": (Image, lambda at: image(at + 1, np.zeros((2, 3, 3), np.uint8), "rgb8"),
                    "has the stamp of one of the"),
    "points": (PointCloud2, lambda at: made(at, label=7), "ids [7] are none of the classes"),
    "points/labelled": (PointCloud2, lambda at: made(at, points=5, frame="lidar"),
                        "rows of 12 and 20 bytes in all, expected 3x2 points of 4 bytes"),
}  # fmt: skip


def test_outputs_that_lie() -> None:
    """Of a node that is none of ours, as ours has no such output."""
    client = Client(free_domain(10))
    other = rclpy.create_node("mmsam", context=client.context)
    stop = threading.Event()
    sensors = {"/camera/image": Image, "/lidar/points": PointCloud2}
    for topic, kind in sensors.items():
        other.create_subscription(kind, topic, lambda _: None, 5)
    inputs = [client.publisher(kind, topic) for topic, kind in sensors.items()]
    kinds = {name: kind for name, (kind, *_) in LIES.items()} | {"semantic": Image}
    outputs = {n: other.create_publisher(k, f"/mmsam/{n}", 5) for n, k in kinds.items()}
    classes = other.create_publisher(String, "/mmsam/classes", 5)
    for name, kind in kinds.items():
        client.record(kind, f"/mmsam/{name}")

    def publish() -> None:
        while not stop.wait(0.1):
            stamp = time.time_ns()
            inputs[0].publish(image(stamp, np.zeros((2, 3, 3), np.uint8), "rgb8"))
            inputs[1].publish(made(stamp, frame="lidar"))
            classes.publish(String(data='{"classes": [{"id": 0}]}'))
            outputs["semantic"].publish(image(stamp, np.zeros((2, 3), np.uint8), "mono8"))
            for name, (_, make, _) in LIES.items():
                outputs[name].publish(make(stamp))

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        found = look_until("points/labelled", ERROR)
    finally:
        stop.set()
        thread.join()
        other.destroy_node()
        client.close()
    assert found["masks"].level == OK
    for name, (*_, text) in LIES.items():
        assert (found[name].level, text in found[name].text) == (ERROR, True), found[name]


@pytest.mark.parametrize(
    ("stamps", "size", "said"),
    [
        ([1, 2, 3], (4, 4), (OK, "of 3 are those of their images")),
        ([1, 3], (4, 6), (ERROR, "size 6x4, image 4x4")),
        # of images before and after those that came
        ([0, 1, 90], (4, 4), (OK, "of 1 are those of their images")),
        ([1, 2, 25], (4, 4), (WARNING, "1 of 3 have the stamp of none of the images")),
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
    outputs = [read_output("semantic", mask) for mask in masks]
    found = judge("semantic", outputs, [images, thermal], {0})
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
