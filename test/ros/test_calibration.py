# SPDX-License-Identifier: Apache-2.0
"""Calibration out of a recording: transform tree, topics, parameter file."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from support.networks import spec_of

from mmsam_ros.cli import bag as verb
from mmsam_ros.ros.bag_check import check_bag
from mmsam_ros.ros.bags import (
    parameters_yaml,
    read_parameters,
    transform_chain,
)
from mmsam_ros.ros.calibration import CameraInfos
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.feed import Feed
from mmsam_ros.ros.parameter_files import read_remaps
from mmsam_ros.ros.parameters import check_parameters
from mmsam_ros.ros.recording import Recording
from mmsam_ros.sensors import SensorError, pose_matrix, pose_values

STORE = get_typestore(Stores.ROS2_JAZZY)
T = STORE.types
TURN = (0.5, -0.5, 0.5, 0.5)


def header(frame: str) -> Any:
    return T["std_msgs/msg/Header"](T["builtin_interfaces/msg/Time"](0, 0), frame)


def camera_info(frame: str, focal: float = 700.0, **change: Any) -> Any:
    roi = T["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    fields: dict[str, Any] = {
        "header": header(frame),
        "height": 480,
        "width": 640,
        "distortion_model": "plumb_bob",
        "d": np.array([0.1, -0.2, 0.0, 0.0, 1e-5]),
        "k": np.array([focal, 0, 320, 0, focal, 240, 0, 0, 1], float),
        "r": np.eye(3).ravel(),
        "p": np.array([focal, 0, 320, 0, 0, focal, 240, 0, 0, 0, 1, 0], float),
        "binning_x": 0,
        "binning_y": 0,
        "roi": roi,
    }
    return T["sensor_msgs/msg/CameraInfo"](**fields | change)


def cloud(frame: str) -> Any:
    field = T["sensor_msgs/msg/PointField"]("x", 0, 7, 1)
    return T["sensor_msgs/msg/PointCloud2"](
        header(frame), 1, 1, [field], False, 4, 4, np.zeros(4, np.uint8), True
    )


def tf(parent: str, child: str, xyz: tuple[float, ...], quaternion: tuple[float, ...]) -> Any:
    transform = T["geometry_msgs/msg/Transform"](
        T["geometry_msgs/msg/Vector3"](*xyz), T["geometry_msgs/msg/Quaternion"](*quaternion)
    )
    return T["geometry_msgs/msg/TransformStamped"](header(parent), child, transform)


def write_bag(path: Path, *messages: tuple[str, Any]) -> Path:
    """(topic, message) one after the other; /tf_static messages are lists of transforms."""
    connections: dict[str, Any] = {}
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for stamp, (topic, message) in enumerate(messages):
            if isinstance(message, list):
                message = T["tf2_msgs/msg/TFMessage"](message)
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], stamp, STORE.serialize_cdr(message, kind))
    return path


CAMERA = ("/front/camera_info", camera_info("camera"))
THERMAL = ("/thermal/camera_info", camera_info("ir", 400.0))
LIDAR = ("/points", cloud("lidar"))
TREE = (
    "/tf_static",
    [
        tf("base", "camera", (1.0, 2.0, 3.0), (0.0, 0.0, 0.0, 1.0)),
        tf("base", "rig", (0.0, 0.0, 1.0), TURN),
        tf("rig", "lidar", (0.5, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)),
        tf("camera", "ir", (0.1, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)),
    ],
)


def picture(frame: str) -> tuple[str, Any]:
    pixels = np.arange(640 * 480 * 3, dtype=np.uint8)
    message = T["sensor_msgs/msg/Image"](header(frame), 480, 640, "rgb8", 0, 1920, pixels)
    return "/camera/image", message


@pytest.mark.parametrize(
    ("infos", "said"),
    [(["b"], ""), (["/b"], ""), (["a", "b"], ""), ([""], ""),
     (["a"], "is of frame 'a', the images of frame 'b'")],
)  # fmt: skip
def test_a_check_compares_the_frames_of_camera_info_and_image(
    tmp_path: Path, infos: list[str], said: str
) -> None:
    sent = [("/camera/camera_info", camera_info(frame)) for frame in infos]
    bag = write_bag(tmp_path / "bag", picture("b"), *sent)
    found = check_bag(bag, spec_of("synthetic_rgb_lidar_thermal")).findings
    texts = [f.text for f in found if "the images of frame" in f.text]
    assert texts == ([said] if said else [])


def test_camera_infos_of_a_recording_are_known_from_its_beginning(tmp_path: Path) -> None:
    """Those of two cameras on one topic, too; of each, the first one."""
    sent = [("a", 300.0), ("b", 400.0), ("a", 500.0)]
    infos_sent = [("/camera/camera_info", camera_info(frame, f)) for frame, f in sent]
    bag = write_bag(tmp_path / "bag", picture("b"), *infos_sent)
    found: list[tuple[float, float]] = []
    with Recording(bag) as reader:
        parameters = check_parameters({}, pytest.fail)
        feed = Feed(reader, parameters, spec_of("synthetic_rgb_lidar_thermal"), read_remaps([]))
        infos = CameraInfos()

        def look(*_: Any) -> None:
            a, b = (infos.model("camera", 480, 640, frame).K[0, 0] for frame in "ab")
            found.append((a, b))

        for _ in feed.sets(infos, look):
            pass
        look()
    assert found == [(300.0, 400.0)] * 4 + [(500.0, 400.0)]


# transforms


@given(
    st.tuples(*[st.floats(-10, 10)] * 3),
    st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
)
def test_pose_survives_both_ways(xyz: tuple[float, ...], q: tuple[float, ...]) -> None:
    matrix = pose_matrix(xyz, np.divide(q, np.linalg.norm(q)).tolist())
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.0)
    values = pose_values(matrix)
    assert values[6] >= 0
    np.testing.assert_allclose(pose_matrix(values[:3], values[3:]), matrix, atol=1e-9)


@pytest.mark.parametrize(
    ("q", "length"),
    [
        ((-1.57, 0.0, -1.57, 0.0), "2.22"),
        ((0.0, 0.0, 0.0, 1.1), "1.1"),
        ((0.5, 0.5, 0.5, 0), "0.8"),
    ],
)
def test_angles_are_no_quaternion(q: tuple[float, ...], length: str) -> None:
    with pytest.raises(SensorError, match=f"has a quaternion of length {length}"):
        pose_matrix((0.0, 0.0, 0.0), q)


def test_a_quaternion_may_be_written_with_few_digits() -> None:
    matrix = pose_matrix((0.0, 0.0, 0.0), (0.0, 0.0, 0.71, 0.71))
    np.testing.assert_allclose(matrix[:2, :2], [[0, -1], [1, 0]], atol=1e-12)


def test_quaternion_turns_the_right_way() -> None:
    half = np.sqrt(0.5)
    matrix = pose_matrix((1.0, 2.0, 3.0), (0.0, 0.0, half, half))  # a quarter turn about z
    np.testing.assert_allclose(matrix @ [1, 0, 0, 1], [1, 3, 3, 1], atol=1e-12)


def test_chain_goes_up_and_down_the_tree() -> None:
    quarter = pose_matrix((0.0, 0.0, 0.0), (0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)))
    shift = pose_matrix((1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    transforms = {"a": ("base", shift), "b": ("base", quarter), "c": ("b", shift)}
    chain = transform_chain(transforms, "a", "c")
    np.testing.assert_allclose(chain, np.linalg.inv(shift) @ quarter @ shift, atol=1e-12)
    np.testing.assert_allclose(chain @ [0, 0, 0, 1], [-1, 1, 0, 1], atol=1e-12)
    back = transform_chain(transforms, "c", "a")
    np.testing.assert_allclose(back, np.linalg.inv(chain), atol=1e-12)
    np.testing.assert_array_equal(transform_chain(transforms, "x", "x"), np.eye(4))


def test_a_loop_of_transforms_ends() -> None:
    shift = pose_matrix((1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    loop = {"a": ("b", shift), "b": ("c", shift), "c": ("a", shift)}
    assert transform_chain(loop, "c", "a").shape == (4, 4)
    with pytest.raises(RosError, match="no path from frame 'a' to frame 'd'"):
        transform_chain(loop, "d", "a")


def test_missing_path_says_what_is_connected() -> None:
    transforms = {"a": ("base", np.eye(4)), "b": ("rig", np.eye(4))}
    with pytest.raises(RosError, match=r"parents of 'a' are \['base'\], those of 'b' \['rig'\]"):
        transform_chain(transforms, "b", "a")


# from a bag


def test_camera_lidar_and_thermal(tmp_path: Path) -> None:
    parameters = read_parameters(write_bag(tmp_path / "bag", TREE, CAMERA, THERMAL, LIDAR))
    assert list(parameters) == ["camera", "lidar", "thermal"]
    info = parameters["camera"]["info"]
    assert (info["width"], info["height"], info["frame_id"]) == (640, 480, "camera")
    assert info["k"][0] == 700.0
    assert parameters["thermal"]["info"]["k"][0] == 400.0
    assert parameters["thermal"]["info"]["frame_id"] == "ir"
    assert parameters["thermal"]["extrinsics"] == pytest.approx([0.1, 0, 0, 0, 0, 0, 1])
    # TURN takes x to z: the lidar is at (0, 0, 1.5) in base, which the camera sees from (1, 2, 3)
    assert parameters["lidar"]["extrinsics"] == pytest.approx([-1.0, -2.0, -1.5, *TURN])


def test_camera_infos_of_two_cameras_on_one_topic_are_refused(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", CAMERA, CAMERA, (CAMERA[0], camera_info("other", 300.0)))
    with pytest.raises(RosError, match="CameraInfo is of frames 'camera' and 'other'"):
        read_parameters(bag)


def test_a_region_of_interest_that_is_the_whole_image(tmp_path: Path) -> None:
    """As some drivers fill it in; with zeros it says the same."""
    kind = type(camera_info("camera").roi)

    def of(width: int) -> Any:
        roi = kind(x_offset=0, y_offset=0, width=width, height=480, do_rectify=False)
        return CAMERA[0], camera_info("camera", roi=roi)

    plain = read_parameters(write_bag(tmp_path / "plain", CAMERA))
    assert read_parameters(write_bag(tmp_path / "whole", of(640))) == plain
    with pytest.raises(RosError, match="region of interest"):
        read_parameters(write_bag(tmp_path / "part", of(320)))


def test_camera_alone_needs_no_transform(tmp_path: Path) -> None:
    assert list(read_parameters(write_bag(tmp_path / "bag", CAMERA))) == ["camera"]


def test_a_later_transform_of_a_child_replaces_the_earlier_one(tmp_path: Path) -> None:
    straight = (0.0, 0.0, 0.0, 1.0)
    old = ("/tf_static", [tf("old", "lidar", (1.0, 0.0, 0.0), straight)])
    new = ("/tf_static", [tf("camera", "lidar", (2.0, 0.0, 0.0), straight)])
    parameters = read_parameters(write_bag(tmp_path / "bag", old, new, CAMERA, LIDAR))
    assert parameters["lidar"]["extrinsics"] == [2.0, 0.0, 0.0, *straight]


def test_same_frame_needs_no_transform(tmp_path: Path) -> None:
    parameters = read_parameters(write_bag(tmp_path / "bag", CAMERA, ("/p", cloud("/camera"))))
    assert parameters["lidar"]["extrinsics"] == [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]


def test_several_candidates_are_listed_and_can_be_chosen(tmp_path: Path) -> None:
    left, right = ("/left/camera_info", camera_info("camera")), ("/right/camera_info", THERMAL[1])
    more = ("/more_points", cloud("lidar"))
    bag = write_bag(tmp_path / "bag", TREE, left, right, LIDAR, more)
    expected = "/left/camera_info, /right/camera_info fit, choose one with --camera-info"
    with pytest.raises(RosError, match=expected):
        read_parameters(bag)
    with pytest.raises(RosError, match="/more_points, /points fit, choose one with --lidar"):
        read_parameters(bag, camera_info=left[0])
    chosen = read_parameters(bag, camera_info=left[0], thermal_info=right[0], lidar="/points")
    assert list(chosen) == ["camera", "lidar", "thermal"]
    with pytest.raises(RosError, match=r"--lidar /nope is not there, found \['/more_points'"):
        read_parameters(bag, camera_info=left[0], lidar="/nope")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": np.zeros(9)}, "/front/camera_info: CameraInfo.k"),
        ({"width": 0}, "/front/camera_info: CameraInfo.width is 0, expected"),
        ({"distortion_model": "weird"}, "/front/camera_info: .*weird"),
        ({"binning_x": 2}, "binning 2x0 and region of interest"),
        ({"header": header("")}, "header.frame_id is empty"),
    ],
)
def test_unusable_camera_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    bag = write_bag(tmp_path / "bag", (CAMERA[0], camera_info("camera", **change)))
    with pytest.raises(RosError, match=message):
        read_parameters(bag)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(RosError, match="no sensor_msgs/msg/CameraInfo of a colour camera"):
        read_parameters(write_bag(tmp_path / "a", LIDAR))
    with pytest.raises(RosError, match="no path from frame 'lidar' to frame 'camera'"):
        read_parameters(write_bag(tmp_path / "b", CAMERA, LIDAR))
    bad = ("/tf_static", [tf("camera", "lidar", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))])
    with pytest.raises(RosError, match="zero rotation"):
        read_parameters(write_bag(tmp_path / "c", bad, CAMERA, LIDAR))


# the parameter file


def test_numbers_keep_their_parameter_types(tmp_path: Path) -> None:
    out = tmp_path / "calib.yaml"
    bag = write_bag(tmp_path / "bag", TREE, CAMERA, LIDAR)
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    args = parser.parse_args(["calib", str(bag), "-o", str(out)])
    args.run(args)
    parameters = yaml.safe_load(out.read_text())["/**/mmsam"]["ros__parameters"]
    assert parameters == read_parameters(bag)
    info = parameters["camera"]["info"]
    for values in (info["d"], info["k"], info["r"], info["p"], parameters["lidar"]["extrinsics"]):
        assert {type(value) for value in values} == {float}
    assert type(info["width"]) is int


LOAD = """
import sys, rclpy
rclpy.init(args=["--ros-args", "--params-file", sys.argv[1]])
node = rclpy.create_node("mmsam", automatically_declare_parameters_from_overrides=True)
for name in ("camera.info.width", "camera.info.k", "camera.info.frame_id", "lidar.extrinsics"):
    print(name, node.get_parameter(name).type_.name)
