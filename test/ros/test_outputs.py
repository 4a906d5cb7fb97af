# SPDX-License-Identifier: Apache-2.0
"""All outputs of one frame over DDS, decoded by `rosbags` and NumPy.

The node runs with a confidence threshold, so that every output is tested with pixels without label.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from domains import free_domain
from harness import (
    LIDAR_POSE,
    camera_info,
    header,
    running,
)
from published import COLOURS, KINDS, POSE
from rclpy.serialization import serialize_message
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header, String
from test_node import SIZE, Rig, pixels, stamp_of

from mmsam_ros.inference import Result, Segmenter, points
from mmsam_ros.ros import pack
from mmsam_ros.ros.calibration import camera_model
from mmsam_ros.ros.clouds import cloud_points
from mmsam_ros.ros.interface import OUTPUTS, message_class
from mmsam_ros.sensors import (
    SYNTHETIC_CLASSES,
    Frame,
    LidarPoints,
    SensorImage,
)
from mmsam_ros.weights import default_weights, read_spec

pytestmark = pytest.mark.dds
THRESHOLD = 0.6
STORE = get_typestore(Stores.ROS2_JAZZY)


@pytest.fixture(scope="module")
def rig(weights: Path) -> Iterator[Rig]:
    with running(
        free_domain(7), "-p", f"weights:={weights}", "-p", "device:=cpu", "-p", LIDAR_POSE,
        "-p", "sync.deadline:=10.0", "-p", f"confidence_threshold:={THRESHOLD}",
        "-p", "repeat_classes:=true", "-p", "lidar.max_age:=0.0", "-p", "thermal.max_age:=0.0",
    ) as (_, client):  # fmt: skip
        yield Rig(client)


@pytest.fixture(scope="module")
def made(rig: Rig) -> dict[str, Any]:
    """All outputs of one frame."""
    got = {name: rig.client.record(kind, f"/mmsam/{name}") for name, kind in KINDS.items()}
    rig.client.spin_until(
        lambda: all(rig.client.node.count_publishers(f"/mmsam/{n}") for n in KINDS), "outputs"
    )
    stamps: list[int] = []

    def of(name: str, stamp: int) -> Any:
        """The labelled cloud has the LiDAR's stamp."""
        own = stamp + 2_000_000 if name == "points/labelled" else stamp
        return next((m for m in got[name] if stamp_of(m) == own), None)

    def whole() -> list[int]:
        return [stamp for stamp in stamps if all(of(name, stamp) is not None for name in KINDS)]

    def complete() -> bool:
        """Frames are sent until all subscriptions have matched."""
        if not stamps or of("semantic", stamps[-1]) is not None:
            stamps.append(rig.next_stamp())
            rig.send(stamps[-1])
        return bool(whole())

    rig.client.spin_until(complete, "all outputs of one frame", 120)
    return {name: of(name, whole()[0]) for name in KINDS}


@pytest.fixture(scope="module")
def frame(rig: Rig) -> Frame:
    points = LidarPoints(rig.points[:, :3].copy(), rig.points[:, 3].copy(), POSE)
    sensors = {"lidar": points, "thermal": SensorImage(rig.counts)}
    return Frame(rig.rgb, sensors, camera_model(camera_info(0, SIZE, SIZE)))


@pytest.fixture(scope="module")
def expected(frame: Frame, weights: Path) -> Result:
    segmenter = Segmenter.load(weights, device="cpu")
    return segmenter.infer(segmenter.prepare(frame), probabilities=True)


def decoded(message: Any) -> Any:
    """By rosbags, from the bytes on the wire."""
    kind = type(message)
    name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
    return STORE.deserialize_cdr(serialize_message(message), name)


def columns(message: PointCloud2) -> dict[str, np.ndarray]:
    """Each field by its offset and type, (height, width)."""
    found = decoded(message)
    assert found.row_step == found.width * found.point_step
    assert len(found.data) == found.height * found.row_step
    rows = found.data.reshape(found.height, found.width, found.point_step)
    kinds = {PointField.FLOAT32: "<f4", PointField.UINT32: "<u4"}
    return {
        f.name: np.ascontiguousarray(rows[..., f.offset : f.offset + 4]).view(kinds[f.datatype])[
            ..., 0
        ]
        for f in found.fields
    }


