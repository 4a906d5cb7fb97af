# SPDX-License-Identifier: Apache-2.0
"""Every defect of the table through DDS to one running node: it counts each by its reason, gives no
mask of it, and the next mask is right.
"""

from __future__ import annotations

import array
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from domains import free_domain
from harness import (
    LIDAR_POSE,
    Client,
    NodeProcess,
    camera_info,
    cloud,
    header,
    image,
    nano_weights,
    running,
)
from malformed import CASES, COMPRESSED, HEADERS, INFOS, Case
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from mmsam_ros.inference import Segmenter
from mmsam_ros.ros.calibration import camera_model
from mmsam_ros.sensors import Frame, LidarPoints, SensorImage, pose_matrix

pytestmark = pytest.mark.dds
SIZE = 96  # pixels a side
STEP = 100_000_000  # ns between frames
RNG = np.random.default_rng(4)
RGB = RNG.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
POINTS = RNG.uniform((2, -8, -2, 0), (40, 8, 3, 1), (5000, 4)).astype(np.float32)
COUNTS = RNG.integers(24000, 33000, (SIZE, SIZE), np.uint16)


class Rig:
    """Sends frames to the node; `expected` are masks by the sensor that is left out."""

    def __init__(self, node: NodeProcess, client: Client, segmenter: Segmenter) -> None:
        self.node, self.client, self.stamp = node, client, 5 * 10**9
        self.refused: Counter[str] = Counter()  # that the node must have counted
        self.spoilt: set[int] = set()  # stamps of which there must be no mask
        self.publishers = {
            "camera": client.publisher(Image, "/camera/image"),
            "info": client.publisher(CameraInfo, "/camera/camera_info"),
            "lidar": client.publisher(PointCloud2, "/lidar/points"),
            "thermal": client.publisher(Image, "/thermal/image"),
        }
        self.masks: dict[int, np.ndarray] = {}
        client.node.create_subscription(Image, "/mmsam/semantic", self._keep, 50)
        pose = pose_matrix([0.0, 0.2, 0.0], [0.5, -0.5, 0.5, 0.5])
        sensors = {
            "lidar": LidarPoints(POINTS[:, :3].copy(), POINTS[:, 3].copy(), pose),
            "thermal": SensorImage(COUNTS),
        }
        camera = camera_model(camera_info(0, SIZE, SIZE))
        self.expected = {
            without: segmenter(
                Frame(RGB, {k: v for k, v in sensors.items() if k != without}, camera)
            ).labels
            for without in ("", *sensors)
        }
        self.wait_for_node()

    def _keep(self, message: Image) -> None:
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        self.masks[stamp] = np.frombuffer(message.data, np.uint8).reshape(SIZE, SIZE)

    def wait_for_node(self) -> None:
        self.client.spin_until(
            lambda: (
                all(p.get_subscription_count() for p in self.publishers.values())
                and self.client.node.count_publishers("/mmsam/semantic")
            ),
            "the node subscribes",
        )

    def use_compressed(self) -> None:
        """The camera changes to PNG, and the node follows."""
        self.client.node.destroy_publisher(self.publishers["camera"])
        topic = "/camera/image/compressed"
        self.publishers["camera"] = self.client.publisher(CompressedImage, topic)
        self.wait_for_node()

    def good(self, stream: str, stamp: int) -> Any:
        if stream == "lidar":
            return cloud(stamp + 2_000_000, POINTS)
        if stream == "thermal":
            return image(stamp + 3_000_000, COUNTS, "mono16", "thermal")
        if self.publishers["camera"].msg_type is Image:
            return image(stamp, RGB, "rgb8")
        message = CompressedImage(header=header(stamp, "camera"), format="png")
        data = cv2.imencode(".png", RGB[..., ::-1])[1].tobytes()
        message.data = array.array("B", data)
        return message

    def send(self, **instead: Any) -> int:
        """One frame; `instead` are messages that replace good ones."""
        self.stamp += STEP
        for stream in ("lidar", "thermal", "camera"):
            spoil = instead.get(stream, lambda message: message)
            self.publishers[stream].publish(spoil(self.good(stream, self.stamp)))
        return self.stamp

    def mask(self, stamp: int) -> np.ndarray:
        self.client.spin_until(lambda: stamp in self.masks, f"a mask of {stamp}")
        return self.masks[stamp]

    def counted(self) -> Counter[str]:
        """What the node has refused, by `<sensor>.refused:<reason>`."""
        facts = self.client.diagnostics()
        return Counter({k: int(v) for k, v in facts.items() if ".refused:" in k and int(v)})

    def end(self, stamp: int) -> str:
        """How the image of a stamp ended, by the node's log."""
        pattern = re.compile(rf"camera {stamp}: (\S+)")
        self.client.spin_until(lambda: pattern.search(self.node.output), f"the end of {stamp}")
        found = pattern.search(self.node.output)
        assert found
        return found[1]

    def send_until(self, without: str) -> None:
        """Frames until the mask is the one without a sensor: another topic has no order."""
        self.client.spin_until(
            lambda: np.array_equal(self.mask(self.send()), self.expected[without]),
            f"a mask without {without or 'nothing'}",
        )


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    weights = nano_weights(
        tmp_path_factory.mktemp("weights") / "nano.safetensors", "synthetic_rgb_lidar_thermal"
    )
    with running(
        free_domain(8), "-p", f"weights:={weights}", "-p", "device:=cpu", "-p", LIDAR_POSE,
        "-p", "sync.deadline:=10.0", "-p", "thermal.max_age:=0.0", "-p", "lidar.max_age:=0.0",
        "--log-level", "mmsam:=debug",
    ) as (node, client):  # fmt: skip
        rig = Rig(node, client, Segmenter.load(weights, "cpu"))
        rig.publishers["info"].publish(camera_info(0, SIZE, SIZE))
        rig.send_until("")
        rig.refused = rig.counted()  # clouds that came before the calibration
        yield rig


