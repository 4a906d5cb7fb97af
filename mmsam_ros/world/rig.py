# SPDX-License-Identifier: Apache-2.0
"""The sensors' places, optics, rates and clocks. Frames as in ROS (REP 103).

`base_link`: on the ground under the rear axle, x forward, y left, z up. `lidar`: same axes.
`camera_optical`, `thermal_optical`: z forward, x right, y down. Pixel i covers [i, i + 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import radians, tan

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.errors import DataError
from mmsam_ros.world.scene import pose

_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@dataclass(frozen=True, eq=False)
class PinholeSpec:
    """An undistorted camera: size in pixels, horizontal field of view, T_base_optical."""

    width: int
    height: int
    fov: float  # degrees
    T_base: NDArray[np.float64]

    @property
    def K(self) -> NDArray[np.float64]:
        """(3, 3) square pixels, principal point in the middle."""
        f = self.width / 2 / tan(radians(self.fov / 2))
        return np.array([[f, 0, self.width / 2], [0, f, self.height / 2], [0, 0, 1]])

    @cached_property
    def rays(self) -> NDArray[np.float32]:
        """(height * width, 3) unit directions in the optical frame, row by row."""
        K = self.K
        u, v = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1)
        return (
            (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).reshape(-1, 3).astype(np.float32)
        )


@dataclass(frozen=True, eq=False)
class LidarSpec:
    """A spinning LiDAR: beams' elevations (degrees, top first), steps a turn, T_base_lidar."""

    elevations: NDArray[np.float64]
    steps: int
    T_base: NDArray[np.float64]
    range: tuple[float, float] = (0.8, 110.0)  # metres

    @cached_property
    def rays(self) -> NDArray[np.float32]:
        """(steps * beams, 3) unit directions in firing order: clockwise from behind, top first."""
        azimuth = np.pi - 2 * np.pi * (np.arange(self.steps)[:, None] + 0.5) / self.steps
        up = np.radians(self.elevations)[None]
        rays = np.stack(
            [np.cos(up) * np.cos(azimuth), np.cos(up) * np.sin(azimuth), np.sin(up) + 0 * azimuth],
            -1,
        )
        return rays.reshape(-1, 3).astype(np.float32)


def _elevations() -> NDArray[np.float64]:
    """32 beams from +10 to -25 degrees, denser around the horizon."""
    return np.concatenate(
        [np.linspace(10, 2, 6), np.linspace(1.2, -8.4, 17), np.linspace(-9.5, -25, 9)]
    )


def _camera(width: int, height: int) -> PinholeSpec:
    return PinholeSpec(width, height, 75.0, pose((1.25, 0.0, 1.60), pitch=radians(1.5)) @ _OPTICAL)


def _thermal(width: int, height: int) -> PinholeSpec:
    place = pose((1.25, -0.2, 1.60), yaw=radians(0.8), pitch=radians(1.1), roll=radians(0.3))
    return PinholeSpec(width, height, 64.0, place @ _OPTICAL)


@dataclass(frozen=True, eq=False)
class Rig:
    """All sensors of the vehicle; rates in Hz, offset: time of the first frame in seconds."""

    camera: PinholeSpec
    thermal: PinholeSpec
    lidar: LidarSpec
    camera_rate: float = 5.0
    lidar_rate: float = 10.0
    thermal_rate: float = 9.0
    offsets: dict[str, float] = field(
        default_factory=lambda: {"camera": 0.05, "lidar": 0.013, "thermal": 0.031}
    )

    @property
    def T_camera_lidar(self) -> NDArray[np.float64]:
        """(4, 4) camera_optical <- lidar."""
        return np.linalg.inv(self.camera.T_base) @ self.lidar.T_base

    @property
    def T_camera_thermal(self) -> NDArray[np.float64]:
        """(4, 4) camera_optical <- thermal_optical."""
        return np.linalg.inv(self.camera.T_base) @ self.thermal.T_base

    def stamps(self, sensor: str, seconds: float) -> NDArray[np.int64]:
        """Times of a sensor's frames within `seconds`, nanoseconds from the start."""
        rate, start = getattr(self, f"{sensor}_rate"), self.offsets[sensor]
        count = max(0, int(np.ceil((seconds - start) * rate - 1e-9)))
        return np.round((start + np.arange(count) / rate) * 1e9).astype(np.int64)

    def nearest(self, sensor: str, time: float) -> float:
        """Time (s) of a sensor's frame that is nearest to `time`."""
        rate, start = getattr(self, f"{sensor}_rate"), self.offsets[sensor]
        return float(start + max(0, round((time - start) * rate)) / rate)


def make_rig(
    width: int = 640, height: int = 480, *, steps: int = 1024, camera_rate: float = 5.0
) -> Rig:
    """The standard rig; the thermal camera has half the camera's resolution.

    DataError for a size below 32 pixels or a rate that is not positive.
    """
    if min(width, height) < 32:
        raise DataError(f"size is {width}x{height}, expected at least 32x32")
    if not camera_rate > 0:
        raise DataError(f"camera rate is {camera_rate}, expected a positive number of Hz")
    lidar = LidarSpec(_elevations(), steps, pose((1.50, 0.0, 1.77)))
    return Rig(_camera(width, height), _thermal(width // 2, height // 2), lidar, camera_rate)