def unsure(expected: Result) -> np.ndarray:
    """The mask without what is below the threshold."""
    assert expected.confidence is not None
    return np.where(expected.confidence < 255 * THRESHOLD, 255, expected.labels)


def test_headers_sizes_and_encodings(made: dict[str, Any]) -> None:
    encodings = {"semantic": "mono8", "confidence": "mono8", "color": "rgb8", "overlay": "rgb8",
                 "overlay/road": "rgb8"}  # fmt: skip
    stamp = stamp_of(made["semantic"])
    for name, message in made.items():
        own = name == "points/labelled"
        assert stamp_of(message) == stamp + own * 2_000_000, name
        assert message.header.frame_id == ("lidar" if own else "camera"), name
        if name in encodings:
            assert (message.height, message.width) == (SIZE, SIZE), name
            assert message.encoding == encodings[name], name
    assert made["probabilities"].encoding == "32FC14"
    assert made["semantic/compressed"].format == "mono8; png compressed "
    assert made["color/compressed"].format == "rgb8; jpeg compressed bgr8"


def test_the_table_lists_every_output(made: dict[str, Any]) -> None:
    rows = {row.name: row for row in OUTPUTS}
    for name, message in made.items():
        row = rows["~/overlay/<class>" if name.startswith("overlay/") else f"~/{name}"]
        assert message_class(row.type) is type(message)


def test_pixels_below_the_threshold_have_no_label(made: dict[str, Any], expected: Result) -> None:
    mask = unsure(expected)
    assert 0.05 < (mask == 255).mean() < 0.95
    assert np.array_equal(pixels(made["semantic"]), mask)
    assert np.array_equal(pixels(made["confidence"]), expected.confidence)
    assert np.array_equal(pixels(made["color"]).reshape(SIZE, SIZE, 3), COLOURS[mask])


def test_compressed_images(made: dict[str, Any], expected: Result) -> None:
    """The mask bit by bit; the colours nearly."""
    png = np.frombuffer(made["semantic/compressed"].data, np.uint8)
    assert bytes(png[:4]) == b"\x89PNG"
    assert np.array_equal(cv2.imdecode(png, cv2.IMREAD_UNCHANGED), unsure(expected))
    jpeg = np.frombuffer(made["color/compressed"].data, np.uint8)
    assert bytes(jpeg[:3]) == b"\xff\xd8\xff"
    found = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    assert np.abs(found - COLOURS[unsure(expected)]).mean() < 20


