# SPDX-License-Identifier: Apache-2.0
"""ROS 1 bags are read directly: messages become those of ROS 2, and `bag calib` finds the
calibration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.interfaces import QosDurability
from rosbags.rosbag1 import Reader, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mmsam_ros.cli.main import main as mmsam
from mmsam_ros.ros.bags import read_parameters
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.recording import Recording

ROS1, ROS2 = get_typestore(Stores.ROS1_NOETIC), get_typestore(Stores.ROS2_JAZZY)
ROS1.register(
    get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf/msg/tfMessage")
    | get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage")
    | get_types_from_msg("std_msgs/Header header\nuint16 ring\nstring name", "acme_msgs/msg/Scan")
)
T = ROS1.types
K = np.array([700.0, 0, 320, 0, 710, 240, 0, 0, 1])
P = np.array([690.0, 0, 321, 0, 0, 705, 241, 0, 0, 0, 1, 0])
D = np.array([0.1, -0.2, 0.001, 0.002, 0.0])
TURN = (0.5, -0.5, 0.5, 0.5)  # of a LiDAR that looks ahead, in the camera's optical frame


def header(frame: str, stamp: int = 0) -> Any:
    return T["std_msgs/msg/Header"](7, T["builtin_interfaces/msg/Time"](1500 + stamp, 25), frame)


def camera_info() -> Any:
    roi = T["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    return T["sensor_msgs/msg/CameraInfo"](
        header("/camera"), 480, 640, "plumb_bob", D, K, np.eye(3).ravel(), P, 0, 0, roi
    )


def image(stamp: int) -> Any:
    pixels = np.arange(24, dtype=np.uint8)
    return T["sensor_msgs/msg/Image"](header("/camera", stamp), 2, 4, "bgr8", 0, 12, pixels)


def cloud() -> Any:
    fields = [T["sensor_msgs/msg/PointField"](n, 4 * i, 7, 1) for i, n in enumerate("xyz")]
    points = np.arange(6, dtype=np.float32).view(np.uint8)
    return T["sensor_msgs/msg/PointCloud2"](
        header("velodyne"), 1, 2, fields, False, 12, 24, points, True
    )


def transform(child: str, y: float) -> Any:
    return T["geometry_msgs/msg/TransformStamped"](
        header("/camera"), child,
        T["geometry_msgs/msg/Transform"](
            T["geometry_msgs/msg/Vector3"](0.0, y, 0.0), T["geometry_msgs/msg/Quaternion"](*TURN)
        ),
    )  # fmt: skip


def write(path: Path, *messages: tuple[str, str, Any, bool], compression: str = "") -> Path:
    """(topic, type, message, latched), a second apart."""
    writer = Writer(path)
    if compression:
        writer.set_compression(Writer.CompressionFormat[compression])
    with writer:
        connections: dict[str, Any] = {}
        for index, (topic, kind, message, latched) in enumerate(messages):
            if topic not in connections:
                connections[topic] = writer.add_connection(
                    topic, kind, typestore=ROS1, latching=int(latched)
                )
            data = ROS1.serialize_ros1(message, kind)
            writer.write(connections[topic], (1500 + index) * 10**9, data)
    return path


def drive(tf: str, kind: str) -> list[tuple[str, str, Any, bool]]:
    return [
        (tf, kind, T[kind]([transform("velodyne", -0.3)]), True),
        ("/cam/camera_info", "sensor_msgs/msg/CameraInfo", camera_info(), False),
        ("/cam/image_raw", "sensor_msgs/msg/Image", image(1), False),
        ("/velodyne_points", "sensor_msgs/msg/PointCloud2", cloud(), False),
        ("/cam/image_raw", "sensor_msgs/msg/Image", image(2), False),
    ]


CASES = [
    ("/tf_static", "tf2_msgs/msg/TFMessage"),
    ("/tf_static", "tf/msg/tfMessage"),
    ("tf_static", "tf2_msgs/msg/TFMessage"),
    ("/tf", "tf/msg/tfMessage"),  # what static_transform_publisher of the package tf does
]


@pytest.mark.parametrize(("tf", "kind"), CASES)
def test_calibration_of_a_ros1_bag(tmp_path: Path, tf: str, kind: str) -> None:
    notes: list[str] = []
    found = read_parameters(write(tmp_path / "x.bag", *drive(tf, kind)), note=notes.append)
    info = found["camera"]["info"]
    assert (info["width"], info["height"], info["distortion_model"]) == (640, 480, "plumb_bob")
    for name, values in (("k", K), ("p", P), ("d", D), ("r", np.eye(3).ravel())):
        np.testing.assert_array_equal(info[name], values)
    assert info["frame_id"] == "camera"
    np.testing.assert_allclose(found["lidar"]["extrinsics"], [0, -0.3, 0, *TURN], atol=1e-12)
    assert bool(notes) == (tf == "/tf")


def test_a_transform_on_tf_that_changes_is_no_calibration(tmp_path: Path) -> None:
    messages = drive("/tf", "tf/msg/tfMessage")
    moved = T["tf/msg/tfMessage"]([transform("velodyne", -0.4)])
    bag = write(tmp_path / "x.bag", *messages, ("/tf", "tf/msg/tfMessage", moved, False))
    with pytest.raises(RosError, match="no path from frame 'velodyne' to frame 'camera'"):
        read_parameters(bag)


@pytest.mark.parametrize("compression", ["", "BZ2", "LZ4"])
def test_messages_become_those_of_ros2(tmp_path: Path, compression: str) -> None:
    bag = write(
        tmp_path / "x.bag", *drive("/tf_static", "tf/msg/tfMessage"), compression=compression
    )
    with Recording(bag) as recording:
        played = [(c.topic, c.msgtype, time, data) for c, time, data in recording.messages()]
        assert [topic for topic, *_ in played] == [
            topic for topic, *_ in drive("/tf_static", "tf/msg/tfMessage")
        ]
        assert [time for _, _, time, _ in played] == [(1500 + i) * 10**9 for i in range(5)]
        messages: list[Any] = [ROS2.deserialize_cdr(data, kind) for _, kind, _, data in played]
        qos = {c.topic: c.offers for c in recording.connections}
    tf, info, first, points, second = messages
    assert tf.transforms[0].child_frame_id == "velodyne"
    assert played[0][1] == "tf2_msgs/msg/TFMessage"
    np.testing.assert_array_equal(info.k, K)
    np.testing.assert_array_equal(info.d, D)
    assert first.header.frame_id == "/camera"
    assert (first.header.stamp.sec, second.header.stamp.sec) == (1501, 1502)
    assert first.header.stamp.nanosec == 25
    np.testing.assert_array_equal(first.data, np.arange(24))
    assert [field.name for field in points.fields] == ["x", "y", "z"]
    np.testing.assert_array_equal(points.data.view(np.float32), np.arange(6))
    assert [offer.durability for offer in qos["/tf_static"]] == [QosDurability.TRANSIENT_LOCAL]
    assert qos["/cam/image_raw"] == []


def test_ros2_itself_reads_what_is_published(tmp_path: Path) -> None:
    serialization = pytest.importorskip("rclpy.serialization")
    from sensor_msgs.msg import CameraInfo, Image, PointCloud2

    kinds = {kind.__name__: kind for kind in (CameraInfo, Image, PointCloud2)}
    found = []
    with Recording(write(tmp_path / "x.bag", *drive("/tf_static", "tf/msg/tfMessage"))) as bag:
        for connection, _, data in bag.messages():
            if kind := kinds.get(connection.msgtype.split("/")[-1]):
                found.append(serialization.deserialize_message(data, kind))
    info, first, points, second = found
    assert (list(info.k), list(info.p), info.header.frame_id) == (list(K), list(P), "/camera")
    assert bytes(first.data) == bytes(second.data) == bytes(range(24))
    assert (points.width, points.point_step, points.is_dense) == (2, 12, True)


def test_a_type_of_ones_own_keeps_its_fields(tmp_path: Path) -> None:
    scan = T["acme_msgs/msg/Scan"](header("scanner"), 9, "front")
    bag = write(tmp_path / "x.bag", ("/scan", "acme_msgs/msg/Scan", scan, False))
    with Recording(bag) as recording:
        ((connection, _, data),) = recording.messages()
    assert connection.msgtype == "acme_msgs/msg/Scan"
    # encapsulation, stamp, frame with its length and end, ring, padding, name
    expected = b"\0\1\0\0" + np.array([1500, 25, 8], "<u4").tobytes() + b"scanner\0" + b"\x09\0\0\0"
    assert data == expected + np.array([6], "<u4").tobytes() + b"front\0"


def test_several_bags_in_a_folder_are_one_recording(tmp_path: Path) -> None:
    one, *others = drive("/tf_static", "tf2_msgs/msg/TFMessage")
    write(tmp_path / "a_0.bag", one)
    write(tmp_path / "a_1.bag", *others)
    assert set(read_parameters(tmp_path)) == {"camera", "lidar"}


def test_a_cut_bag_names_the_tool_that_repairs_it(tmp_path: Path, capsys: Any) -> None:
    bag = write(tmp_path / "x.bag", *drive("/tf_static", "tf2_msgs/msg/TFMessage"))
    data = bag.read_bytes()
    bag.write_bytes(data.replace(b"index_pos=", b"index_pos=" + bytes(8), 1)[: len(data) // 2])
    assert mmsam(["bag", "calib", str(bag)]) == 2
    assert "`rosbag reindex`" in capsys.readouterr().err


@pytest.mark.parametrize("definition", ["*", "", "Header header\nuint32 h\xffeight\n%&$"])
def test_a_standard_type_whose_definition_is_damaged_is_that_of_noetic(
    tmp_path: Path, definition: str
) -> None:
    kind = "sensor_msgs/msg/CameraInfo"
    with Writer(tmp_path / "x.bag") as writer:
        info = writer.add_connection("/info", kind, msgdef=definition, md5sum="*")
        own = writer.add_connection("/own", "acme_msgs/msg/Thing", msgdef="a\n%&$\nb", md5sum="*")
        writer.write(info, 5, ROS1.serialize_ros1(camera_info(), kind))
        writer.write(own, 6, b"1234")
    with Recording(tmp_path / "x.bag") as recording:
        ((connection, time, data),) = recording.messages()
        assert (connection.topic, time) == ("/info", 5)
        message: Any = ROS2.deserialize_cdr(data, kind)
        np.testing.assert_array_equal(message.k, K)
        (note,) = recording.notes
        assert note.startswith(f"/info: the definition of {kind} cannot be read (")
        assert note.endswith("): read as that of Noetic")
        (reason,) = recording.unreadable.values()
    assert reason.startswith("the definition of acme_msgs/msg/Thing cannot be read (")
    assert "\n" not in note + reason


def numbered_bag(path: Path, count: int, chunk: int, compression: str) -> Path:
    kind = "std_msgs/msg/String"
    writer = Writer(path)
    writer.chunk_threshold = chunk
    if compression:
        writer.set_compression(Writer.CompressionFormat[compression])
    with writer:
        connection = writer.add_connection("/a", kind, typestore=ROS1)
        for index in range(count):
            text = T[kind](f"text {index:03d} " + "x" * 200)
            writer.write(connection, index, ROS1.serialize_ros1(text, kind))
    return path


@pytest.mark.parametrize("compression", ["", "BZ2", "LZ4"])
def test_a_damaged_chunk_costs_its_own_messages(tmp_path: Path, compression: str) -> None:
    bag = numbered_bag(tmp_path / "x.bag", 40, 2000, compression)
    with Recording(bag) as recording:
        assert (recording.start_time, recording.end_time) == (0, 40)
        whole = [time for _, time, _ in recording.messages()]
        assert whole == list(range(40))
        assert recording.faults == []
    with Reader(bag) as reader:
        place = sorted(chunk.datapos for chunk in reader.chunks.values())[1]
        assert len(reader.chunks) > 3
    data = bytearray(bag.read_bytes())
    data[place : place + 60] = b"\xff" * 60
    bag.write_bytes(data)
    with Recording(bag) as recording:
        times = [time for _, time, _ in recording.messages()]
        (fault,) = recording.faults
    assert "x.bag: it is damaged" in fault
    assert times == sorted(times)
    assert {0, 39} <= set(times)
    assert 20 < len(times) < 40


def test_an_index_that_lost_a_connection_is_a_fault(tmp_path: Path) -> None:
    bag = numbered_bag(tmp_path / "x.bag", 8, 1 << 20, "")
    data = bag.read_bytes()
    index = data.index(b"conn=", data.index(b"op=\x04") - 40)  # of the messages of a chunk
    bag.write_bytes(data[: index + 5] + b"\x07" + data[index + 6 :])
    with Recording(bag) as recording:
        assert list(recording.messages()) == []
        (fault,) = recording.faults
    assert "x.bag: its index has 0 of 8 messages; `rosbag fix` and" in fault
