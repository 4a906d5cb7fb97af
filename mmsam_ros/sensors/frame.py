# SPDX-License-Identifier: Apache-2.0
"""A frame: a camera image and the data of the other sensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors.camera import CameraModel
from mmsam_ros.sensors.errors import SensorError
from mmsam_ros.sensors.matrices import Array, check_pose
from mmsam_ros.sensors.registration import Registration


@dataclass(frozen=True, eq=False)
class LidarPoints:
    """A cloud: xyz (N, 3) float32 in metres in the sensor's frame (x forward, y left, z up),
    intensity (N,) float32 in the sensor's units, and T_camera_lidar (4, 4) float64, which takes
    the sensor's frame to the camera's optical frame. N may be 0. SensorError for other shapes
    and for a transform that is not rigid.
    """

    xyz: NDArray[np.float32]
    intensity: NDArray[np.float32]
    T_camera_lidar: Array

    def __post_init__(self) -> None:
        if self.xyz.ndim != 2 or self.xyz.shape[1] != 3:
            raise SensorError(f"lidar xyz has shape {self.xyz.shape}, expected (N, 3)")
        found, expected = self.intensity.shape, (len(self.xyz),)
        if found != expected:
            raise SensorError(f"lidar intensity has shape {found}, expected {expected}")
        check_pose("T_camera_lidar", self.T_camera_lidar)


@dataclass(frozen=True, eq=False)
class SensorImage:
    """An image of another sensor as published: (h, w) or (h, w, 3), uint8, uint16 or float32, and
    how it lies in the camera's view. SensorError for other shapes or types.
    """

    data: NDArray[np.generic]
    registration: Registration = field(default_factory=Registration.aligned)

    def __post_init__(self) -> None:
        shape, dtype = self.data.shape, self.data.dtype
        if 0 in shape or len(shape) < 2 or shape[2:] not in ((), (3,)):
            raise SensorError(f"sensor image has shape {shape}, expected (h, w) or (h, w, 3)")
        if dtype.name not in ("uint8", "uint16", "float32"):
            expected = "uint8, uint16 or float32"
            raise SensorError(f"sensor image has dtype {dtype}, expected {expected}")


@dataclass(frozen=True, eq=False)
class Frame:
    """The camera image, rgb (H, W, 3) uint8, what other sensors gave, by sensor, and the camera's
    model. SensorError where a cloud comes without a camera model, or the camera model is one for
    another image size.
    """

    rgb: NDArray[np.uint8]
    sensors: Mapping[str, LidarPoints | SensorImage]
    camera: CameraModel | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the camera image."""
        return (self.rgb.shape[0], self.rgb.shape[1])

    def __post_init__(self) -> None:
        shape = self.rgb.shape
        if len(shape) != 3 or shape[2] != 3 or 0 in shape or self.rgb.dtype != np.uint8:
            raise SensorError(f"rgb is {self.rgb.dtype} {shape}, expected uint8 (H, W, 3)")
        if self.camera is None:
            for name, data in self.sensors.items():
                if isinstance(data, LidarPoints):
                    raise SensorError(f"{name} is a point cloud, expected a camera model with it")
        elif (self.camera.height, self.camera.width) != shape[:2]:
            raise SensorError(
                f"camera model is for {self.camera.width}x{self.camera.height} pixels, "
                f"expected the image's {shape[1]}x{shape[0]}"
            )
