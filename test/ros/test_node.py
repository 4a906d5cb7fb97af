# SPDX-License-Identifier: Apache-2.0
"""The node between processes over DDS: outputs, accounting, jumps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from domains import free_domain
from harness import (
    LATCHED,
    LIDAR_POSE,
    Client,
    NodeProcess,
    camera_info,
    cloud,
    image,
    running,
)
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import String

from mmsam_ros.inference import Segmenter
from mmsam_ros.ros.interface import INPUTS, OUTPUTS, STEPS, message_class
from mmsam_ros.sensors import SYNTHETIC_CLASSES, topic_names

pytestmark = pytest.mark.dds
SIZE = 1024  # pixels a side: 1 MP
NETWORK = "synthetic_rgb_lidar_thermal"
STEP = 100_000_000  # ns between frames
CLASSES = topic_names(SYNTHETIC_CLASSES)


class Rig:
    """Publishes three sensors into a running node and waits for its masks."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.camera = client.publisher(Image, "/camera/image")
        self.info = client.publisher(CameraInfo, "/camera/camera_info")
        self.lidar = client.publisher(PointCloud2, "/lidar/points")
        self.thermal = client.publisher(Image, "/thermal/image")
        self.masks = client.record(Image, "/mmsam/semantic")
        rng = np.random.default_rng(4)
        self.rgb = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        spread = ((2, -8, -2, 0), (40, 8, 3, 1))
        self.points = rng.uniform(*spread, (20000, 4)).astype(np.float32)
        self.counts = rng.integers(24000, 33000, (240, 240), np.uint16)
        self.stamp = 5 * 10**9
        publishers = (self.camera, self.info, self.lidar, self.thermal)
        self.client.spin_until(
            lambda: (
                all(p.get_subscription_count() for p in publishers)
                and client.node.count_publishers("/mmsam/semantic")
            ),
            "the node subscribes",
        )
        self.info.publish(camera_info(0, SIZE, SIZE))

    def next_stamp(self) -> int:
        self.stamp += STEP
        return self.stamp

    def send(self, stamp: int, **instead: Any) -> None:
        """One frame of all sensors; `instead` replaces (None: leaves out) some of them."""
        messages = {
            "lidar": cloud(stamp + 2_000_000, self.points),
            "thermal": image(stamp + 3_000_000, self.counts, "mono16", "thermal"),
            "camera": image(stamp, self.rgb, "rgb8"),
        } | instead
        for name, message in messages.items():
            if message is not None:
                getattr(self, name).publish(message)

    def send_until(self, expected: np.ndarray) -> None:
        """Frames of all sensors, until the mask is the expected one."""

        def arrived() -> bool:
            stamp = self.next_stamp()
            self.send(stamp)
            return np.array_equal(pixels(self.mask(stamp)), expected)

        self.client.spin_until(arrived, "a frame that gives the expected mask")

    def mask(self, stamp: int) -> Image:
        """The mask of a stamp, once it is there."""

        def of_stamp() -> list[Image]:
            return [m for m in self.masks if stamp_of(m) == stamp]

        self.client.spin_until(of_stamp, f"a mask for {stamp}")
        return of_stamp()[0]


def stamp_of(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def pixels(message: Image) -> np.ndarray:
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)


@pytest.fixture(scope="module")
def node(weights: Path) -> Iterator[tuple[NodeProcess, Client]]:
    with running(
        free_domain(), "-p", f"weights:={weights}", "-p", "device:=cpu", "-p", LIDAR_POSE,
        "-p", "sync.deadline:=10.0", "-p", "thermal.max_age:=0.0", "-p", "lidar.max_age:=0.0",
    ) as pair:  # fmt: skip
        yield pair


@pytest.fixture(scope="module")
def rig(node: tuple[NodeProcess, Client]) -> Rig:
    return Rig(node[1])


def outcome_sums(facts: dict[str, str]) -> dict[str, tuple[int, int]]:
    """Per stream: (received, all outcomes and what still waits)."""
    sums = {}
    for stream in ("camera", "lidar", "thermal"):
        tally = {
            k.removeprefix(f"{stream}."): int(v)
            for k, v in facts.items()
            if k.startswith(f"{stream}.")
        }
        received = tally.pop("received")
        sums[stream] = (received, sum(tally.values()))
    return sums


