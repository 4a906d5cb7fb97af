# SPDX-License-Identifier: Apache-2.0
"""Calibration of the sensors: camera models from CameraInfo, poses from TF, both also from
parameters. Messages may be those of rclpy or of `rosbags`; importing it needs no ROS.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.ros.errors import RosError
from mmsam_ros.sensors import CAMERA, CameraModel, SensorError, pose_matrix

Matrix = NDArray[np.float64]
# of a CameraInfo: those that are parameters `<camera>.info.*` too
INFO_FIELDS = ("width", "height", "distortion_model", "d", "k", "r", "p")


def camera_model(info: Any, rectified: bool | None, where: str = "camera_info") -> CameraModel:
    """The camera model of a sensor_msgs/CameraInfo. `rectified`: whether the image is; None: as the
    message says. RosError (reason "camera_info") for zero K, wrong lengths and the like; its text
    begins with `where`, the topic or parameter that the values come from.
    """
    values = {name: getattr(info, name) for name in (*INFO_FIELDS, "binning_x", "binning_y")}
    roi = (info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height)
    try:
        return CameraModel.from_info(**values, roi=roi, rectified=rectified)
    except SensorError as error:
        raise RosError(f"{where}: {error}", "camera_info") from error


@dataclass
class CameraInfos:
    """The newest calibrations of "camera" and "thermal"."""

    rectified: bool | None = None  # the camera image; None: decided from its CameraInfo
    fixed: Mapping[str, CameraModel] = field(default_factory=dict)  # preferred to topics
    topics: Mapping[str, str] = field(default_factory=dict)  # their names for messages
    _received: dict[str, Any] = field(default_factory=dict)

    def update(self, name: str, message: Any) -> None:
        """Store a CameraInfo; it is checked when an image needs it."""
        self._received[name] = message

    def model(self, name: str, height: int, width: int) -> CameraModel:
        """The model of "camera" or "thermal" for an image of this size; RosError if there is none
        yet (reason "no_camera_info"), or it is not usable or for another size ("camera_info").
        """
        topic = self.topics.get(name, f"{name}/camera_info")
        if name in self.fixed:
            model, where = self.fixed[name], f"parameter {name}.info"
        elif name in self._received:
            where, rectified = topic, self.rectified if name == CAMERA else None
            model = camera_model(self._received[name], rectified, where)
        else:
            raise RosError(
                f"no CameraInfo received on {topic}; publish or remap it, or set the parameters "
                f"{name}.info",
                "no_camera_info",
            )
        if (model.width, model.height) != (width, height):
            raise RosError(
                f"{where} is for an image of {model.width}x{model.height} pixels, the image has "
                f"{width}x{height}; publish the CameraInfo of this image",
                "camera_info",
            )
        return model


def transform_matrix(transform: Any) -> Matrix:
    """(4, 4) of a geometry_msgs/Transform; SensorError if its rotation is zero or not finite."""
    t, q = transform.translation, transform.rotation
    return pose_matrix((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))


class Extrinsics:
    """Looks up extrinsics in TF, if tf2_ros is installed, then in `poses`: the parameters
    `<sensor>.extrinsics` by sensor. RosError if one is no pose.
    """

    def __init__(self, node: Any, poses: Mapping[str, Sequence[float] | None]) -> None:
        self._fixed = {}
        for sensor, values in poses.items():
            try:
                if values:
                    self._fixed[sensor] = pose_matrix(values[:3], values[3:])
            except SensorError as error:
                raise RosError(f"parameter {sensor}.extrinsics: {error}") from error
        self._buffer: Any = None
        self.source = "parameters"
        try:
            from rclpy.time import Time
            from tf2_ros import Buffer, TransformException, TransformListener
        except ImportError as error:
            node.get_logger().warning(
                "tf2_ros is not installed: extrinsics are read from the parameters "
                f"<sensor>.extrinsics only ({error})"
            )
            return
        self.source = "TF, else parameters"
        self._failure, self._latest = TransformException, Time()
        self._buffer = Buffer(node=node)
        self._listener = TransformListener(self._buffer, node)

    def lookup(self, sensor: str, camera_frame: str, sensor_frame: str) -> Matrix:
        """(4, 4), camera <- sensor; RosError (reason "no_extrinsics") if it is not known."""
        why = "tf2_ros is not installed"
        if self._buffer is not None:
            try:
                stamped = self._buffer.lookup_transform(camera_frame, sensor_frame, self._latest)
                return transform_matrix(stamped.transform)
            except self._failure as error:
                why = f"TF says: {error}"
        if sensor in self._fixed:
            return self._fixed[sensor]
        raise RosError(
            f"no transform from frame {sensor_frame!r} to frame {camera_frame!r} ({why}); publish "
            f"it on /tf_static or set the parameter {sensor}.extrinsics",
            "no_extrinsics",
        )