def check(rig: Rig, case: Case) -> None:
    """A spoilt frame, then a good one; waited for, as a newer frame would replace it."""
    spoilt = rig.send(**{case.stream: case.spoil})
    rig.refused[f"{case.stream}.refused:{case.reason}"] += 1
    if case.stream == "camera":
        rig.spoilt.add(spoilt)
        assert rig.end(spoilt) == f"refused:{case.reason}"
    else:
        assert np.array_equal(rig.mask(spoilt), rig.expected[case.stream])
    assert np.array_equal(rig.mask(rig.send()), rig.expected[""])


def test_there_are_enough() -> None:
    cases = [*CASES, *COMPRESSED, *INFOS, *HEADERS]
    assert len({case.name for case in cases}) == len(cases) >= 60


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_images_and_clouds(rig: Rig, case: Case) -> None:
    check(rig, case)


def test_odd_headers_are_used(rig: Rig) -> None:
    """One after the other: a frame that comes back between them is another sensor's."""
    for case in HEADERS:
        assert np.array_equal(rig.mask(rig.send(**{case.stream: case.spoil})), rig.expected[""])
    assert np.array_equal(rig.mask(rig.send()), rig.expected[""])


@pytest.mark.parametrize("case", INFOS, ids=lambda case: case.name)
def test_calibrations_cost_the_points_only(rig: Rig, case: Case) -> None:
    rig.publishers["info"].publish(case.spoil(camera_info(0, SIZE, SIZE)))
    rig.send_until("lidar")
    rig.publishers["info"].publish(camera_info(0, SIZE, SIZE))
    rig.send_until("")


def test_all_are_counted_and_none_gave_a_mask(rig: Rig) -> None:
    """Of calibrations at least one frame each; of the others exactly one."""
    counted = rig.counted()
    assert counted.pop("lidar.refused:camera_info") >= len(INFOS)
    assert counted == rig.refused
    assert not rig.spoilt & rig.masks.keys()
    assert max(map(len, rig.client.diagnostics().values())) < 3000
    assert rig.node.process.poll() is None


@pytest.mark.parametrize("case", COMPRESSED, ids=lambda case: case.name)
def test_compressed_images(rig: Rig, case: Case) -> None:
    if rig.publishers["camera"].msg_type is Image:
        rig.use_compressed()
        rig.send_until("")
    check(rig, case)


def test_those_are_counted_too(rig: Rig) -> None:
    counted = rig.counted()
    assert not {k: n for k, n in rig.refused.items() if k.startswith("camera.") and n != counted[k]}
    assert not rig.spoilt & rig.masks.keys()
    assert rig.node.process.poll() is None