rclpy.try_shutdown()
"""


@pytest.mark.dds
def test_ros_loads_the_file_with_these_types(tmp_path: Path) -> None:
    plain = camera_info("camera", distortion_model="", d=np.zeros(0))  # an empty d has no type
    bag = write_bag(tmp_path / "bag", TREE, (CAMERA[0], plain), LIDAR)
    file = tmp_path / "calib.yaml"
    file.write_text(parameters_yaml(read_parameters(bag)))
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(file)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [
        *("camera.info.width", "INTEGER", "camera.info.k", "DOUBLE_ARRAY"),
        *("camera.info.frame_id", "STRING", "lidar.extrinsics", "DOUBLE_ARRAY"),
    ]


def test_kitti_bag(shared: Path) -> None:
    bag = shared / "data" / "kitti_camera_lidar_mcap"
    reference = shared / "data" / "kitti_projection_reference" / "kitti_bag_calibration.npz"
    if not (bag.is_dir() and reference.is_file()):
        pytest.skip(f"the KITTI bag and its reference are not there: {bag}, {reference}")
    parameters = read_parameters(bag)
    expected = np.load(reference)
    assert list(parameters) == ["camera", "lidar"]
    np.testing.assert_array_equal(parameters["camera"]["info"]["k"], expected["K"].ravel())
    pose = parameters["lidar"]["extrinsics"]
    matrix = pose_matrix(pose[:3], pose[3:])
    np.testing.assert_allclose(matrix, expected["T_camera_from_velodyne"], atol=1e-7)


def test_module_needs_no_ros() -> None:
    """Nor do the tables that the reference documentation is made from."""
    names = ("bags", "calibration", "sync", "replay", "interface", "frames", "messages")
    code = f"import sys, {', '.join(f'mmsam_ros.ros.{name}' for name in names)}\n"
    code += "assert 'rclpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
