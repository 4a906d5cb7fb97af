# SPDX-License-Identifier: Apache-2.0
"""Whether TF has the poses that a running node needs. Needs no ROS."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmsam_ros._util.findings import ERROR, OK, WARNING, Finding
from mmsam_ros.ros.calibration import Matrix, links_frames, nanoseconds, transform_matrix
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.transforms import RecordedTransforms
from mmsam_ros.sensors import SensorError

# the node's parameters that say which poses it looks up and which are given
PARAMETERS = ("lidar.extrinsics", "lidar.frame", "lidar.frame_pose", "lidar.motion",
              "lidar.motion_frame", "lidar.motion_pose", "thermal.extrinsics",
              "thermal.registration")  # fmt: skip
_PUBLISH = "publish it on /tf_static (static_transform_publisher, robot_state_publisher)"


class HeardTransforms:
    """Transforms as they come on /tf and /tf_static, looked up as the node does."""

    def __init__(self) -> None:
        self._static: dict[str, tuple[str, Matrix]] = {}
        self._known = RecordedTransforms(self._static)
        self.faults: dict[str, str] = {}  # of static transforms, by child

    def add(self, message: Any) -> None:
        """Take a TFMessage of /tf."""
        self._known.add(message)

    def add_static(self, message: Any) -> None:
        """Take a TFMessage of /tf_static."""
        for stamped in message.transforms:
            parent, child = stamped.header.frame_id.lstrip("/"), stamped.child_frame_id.lstrip("/")
            if not links_frames(parent, child):
                continue
            try:
                self._static[child] = parent, transform_matrix(stamped.transform)
            except SensorError as error:
                self.faults[child] = f"from {parent!r} to {child!r}: {error}"

    def find(self, target: str, source: str, time_ns: int) -> tuple[Matrix, bool]:
        """See `calibration.Transforms`."""
        return self._known.find(target, source, time_ns)


@dataclass(frozen=True)
class Pose:
    """A pose that the node needs: of frame `source` in frame `target`, at a time on the camera's
    clock.
    """

    sensor: str
    target: str
    source: str
    time_ns: int
    parameter: str = ""  # gives the pose where TF does not
    given: bool = False  # whether that parameter is set
    may_be_equal: bool = True  # equal frames are one and the same, and need no transform


def poses_needed(
    parameters: Mapping[str, Any], camera: str, headers: Mapping[str, list[Any]]
) -> Iterator[Pose]:
    """The poses that a node with these parameters looks up.

    Args:
        parameters: those of `PARAMETERS` that are set.
        camera: frame of the camera's images.
        headers: of "lidar", "thermal" and "twist", the newest header of each of their topics.
    """
    thermal = headers.get("thermal", []) if parameters.get("thermal.registration") == "rotation" \
        else []  # fmt: skip

    def time_ns(sensor: str, header: Any) -> int:
        return nanoseconds(header.stamp) + round(1e9 * parameters.get(f"{sensor}.offset", 0.0))

    for sensor, some in (("lidar", headers.get("lidar", [])), ("thermal", thermal)):
        name = f"{sensor}.extrinsics"
        for header in some:
            given = bool(parameters.get(name))
            frame = header.frame_id.lstrip("/")
            time = time_ns(sensor, header)
            yield Pose(sensor, camera, frame, time, name, given, may_be_equal=not given)
    for header in headers.get("lidar", []):
        frame, time = header.frame_id.lstrip("/"), time_ns("lidar", header)
        if target := parameters.get("lidar.frame"):
            given = bool(parameters.get("lidar.frame_pose"))
            yield Pose("lidar.frame", target, frame, time, "lidar.frame_pose", given)
        if parameters.get("lidar.motion") == "tf":
            target = parameters.get("lidar.motion_frame", "")
            yield Pose("lidar.motion", target, frame, time, may_be_equal=False)
        for twist in headers.get("twist", []) if parameters.get("lidar.motion") == "twist" else []:
            target, given = twist.frame_id.lstrip("/"), bool(parameters.get("lidar.motion_pose"))
            yield Pose("lidar.motion", target, frame, time, "lidar.motion_pose", given)


def check_pose(pose: Pose, transforms: HeardTransforms | None) -> Finding:
    """Whether the node finds a pose; `transforms` is None where TF could not be listened to."""
    subject = f"TF of {pose.sensor}"
    path = f"from frame {pose.source!r} to frame {pose.target!r}"
    remedy = f"{_PUBLISH} or set {pose.parameter}" if pose.parameter else _PUBLISH
    if not pose.source or not pose.target:
        return _replaced(pose, subject, f"{path}: a frame without name", "set header.frame_id in "
                         f"the driver, or {pose.parameter or 'the parameter'}")  # fmt: skip
    if pose.source == pose.target:
        if pose.may_be_equal:
            return Finding(OK, subject, f"{path}: the same")
        return _replaced(pose, subject, f"{path}: the same", remedy)
    if transforms is None:
        if pose.given:
            return Finding(OK, subject, f"{path}: parameter {pose.parameter} if TF has none")
        return Finding(WARNING, subject, f"{path} is not looked up: tf2_msgs is not installed here",
                       "apt install ros-jazzy-tf2-msgs")  # fmt: skip
    try:
        matrix, static = transforms.find(pose.target, pose.source, pose.time_ns)
    except RosError as error:
        faults = [fault for child, fault in transforms.faults.items() if child in str(error)]
        return _replaced(pose, subject, "; ".join([f"no transform {path} ({error})", *faults]),
                         remedy)  # fmt: skip
    where = ", ".join(f"{length:.2f}" for length in matrix[:3, 3])
    turned = np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1)))
    kind = "static" if static else "moving, at the stamp of its message"
    return Finding(OK, subject, f"{path}: {kind}, at ({where}) m, turned by {turned:.0f} degrees")


def _replaced(pose: Pose, subject: str, text: str, remedy: str) -> Finding:
    """A pose that TF does not have: fine where the parameter gives it."""
    if pose.given:
        return Finding(OK, subject, f"{text}: parameter {pose.parameter} is used")
    return Finding(ERROR, subject, text, remedy)
