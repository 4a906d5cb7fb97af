# SPDX-License-Identifier: Apache-2.0
"""The sensors' places, optics, rates and clocks. Frames as in ROS (REP 103).

`base_link`: on the ground under the rear axle, x forward, y left, z up. `lidar`: same axes.
`camera_optical`, `thermal_optical`: z forward, x right, y down. Pixel i covers [i, i + 1).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import radians, tan

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.errors import DataError
from mmsam_ros.sensors import CameraModel, Registration
from mmsam_ros.world.scene import pose
from mmsam_ros.world.style import Floats

OFFSETS = {"camera": 0.05, "lidar": 0.013, "thermal": 0.031}  # time of the first frame, seconds
_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@dataclass(frozen=True, eq=False)
class PinholeSpec:
    """An undistorted camera."""

    width: int
    height: int
    fov: float  # horizontal, degrees
    T_base: NDArray[np.float64]  # base_link <- optical frame

    @property
    def K(self) -> NDArray[np.float64]:
        """(3, 3) square pixels, principal point in the middle."""
        f = self.width / 2 / tan(radians(self.fov / 2))
        return np.array([[f, 0, self.width / 2], [0, f, self.height / 2], [0, 0, 1]])

    @cached_property
    def rays(self) -> Floats:
        """(height * width, 3) unit directions in the optical frame, row by row."""
        v, u = np.indices((self.height, self.width)).reshape(2, -1) + 0.5
        (f, _, cx), (_, _, cy) = self.K[:2]
        rays = np.stack([(u - cx) / f, (v - cy) / f, np.ones_like(u)], 1)
        return (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class LidarSpec:
    """A spinning LiDAR."""

    elevations: NDArray[np.float64]  # of the beams, degrees, top first
    steps: int  # a turn
    T_base: NDArray[np.float64]  # base_link <- lidar

    @cached_property
    def rays(self) -> Floats:
        """(steps * beams, 3) unit directions in firing order: clockwise from behind, top first."""
        azimuth = np.pi - 2 * np.pi * (np.arange(self.steps)[:, None] + 0.5) / self.steps
        up = np.radians(self.elevations)[None]
        x, y, z = np.cos(up) * np.cos(azimuth), np.cos(up) * np.sin(azimuth), np.sin(up)
        return np.stack([x, y, z + 0 * azimuth], -1).reshape(-1, 3).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Rig:
    """All sensors of the vehicle."""

    camera: PinholeSpec
    thermal: PinholeSpec
    lidar: LidarSpec
    rates: Mapping[str, float]  # of every sensor, Hz

    @property
    def T_camera_lidar(self) -> NDArray[np.float64]:
        """(4, 4) camera_optical <- lidar."""
        return np.linalg.inv(self.camera.T_base) @ self.lidar.T_base

    @property
    def T_camera_thermal(self) -> NDArray[np.float64]:
        """(4, 4) camera_optical <- thermal_optical."""
        return np.linalg.inv(self.camera.T_base) @ self.thermal.T_base

    @property
    def camera_model(self) -> CameraModel:
        """The camera as `sensors` describes it."""
        size = self.camera.width, self.camera.height
        return CameraModel(*size, self.camera.K, np.zeros(0), "none", np.eye(3), np.zeros(3))

    @property
    def registration(self) -> Registration:
        """The thermal camera's registration by rotation."""
        R = self.T_camera_thermal[:3, :3]
        return Registration.from_rotation(self.camera.K, R, self.thermal.K)

    def stamps(self, sensor: str, seconds: float) -> NDArray[np.int64]:
        """Times of a sensor's frames within `seconds`, nanoseconds from the start."""
        rate, start = self.rates[sensor], OFFSETS[sensor]
        count = max(0, int(np.ceil((seconds - start) * rate - 1e-9)))
        return np.round((start + np.arange(count) / rate) * 1e9).astype(np.int64)

    def nearest(self, sensor: str, time: float) -> float:
        """Time (s) of a sensor's frame that is nearest to `time`."""
        rate, start = self.rates[sensor], OFFSETS[sensor]
        return float(start + max(0, round((time - start) * rate)) / rate)


def make_rig(
    width: int = 640, height: int = 480, *, steps: int = 1024, camera_rate: float = 5.0
) -> Rig:
    """The standard rig; the thermal camera has half the camera's resolution, the LiDAR 32 beams.

    DataError: a size below 32 pixels or a rate that is not positive.
    """
    if min(width, height) < 32:
        raise DataError(f"size is {width}x{height}, expected at least 32x32")
    if not camera_rate > 0:
        raise DataError(f"camera rate is {camera_rate}, expected a positive number of Hz")
    place = pose((1.25, 0.0, 1.60), pitch=radians(1.5))
    camera = PinholeSpec(width, height, 75.0, place @ _OPTICAL)
    place = pose((1.25, -0.2, 1.60), radians(0.8), radians(1.1), radians(0.3))
    thermal = PinholeSpec(width // 2, height // 2, 64.0, place @ _OPTICAL)
    # denser around the horizon
    bands = np.linspace(10, 2, 6), np.linspace(1.2, -8.4, 17), np.linspace(-9.5, -25, 9)
    lidar = LidarSpec(np.concatenate(bands), steps, pose((1.50, 0.0, 1.77)))
    return Rig(camera, thermal, lidar, {"camera": camera_rate, "lidar": 10.0, "thermal": 9.0})
