# SPDX-License-Identifier: Apache-2.0
"""A frame, and channel planes of one size from its sensors.

The node asks for planes at the network's canvas, training and `mmsam data check` at the camera
image's own size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors.camera import CameraModel
from mmsam_ros.sensors.encodings import (
    ENCODINGS,
    MAX_VALUE,
    Limits,
    Modality,
    check_clipping,
    decode_raster,
    frame_range,
    made_of_points,
    scale_raster,
    scale_thermal,
)
from mmsam_ros.sensors.errors import SensorError
from mmsam_ros.sensors.matrices import Array, check_pose
from mmsam_ros.sensors.projection import MIN_RANGE, rasterise
from mmsam_ros.sensors.registration import Registration, Size, register, resize

Plane = NDArray[np.float32]
BLANK, LIMITS = "blank", "limits"
_SAME_SHAPE = 0.02  # by how much the ratio of sides may differ between two images of one view


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
    registration: Registration = Registration()
    limits: Limits | None = None  # thermal: values that map to 0 and 255, instead of the weights'
    inverted: bool = False  # thermal: warm is dark, while the weights expect the opposite

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


@dataclass(frozen=True)
class Refusal:
    """Why a sensor's data was not used; a value, so that the rest of the frame is."""

    sensor: str  # whose data it is; the stream of the same name in ROS
    reason: str  # one word to count by, such as `encoding` or `blank`
    text: str  # what was found, what was expected, what to change

    @property
    def of_frame(self) -> bool:
        """Whether it is about what this frame shows; else about what the sensor is."""
        return self.reason in (BLANK, LIMITS)


@dataclass(frozen=True, eq=False)
class Planes:
    """Planes of one size; auxiliaries are float32 with the fields of their encoding (`FIELDS`)."""

    rgb: NDArray[Any]  # (h, w, 3); uint8 at the image's own size, else float32 0..255
    auxiliaries: Mapping[str, Plane]  # by sensor (h, w, C); 0 where there is no data
    refused: Mapping[str, Refusal]  # sensors whose data does not fit its modality
    blank: Mapping[str, Refusal]  # auxiliaries that show nothing: one value, or limits clip them


def frame_planes(
    frame: Frame, modalities: Mapping[str, Modality], size: Size, *, resize_rgb: bool = True
) -> Planes:
    """Planes (*size, C) of a frame's camera and of those of its sensors that `modalities` names.
    Without `resize_rgb` the camera's has its own size.
    """
    planes: dict[str, Plane] = {}
    refused: dict[str, Refusal] = {}
    blank: dict[str, Refusal] = {}
    for sensor, modality in modalities.items():
        if sensor not in frame.sensors:
            continue
        data = frame.sensors[sensor]
        try:
            if isinstance(data, LidarPoints):
                found = _points(data, modality, frame, size)
            else:
                read = _thermal if modality.encoding in ENCODINGS["thermal"] else _raster
                found = read(data, modality, frame.size, size)
        except SensorError as error:
            refused[sensor] = Refusal(sensor, "weights", str(error))
            continue
        planes[sensor] = found
        if isinstance(data, SensorImage) and (clipped := clipping(data, modality)):
            blank[sensor] = Refusal(sensor, LIMITS, clipped)
        elif bool((found == found[0, 0]).all()):
            blank[sensor] = Refusal(sensor, BLANK, _why_blank(data, modality))
    rgb = resize(frame.rgb, size) if resize_rgb else frame.rgb
    return Planes(rgb, planes, refused, blank)


def _points(cloud: LidarPoints, modality: Modality, frame: Frame, size: Size) -> Plane:
    """Points are projected at the planes' size, not resized afterwards."""
    if not made_of_points(modality.encoding):
        raise SensorError(
            f"found points, expected a raster encoded as {modality.encoding}, which cannot be "
            "made of points; give the projected image instead (lidar/image of the node)"
        )
    assert frame.camera is not None  # Frame checks it
    camera = frame.camera.scaled(size[1], size[0])
    pose, point_size = cloud.T_camera_lidar, modality.point_size
    raster = rasterise(cloud.xyz, cloud.intensity, camera, pose, point_size=point_size)
    return scale_raster(raster, modality.encoding)