def test_every_output_has_the_camera_stamp_frame_and_size(rig: Rig) -> None:
    names = ["semantic", "confidence", "color", "overlay", *(f"overlay/{c}" for c in CLASSES)]
    outputs = {n: rig.client.record(Image, f"/mmsam/{n}") for n in names}
    rig.client.spin_until(
        lambda: all(rig.client.node.count_publishers(f"/mmsam/{n}") for n in names), "outputs"
    )
    stamps: list[int] = []

    def all_of_a_frame() -> bool:
        """Every output of one frame; frames are sent until all subscriptions have matched."""
        complete = set(stamps)
        for got in outputs.values():
            complete &= {stamp_of(m) for m in got}
        if complete:
            return True
        if not stamps or any(stamp_of(m) == stamps[-1] for m in outputs["semantic"]):
            stamps.append(rig.next_stamp())
            rig.send(stamps[-1])
        return False

    rig.client.spin_until(all_of_a_frame, "all outputs of one frame")
    for name, got in outputs.items():
        encoding = "mono8" if name in ("semantic", "confidence") else "rgb8"
        got = [m for m in got if stamp_of(m) in stamps]
        assert got, name
        for message in got:
            assert message.header.frame_id == "camera", name
            assert (message.height, message.width, message.encoding) == (SIZE, SIZE, encoding)
            assert len(message.data) == SIZE * message.step
        assert len({stamp_of(m) for m in got}) == len(got), name
    assert pixels(outputs["semantic"][-1]).max() < len(CLASSES)


def test_mask_equals_the_segmenter(rig: Rig, weights: Path) -> None:
    """The mask that comes over DDS is what the same data gives in this process."""
    stamp = rig.next_stamp()
    rig.send(stamp)
    assert np.array_equal(pixels(rig.mask(stamp)), expected_mask(rig, weights))


def expected_mask(rig: Rig, weights: Path, *, without: tuple[str, ...] = ()) -> np.ndarray:
    """By the Segmenter, from the arrays instead of the messages."""
    from mmsam_ros.ros.calibration import camera_model
    from mmsam_ros.sensors import Frame, LidarPoints, SensorImage, pose_matrix

    pose = pose_matrix([0.0, 0.2, 0.0], [0.5, -0.5, 0.5, 0.5])
    sensors = {
        "lidar": LidarPoints(rig.points[:, :3].copy(), rig.points[:, 3].copy(), pose),
        "thermal": SensorImage(rig.counts),
    }
    frame = Frame(
        rig.rgb,
        {k: v for k, v in sensors.items() if k not in without},
        camera_model(camera_info(0, SIZE, SIZE)),
    )
    return Segmenter.load(weights, device="cpu")(frame).labels


def test_classes_are_latched(rig: Rig) -> None:
    tables = rig.client.record(String, "/mmsam/classes", LATCHED)
    rig.client.spin_until(lambda: tables, "the class table")
    table = json.loads(tables[0].data)
    assert [c["name"] for c in table["classes"]] == [c.name for c in SYNTHETIC_CLASSES]
    assert table["no_label"] == 255


def test_label_info_is_latched(rig: Rig) -> None:
    messages = pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not on pip")
    infos = rig.client.record(messages.LabelInfo, "/mmsam/label_info", LATCHED)
    rig.client.spin_until(lambda: infos, "label info")
    assert [c.class_id for c in infos[0].class_map] == list(range(len(CLASSES)))


