# SPDX-License-Identifier: Apache-2.0
"""How the LiDAR moves while and after it measures, from a twist or from TF. Needs no ROS."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.ros.calibration import Extrinsics, Matrix, nanoseconds
from mmsam_ros.ros.clouds import Points
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.notes import Notes
from mmsam_ros.ros.sets import Entry
from mmsam_ros.sensors import SensorError
from mmsam_ros.sensors.limits import shortened
from mmsam_ros.sensors.motion import FARTHEST, Vector, twist_at, undistort

KEPT = 500  # twists that are remembered
STALE = 0.25  # most seconds between the camera image and the nearest known motion


@dataclass
class CloudMotion:
    """Brings points to where the LiDAR would have measured them at the camera's stamp.

    `state` says for diagnostics what was done with the last cloud.
    """

    poses: Extrinsics
    by: str  # twist or tf
    frame: str  # with tf: the fixed frame
    pose: Matrix | None  # the LiDAR's own frame in that of the twist, used if TF has none
    notes: Notes = field(default_factory=Notes)
    state: str = "no cloud yet"
    _twists: deque[Any] = field(default_factory=lambda: deque(maxlen=KEPT))

    def update(self, message: Any) -> None:
        """Store a geometry_msgs/TwistStamped."""
        self._twists.append(message)

    def compensated(self, points: Points, cloud: Entry, camera: Entry) -> NDArray[np.float32]:
        """The points (N, 3) at the camera's stamp; unchanged, with a note, if that fails."""
        try:
            if points.seconds is None:
                raise RosError(points.untimed)
            seconds = points.seconds + (cloud.time_ns - camera.time_ns) / 1e9
            if np.nanmax(np.abs(seconds), initial=0.0) > 2 * FARTHEST:
                raise RosError("the cloud is too old")
            linear, angular = self._twist(cloud, camera.time_ns)
        except (RosError, SensorError) as error:
            self.state = shortened(f"not compensated: {error}")
            key = f"motion {str(error)[:20]}"
            self.notes.warning(f"lidar.motion: the points are used as they are: {error}", key)
            return points.xyz
        speed, turn = np.linalg.norm(linear), np.degrees(np.linalg.norm(angular))
        self.state = f"by {self.by}: {speed:.1f} m/s, {turn:.1f} degrees/s"
        return undistort(points.xyz, seconds, linear, angular)

    def _twist(self, cloud: Entry, time_ns: int) -> tuple[Vector, Vector]:
        """The LiDAR's twist in its own frame at a time."""
        frame_id = cloud.message.header.frame_id
        if self.by == "tf":
            linear, angular = self.poses.twist(self.frame, frame_id, time_ns, STALE)
            return twist_at(linear, angular, np.eye(4))
        known = [*self._twists]
        if not known:
            raise RosError("no message on vehicle/twist yet")
        found = min(known, key=lambda m: abs(nanoseconds(m.header.stamp) - time_ns))
        apart = (nanoseconds(found.header.stamp) - time_ns) / 1e9
        if abs(apart) > STALE:
            raise RosError(
                f"vehicle/twist has nothing within {STALE:g} s of the image, the nearest is "
                f"{apart:.2f} s away"
            )
        place = self._place(found.header.frame_id, cloud)
        v, w = found.twist.linear, found.twist.angular
        return twist_at((v.x, v.y, v.z), (w.x, w.y, w.z), place)

    def _place(self, body: str, cloud: Entry) -> Matrix:
        """(4, 4), frame of the twist <- the cloud's own."""
        frame_id = cloud.message.header.frame_id
        try:
            return self.poses.lookup("lidar.motion", body, frame_id, cloud.time_ns)
        except RosError as error:
            if self.pose is not None:
                return self.pose
            raise RosError(
                f"no transform from frame {frame_id!r} of the cloud to {body!r} of "
                "vehicle/twist; publish it on /tf_static or set the parameter lidar.motion_pose"
            ) from error
