# SPDX-License-Identifier: Apache-2.0
"""What `mmsam doctor --live` says of the poses that a node needs."""

from typing import Any

import pytest
from recordings import T, header

from mmsam_ros._util.findings import ERROR, OK, WARNING, Finding
from mmsam_ros.ros.live_tf import HeardTransforms, Pose, check_pose, poses_needed

START = 1_700_000_000_000_000_000
STEP = 50_000_000
TURNED = (0.5, -0.5, 0.5, 0.5)  # by 120 degrees


def transforms(*links: tuple[str, str, float, int], turn: Any = (0.0, 0.0, 0.0, 1.0)) -> Any:
    """A TFMessage of (parent, child, metres along x, stamp)."""
    some = []
    for parent, child, x, stamp in links:
        transform = T["geometry_msgs/msg/Transform"](
            T["geometry_msgs/msg/Vector3"](x, 0.0, 0.0), T["geometry_msgs/msg/Quaternion"](*turn)
        )
        some.append(
            T["geometry_msgs/msg/TransformStamped"](header(stamp, parent), child, transform)
        )
    return T["tf2_msgs/msg/TFMessage"](some)


def found(
    heard: HeardTransforms | None, lidar: str = "lidar", camera: str = "camera", **given: Any
) -> list[Finding]:
    """What is said of the poses that a cloud needs; `given`: parameters, with _ for dots."""
    parameters = {name.replace("_", ".", 1): value for name, value in given.items()}
    at = START + STEP
    headers = {"lidar": [header(at, lidar)], "twist": [header(at, "base_link")]}
    needed = poses_needed(parameters, camera, headers)
    return [check_pose(pose, heard) for pose in needed]


@pytest.fixture
def heard() -> HeardTransforms:
    """base_link with a camera, and a LiDAR on a mast that moves between two stamps."""
    heard = HeardTransforms()
    heard.add_static(transforms(("base_link", "camera", 1.0, 0), turn=TURNED))
    heard.add_static(transforms(("mast", "/lidar", 0.5, 0)))
    for stamp, x in ((START, 2.0), (START + 2 * STEP, 4.0)):
        heard.add(transforms(("base_link", "mast", x, stamp)))
    return heard


def test_a_static_transform(heard: HeardTransforms) -> None:
    (said,) = found(heard, lidar="base_link")
    assert said.level == OK
    assert said.subject == "TF of lidar"
    assert "from frame 'base_link' to frame 'camera': static, at " in said.text
    assert "turned by 120 degrees" in said.text


def test_a_moving_transform_at_the_cloud_s_stamp(heard: HeardTransforms) -> None:
    (said,) = found(heard, camera="base_link")
    assert said.level == OK
    assert "moving, at the stamp of its message, at (3.50, 0.00, 0.00) m" in said.text


def test_a_transform_that_stops_coming(heard: HeardTransforms) -> None:
    late = Pose("lidar", "camera", "lidar", START + 40 * STEP, "p", False)
    said = check_pose(late, heard)
    assert said.level == ERROR
    assert "'mast' is known from" in said.text


def test_none(heard: HeardTransforms) -> None:
    (said,) = found(heard, lidar="velodyne")
    assert said.level == ERROR
    assert "no transform from frame 'velodyne' to frame 'camera'" in said.text
    assert "/tf_static" in said.remedy
    assert "set lidar.extrinsics" in said.remedy


def test_the_parameter_in_its_place(heard: HeardTransforms) -> None:
    (said,) = found(heard, lidar="velodyne", lidar_extrinsics=[0.0] * 6 + [1.0])
    assert said.level == OK
    assert "parameter lidar.extrinsics is used" in said.text


@pytest.mark.parametrize(("given", "level"), [({}, OK), ({"lidar_extrinsics": [1.0]}, OK)])
def test_the_camera_s_own_frame(heard: HeardTransforms, given: Any, level: str) -> None:
    (said,) = found(heard, lidar="camera", **given)
    assert said.level == level
    assert ("lidar.extrinsics is used" in said.text) == bool(given)


def test_a_frame_without_name(heard: HeardTransforms) -> None:
    (said,) = found(heard, lidar="")
    assert said.level == ERROR
    assert "header.frame_id" in said.remedy


def test_a_rotation_that_is_none_is_said() -> None:
    heard = HeardTransforms()
    heard.add_static(transforms(("camera", "lidar", 1.0, 0), turn=(0.0, 0.0, 0.0, 0.0)))
    (said,) = found(heard)
    assert said.level == ERROR
    assert "from 'camera' to 'lidar'" in said.text


def test_frames_for_height_and_motion(heard: HeardTransforms) -> None:
    lidar, frame, motion = found(
        heard, lidar_frame="base_link", lidar_motion="tf", lidar_motion_frame="odom"
    )
    assert [said.level for said in (lidar, frame, motion)] == [OK, OK, ERROR]
    assert "from frame 'lidar' to frame 'base_link'" in frame.text
    assert "'odom'" in motion.text


def test_a_twist_is_of_its_own_frame(heard: HeardTransforms) -> None:
    _, motion = found(heard, lidar_motion="twist")
    assert motion.level == OK
    assert "from frame 'lidar' to frame 'base_link'" in motion.text
    _, motion = found(heard, lidar="velodyne", lidar_motion="twist")
    assert motion.level == ERROR
    assert "lidar.motion_pose" in motion.remedy


def test_a_thermal_camera_needs_a_pose_for_rotation_alone(heard: HeardTransforms) -> None:
    headers = {"thermal": [header(START, "base_link")]}
    assert not list(poses_needed({"thermal.registration": "registered"}, "camera", headers))
    (pose,) = poses_needed({"thermal.registration": "rotation"}, "camera", headers)
    assert check_pose(pose, heard).subject == "TF of thermal"


def test_without_tf2_msgs() -> None:
    (said,) = found(None)
    assert said.level == WARNING
    assert "tf2-msgs" in said.remedy
    (said,) = found(None, lidar_extrinsics=[0.0] * 6 + [1.0])
    assert said.level == OK
