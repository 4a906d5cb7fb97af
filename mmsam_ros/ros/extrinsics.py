# SPDX-License-Identifier: Apache-2.0
"""Poses of the sensors in the camera's frame: from TF where it is installed, else parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.ros.errors import RosError
from mmsam_ros.sensors import SensorError, pose_matrix

Matrix = NDArray[np.float64]


class Extrinsics:
    """Poses of sensor frames in the camera's frame: from TF where it is installed, else fixed.

    Args:
        node: whose TF subscriptions are used.
        fixed: [x, y, z, qx, qy, qz, qw] by sensor, from parameters; may lack sensors.
    """

    def __init__(self, node: Any, fixed: Mapping[str, Sequence[float]]) -> None:
        self._fixed = {name: _pose(name, values) for name, values in fixed.items()}
        self._buffer: Any = None
        try:
            from tf2_ros import Buffer, TransformException, TransformListener
        except ImportError as error:
            self.source = "parameters"
            node.get_logger().warning(f"tf2_ros is not installed: poses are parameters ({error})")
            return
        self.source = "TF, else parameters"
        self._failure = TransformException
        self._buffer = Buffer(node=node)
        self._listener = TransformListener(self._buffer, node)

    def lookup(self, sensor: str, camera_frame: str, sensor_frame: str) -> Matrix:
        """(4, 4), camera <- sensor.

        Raises:
            RosError: neither TF nor a parameter has it (reason "no_extrinsics").
        """
        why = "tf2_ros is not installed"
        if self._buffer is not None:
            from rclpy.time import Time

            try:
                stamped = self._buffer.lookup_transform(camera_frame, sensor_frame, Time())
            except self._failure as error:
                why = f"TF: {error}"
            else:
                t, q = stamped.transform.translation, stamped.transform.rotation
                return pose_matrix((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
        if sensor in self._fixed:
            return self._fixed[sensor]
        raise RosError(
            f"no pose of frame {sensor_frame!r} in {camera_frame!r}: {why}, and the parameter "
            f"{sensor}.extrinsics is not set",
            "no_extrinsics",
        )


def _pose(sensor: str, values: Sequence[float]) -> Matrix:
    if len(values) != 7:
        raise RosError(
            f"parameter {sensor}.extrinsics: found {len(values)} values, expected "
            "[x, y, z, qx, qy, qz, qw]"
        )
    try:
        return pose_matrix(values[:3], values[3:])
    except SensorError as error:
        raise RosError(f"parameter {sensor}.extrinsics: {error}") from error