def test_probabilities_of_each_class(made: dict[str, Any], expected: Result) -> None:
    message = decoded(made["probabilities"])
    assert (message.height, message.width) == (SIZE // 4, SIZE // 4)
    found = message.data.view("<f4").reshape(SIZE // 4, SIZE // 4, len(SYNTHETIC_CLASSES))
    assert message.step == found[0].nbytes
    assert np.allclose(found.sum(axis=2), 1, atol=1e-5)
    assert np.array_equal(found, expected.probabilities)


def test_a_point_for_each_pixel(made: dict[str, Any], expected: Result, rig: Rig) -> None:
    """What Nav2's layer asks for: the mask's size and stamp; xyz in the camera's frame."""
    message = made["points"]
    assert (message.height, message.width) == (SIZE, SIZE)
    assert not message.is_dense
    found = columns(message)
    assert list(found) == ["x", "y", "z", "rgb", "label", "confidence"]
    mask = unsure(expected)
    assert np.array_equal(found["label"], mask)
    assert np.array_equal(found["confidence"], expected.confidence.astype("f4") / np.float32(255))
    xyz = np.stack([found[name] for name in "xyz"], axis=-1)
    there = np.isfinite(xyz).all(axis=-1)
    assert np.array_equal(there, np.isfinite(xyz).any(axis=-1))
    assert 1000 < there.sum() < len(rig.points)
    # every point lies in its pixel, and is one of the cloud
    x, y, z = xyz[there].astype(float).T
    rows, cols = np.nonzero(there)
    focal = 0.7 * SIZE
    assert np.abs(focal * x / z + SIZE / 2 - cols - 0.5).max() <= 0.5001
    assert np.abs(focal * y / z + SIZE / 2 - rows - 0.5).max() <= 0.5001
    # the sensor's x, y, z are the camera's z, -x, 0.2 - y
    own = np.stack([z, -x, 0.2 - y], axis=-1).round(3)
    known = {tuple(p) for p in rig.points[:, :3].astype(float).round(3).tolist()}
    share = np.mean([tuple(p) in known for p in own.tolist()])
    assert share > 0.95, "all but those that rounding parts"


def test_the_own_cloud_of_the_lidar(made: dict[str, Any], expected: Result, rig: Rig) -> None:
    found = columns(made["points/labelled"])
    assert found["x"].shape == (1, len(rig.points))
    for axis, name in enumerate("xyz"):
        assert np.array_equal(found[name][0], rig.points[:, axis])
    label, confidence = found["label"][0], found["confidence"][0]
    camera = rig.points[:, :3].astype(float) @ POSE[:3, :3].T + POSE[:3, 3]
    u, v = (0.7 * SIZE * camera[:, :2] / camera[:, 2:] + SIZE / 2).T
    view = (u >= 0) & (u < SIZE) & (v >= 0) & (v < SIZE) & (camera[:, 2] > 0.1)
    assert (label[~view] == 255).all()
    assert (confidence[~view] == 0).all()
    seen = view & (confidence > 0)  # else hidden by a nearer one
    assert 1000 < seen.sum() < view.sum()
    at = v[seen].astype(int), u[seen].astype(int)
    assert np.array_equal(label[seen], unsure(expected)[at])
    rgb = found["rgb"][0].view("<u4")
    red, green, blue = COLOURS[label].astype("u4").T
    assert np.array_equal(rgb, red << 16 | green << 8 | blue)


def test_our_own_reader_takes_both(made: dict[str, Any], rig: Rig) -> None:
    xyz, _ = cloud_points(made["points/labelled"], needs_intensity=False)
    assert np.array_equal(xyz, rig.points[:, :3])
    xyz, _ = cloud_points(made["points"], needs_intensity=False)
    assert len(xyz) == SIZE * SIZE


def test_classes_come_again_each_second(rig: Rig) -> None:
    """A volatile subscriber gets them; the latched one in `test_node` gets them once."""
    tables = rig.client.record(String, "/mmsam/classes", 5)
    rig.client.spin_until(lambda: len(tables) >= 2, "two tables")
    assert len({t.data for t in tables}) == 1
    assert json.loads(tables[0].data)["no_label"] == 255


def test_sensor_msgs_py_makes_the_same_bytes() -> None:
    point_cloud2 = pytest.importorskip(
        "sensor_msgs_py.point_cloud2", reason="sensor_msgs_py is not on pip"
    )
    rng = np.random.default_rng(0)
    flat = rng.integers(0, 256, (35, 24)).astype(np.uint8).view(points.POINT)[:, 0]
    fields = pack.cloud_message(Header(), flat[None]).fields
    stock = point_cloud2.create_cloud(header(1, "c"), fields, flat)
    assert stock == pack.own_cloud(header(1, "c"), fields, flat)


def test_an_organised_cloud_keeps_its_axes() -> None:
    grid = np.zeros((3, 5), points.POINT)
    grid["x"] = np.arange(15).reshape(3, 5)
    message = pack.cloud_message(header(1, "c"), grid)
    assert (message.height, message.width, message.row_step) == (3, 5, 120)
    assert np.array_equal(columns(message)["x"], grid["x"])


def test_nav2_has_a_cost_for_every_class(root: Path) -> None:
    """Nav2's layer reports a CRITICAL ERROR for a class that it has none for."""
    text = (root / "config/nav2_semantic_layer.yaml").read_text()
    layer = yaml.safe_load(text)["local_costmap"]["local_costmap"]["ros__parameters"]
    source = layer["semantic_segmentation_layer"]["mmsam"]
    named = [name for kind in source["class_types"] for name in source[kind]["classes"]]
    assert sorted(named) == sorted(c.name for c in read_spec(default_weights()).classes)
    for kind in source["class_types"]:
        assert 0 <= source[kind]["base_cost"] <= source[kind]["max_cost"] <= 254
        assert type(source[kind]["dominant_priority"]) is bool
        for name in ("mark_confidence", "samples_to_max_cost"):
            assert type(source[kind][name]) is int
    sections = {key for key, value in source.items() if isinstance(value, dict)}
    assert sections == set(source["class_types"])
    published = {row.name.replace("~", "/mmsam") for row in OUTPUTS}
    topics = {value for key, value in source.items() if key.endswith("_topic")}
    assert len(topics) == 4
    assert topics <= published