def test_the_topics_are_those_of_the_table(rig: Rig) -> None:
    """Names, types and durability; vision_msgs decides on label_info."""
    node = rig.client.node
    written = dict(node.get_publisher_names_and_types_by_node("mmsam", "/"))
    read = dict(node.get_subscriber_names_and_types_by_node("mmsam", "/"))
    for topics in (written, read):
        of_rclpy = ("/parameter_events", "/rosout", "/tf", "/tf_static", "/mmsam/transition_event")
        for of_ros in of_rclpy:
            topics.pop(of_ros, None)
    rows = {}
    for row in OUTPUTS:
        for part, names in (("<class>", CLASSES), ("<step>", (*STEPS, "total")), ("", ("",))):
            if part in row.name:
                for name in names:
                    rows[row.name.replace("~", "/mmsam").replace(part, name)] = row
                break
    if message_class("vision_msgs/msg/LabelInfo") is None:
        del rows["/mmsam/label_info"]
    assert written == {name: [row.type] for name, row in rows.items()}
    for name, row in rows.items():
        (offer,) = node.get_publishers_info_by_topic(name)
        latched = offer.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        assert latched == row.latched, name
        assert offer.qos_profile.reliability == ReliabilityPolicy.RELIABLE, name
    inputs = {f"/{row.name}": [row.type] for row in INPUTS}
    assert read == {name: inputs[name] for name in read}
    assert set(read) == {"/camera/image", "/camera/camera_info", "/lidar/points", "/thermal/image"}


def test_missing_sensors_are_reported_and_change_the_mask(rig: Rig, weights: Path) -> None:
    stamp = rig.next_stamp()
    rig.send(stamp, thermal=None)
    # the next one, after which no thermal image of this frame can come
    late = image(rig.next_stamp(), rig.counts, "mono16", "thermal")
    rig.thermal.publish(late)
    mask = pixels(rig.mask(stamp))
    assert np.array_equal(mask, expected_mask(rig, weights, without=("thermal",)))
    assert int(rig.client.diagnostics()["fused.camera+lidar"]) >= 1


def test_a_wrong_camera_info_costs_the_points_only(rig: Rig, weights: Path) -> None:
    wrong = camera_info(0, SIZE, SIZE)
    wrong.k = [0.0] * 9
    wrong.p = [0.0] * 12
    for info, reason in ((wrong, "camera_info"), (camera_info(0, 640, 480), "camera_info")):
        key = f"lidar.refused:{reason}"
        before = int(rig.client.diagnostics().get(key, 0))
        rig.info.publish(info)
        rig.send_until(expected_mask(rig, weights, without=("lidar",)))
        rig.info.publish(camera_info(0, SIZE, SIZE))
        rig.send_until(expected_mask(rig, weights))
        rig.client.spin_until(
            lambda b=before, k=key: int(rig.client.diagnostics().get(k, 0)) > b, f"{key} counts"
        )


def test_an_empty_cloud_is_valid(rig: Rig, weights: Path) -> None:
    stamp = rig.next_stamp()
    rig.send(stamp, lidar=cloud(stamp + 2_000_000, np.zeros((0, 4), np.float32)))
    mask = pixels(rig.mask(stamp))
    assert np.array_equal(mask, expected_mask(rig, weights, without=("lidar",)))
    before = int(rig.client.diagnostics()["lidar.received"])
    assert before > 0
    assert "lidar.refused:empty" not in rig.client.diagnostics()


def test_a_burst_is_accounted_for(rig: Rig) -> None:
    """More frames than the network can take: each is published or counted with a reason."""
    count = 15
    already = len(rig.masks)
    for _ in range(count):
        rig.send(rig.next_stamp())
    rig.mask(rig.stamp)  # the newest wins
    facts = rig.client.diagnostics()
    rig.client.spin_until(
        lambda: facts.update(rig.client.diagnostics()) or int(facts["camera.waiting"]) == 0,
        "nothing waits",
    )
    for stream, (received, explained) in outcome_sums(facts).items():
        assert received == explained, stream
    used = int(facts["camera.used"])
    rig.client.spin_until(lambda: len(rig.masks) >= used, f"{used} masks")
    assert len(rig.masks) == used, "every mask is counted once"
    assert 1 <= len(rig.masks) - already <= count


def test_a_backward_jump_keeps_working(rig: Rig, weights: Path) -> None:
    rig.stamp = 10**9
    for _ in range(3):
        stamp = rig.next_stamp()
        rig.send(stamp)
        assert np.array_equal(pixels(rig.mask(stamp)), expected_mask(rig, weights))
