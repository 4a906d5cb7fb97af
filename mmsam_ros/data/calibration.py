# SPDX-License-Identifier: Apache-2.0
"""calib.json of a folder data set, and how it brings sensors into the camera's view.

docs/own_data.md describes the file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util import from_mapping
from mmsam_ros.data.errors import DataError, naming
from mmsam_ros.data.read import Array, read_array, read_json, read_sensor_image
from mmsam_ros.sensors import (
    CameraModel,
    LidarPoints,
    Registration,
    SensorError,
    SensorImage,
    check_pose,
    check_size,
)

SensorData = LidarPoints | SensorImage


@dataclass(frozen=True)
class _Camera:
    width: int
    height: int
    K: Any
    D: Any
    model: str


@dataclass(frozen=True)
class _Lidar:
    T_camera_lidar: Any


@dataclass(frozen=True)
class _Thermal:
    """Either the homography, or all the others."""

    homography: Any = None
    width: Any = None
    height: Any = None
    K: Any = None
    R_camera_thermal: Any = None

    def build(self, K_camera: Any) -> tuple[Registration, tuple[int, int] | None]:
        found = [name for name, value in vars(self).items() if value is not None]
        if found == ["homography"]:
            return Registration.from_homography(self.homography), None
        if found != ["width", "height", "K", "R_camera_thermal"]:
            raise DataError(
                f"thermal: found {', '.join(found) or 'nothing'}, expected homography, or width, "
                "height, K and R_camera_thermal"
            )
        check_size("thermal", self.width, self.height)
        registration = Registration.from_rotation(K_camera, self.R_camera_thermal, self.K)
        return registration, (self.height, self.width)


@dataclass(frozen=True)
class _Calib:
    """calib.json as it is written."""

    camera: _Camera
    lidar: _Lidar | None = None
    thermal: _Thermal | None = None


@dataclass(frozen=True, eq=False)
class Calibration:
    """calib.json: the camera, and where LiDAR and thermal are relative to it (None: not needed).

    thermal_size: (height, width) that the registration holds for, None for any.
    """

    path: Path
    camera: CameraModel
    T_camera_lidar: NDArray[np.float64] | None = None
    registration: Registration | None = None
    thermal_size: tuple[int, int] | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """A calib.json; DataError names what is wrong."""
        return cls.from_values(read_json(path), path)

    @classmethod
    def from_values(cls, values: Any, path: Path) -> Self:
        """What the file at `path` holds, numbers in lists or arrays; DataError as `read`."""
        with naming(path, TypeError, ValueError, OverflowError):
            calib = from_mapping(_Calib, values, path.stem)
            given, lidar, thermal = calib.camera, calib.lidar, calib.thermal
            camera = CameraModel.from_info(
                width=given.width, height=given.height, k=given.K, d=given.D,
                distortion_model=given.model,
            )  # fmt: skip
            pose = check_pose("lidar.T_camera_lidar", lidar.T_camera_lidar) if lidar else None
            registration, size = thermal.build(given.K) if thermal else (None, None)
            return cls(path, camera, pose, registration, size)


def read_sensor(
    sensor: str, path: Path, encoding: str, calibration: Calibration | None
) -> SensorData:
    """What a sensor measured, with its place in the camera's view.

    Args:
        sensor: name.
        path: LiDAR points (N, 4 or more) as .npy; else an image, or a raster as .npz or .npy.
        encoding: of an image or raster.
        calibration: needed for points; registers thermal images where it has them.

    Raises:
        DataError: the file is broken, or does not fit the calibration.
    """
    with naming(path, SensorError):
        if sensor == "lidar" and path.suffix == ".npy" and (points := read_array(path)).ndim == 2:
            return _points(points, calibration)
        image = read_sensor_image(path, encoding)
        if sensor != "thermal" or calibration is None or calibration.registration is None:
            return image
        (height, width), expected = image.data.shape[:2], calibration.thermal_size
        if expected and (height, width) != expected:
            raise SensorError(
                f"is {width}x{height}, but the calibration's thermal camera is "
                f"{expected[1]}x{expected[0]}"
            )
        return SensorImage(image.data, calibration.registration)


def _points(points: Array, calibration: Calibration | None) -> LidarPoints:
    if calibration is None or calibration.T_camera_lidar is None:
        raise SensorError("points need lidar.T_camera_lidar in calib.json")
    if points.shape[1] < 4 or points.dtype.kind not in "fiu":
        found = f"points are {points.dtype} {points.shape}"
        raise SensorError(f"{found}, expected numbers (N, 4) or more columns")
    points = points.astype(np.float32, copy=False)
    return LidarPoints(points[:, :3], points[:, 3], calibration.T_camera_lidar)
