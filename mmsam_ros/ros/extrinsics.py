# SPDX-License-Identifier: Apache-2.0
"""Poses of the sensors in the camera's frame: from TF if tf2_ros is installed, else parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.ros.errors import RosError
from mmsam_ros.sensors import SensorError, pose_matrix

Matrix = NDArray[np.float64]


def transform_matrix(transform: Any) -> Matrix:
    """(4, 4) of a geometry_msgs/Transform; SensorError if its rotation is zero or not finite."""
    t, q = transform.translation, transform.rotation
    return pose_matrix((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))


class Extrinsics:
    """Looks up extrinsics in TF, then in `poses`: the parameters `<sensor>.extrinsics` by sensor.

    Raises:
        RosError: a parameter is no pose.
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