def _thermal(image: SensorImage, modality: Modality, native: Size, size: Size) -> Plane:
    scaled = scale_thermal(
        image.data, modality.encoding, modality.limits, own_limits=image.limits,
        inverted=image.inverted,
    )  # fmt: skip
    if image.registration.homography is None and not same_shape(image.data.shape, native):
        height, width = image.data.shape[:2]
        raise SensorError(
            f"image of {width}x{height} pixels without registration, expected the shape of the "
            f"camera's {native[1]}x{native[0]}, as it would then show the same view; register it "
            "by homography or rotation (parameter thermal.registration, or calib.json of files)"
        )
    if image.registration.homography is not None and np.min(scaled) == np.max(scaled):
        # outside the thermal view the plane is 0: the edge of the view would look like contrast
        return np.zeros((*size, 1), np.float32)
    return register(scaled, image.registration, native, size)[0][..., None]


def _raster(image: SensorImage, modality: Modality, native: Size, size: Size) -> Plane:
    """A raster in the camera's view; a coarser one (low-resolution events) is enlarged first."""
    height, width = image.data.shape[:2]
    if image.registration.homography is not None or not same_shape(image.data.shape, native):
        raise SensorError(
            f"raster of {width}x{height} pixels, expected one in the camera's view of "
            f"{native[1]}x{native[0]} (a coarser one of the same shape will do)"
        )
    raster = scale_raster(decode_raster(image.data, modality.encoding), modality.encoding)
    return resize(resize(raster, native, cv2.INTER_NEAREST), size)


def same_shape(size: tuple[int, ...], native: tuple[int, ...]) -> bool:
    """Whether two images (height, width, …) have one ratio of sides; a turned one has not."""
    return abs((size[1] * native[0]) / (size[0] * native[1]) - 1) <= _SAME_SHAPE


def clipping(image: SensorImage, modality: Modality) -> str:
    """What is wrong with limits that clip nearly all of a thermal image; empty where nothing is."""
    limits = image.limits or modality.limits
    if limits is None:
        return ""
    try:
        check_clipping(image.data, limits)
    except SensorError as error:
        return (
            f"{error}; set this camera's (parameter thermal.limits, meta.json of files), or train "
            "with the encoding frame_gain"
        )
    return ""


def _why_blank(data: LidarPoints | SensorImage, modality: Modality) -> str:
    """What is wrong with a sensor that shows nothing; empty where it had nothing to measure."""
    if isinstance(data, SensorImage):
        if modality.encoding == "frame_gain" and data.limits is None:
            (low, high), least = frame_range(data.data)
            if 0 < high - low < least:
                return (
                    f"98 % of the image's values are {low:g} to {high:g}, expected at least "
                    f"{least:g} between these, as less may be noise; parameter thermal.limits "
                    "reads any contrast"
                )
        return "the image has the same value everywhere, or does not overlap the camera's view"
    if not len(data.xyz):
        return ""
    distance = np.linalg.norm(data.xyz.astype(np.float64), axis=1)
    if bool((distance < MIN_RANGE).all()):
        return f"all of {len(data.xyz)} points are within {MIN_RANGE:g} m, expected metres"
    used = (distance >= MIN_RANGE) & (distance <= MAX_VALUE) & (np.abs(data.intensity) <= MAX_VALUE)
    total, count = len(used), int(used.sum())
    if not count:
        return f"none of {total} points has a position and an intensity below {MAX_VALUE:g}"
    unused = f"within {MIN_RANGE:g} m or without a position or intensity"
    others = f", and {total - count} more are {unused}" if count < total else ""
    return f"none of {count} points is in the camera's view{others}: check the extrinsics"
