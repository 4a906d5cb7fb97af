# SPDX-License-Identifier: Apache-2.0
"""Channel planes of one size from the sensors of a frame.

The node asks for planes at the network's canvas, training and `mmsam data check` at the camera
image's own size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors.decode import decode_raster, scale_thermal
from mmsam_ros.sensors.encodings import ENCODINGS
from mmsam_ros.sensors.errors import SensorError
from mmsam_ros.sensors.frame import Frame, LidarPoints, SensorImage
from mmsam_ros.sensors.modalities import Modality, made_of_points
from mmsam_ros.sensors.projection import rasterise
from mmsam_ros.sensors.registration import Size, register, resize

Plane = NDArray[np.float32]
BLANK = "blank"
_SAME_SHAPE = 0.02  # by how much the ratio of a raster's sides may differ from the camera image's


@dataclass(frozen=True)
class Refusal:
    """Why a sensor's data was not used; a value, so that the rest of the frame is.

    Attributes:
        sensor: whose data it is; the stream of the same name in ROS.
        reason: one word to count by, such as `encoding` or `blank`.
        text: what was found, what was expected, what to change.
    """

    sensor: str
    reason: str
    text: str


@dataclass(frozen=True, eq=False)
class Planes:
    """Planes of one size.

    Attributes:
        rgb: (h, w, 3); uint8 at the image's own size, else float32 0..255.
        auxiliaries: (h, w, C) float32 by sensor, the fields of its encoding (`FIELDS`); 0 where
            there is no data.
        refused: sensors whose data does not fit its modality.
        blank: of the auxiliaries those that show nothing: every plane has one value.
    """

    rgb: NDArray[Any]
    auxiliaries: Mapping[str, Plane]
    refused: Mapping[str, Refusal]
    blank: Mapping[str, Refusal]


def frame_planes(frame: Frame, modalities: Mapping[str, Modality], size: Size) -> Planes:
    """Planes (*size, C) of a frame's camera and of those of its sensors that `modalities` names."""
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
        if bool((found.max((0, 1)) == found.min((0, 1))).all()):
            blank[sensor] = Refusal(sensor, BLANK, _why_blank(data))
    return Planes(resize(frame.rgb, size), planes, refused, blank)


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
    return rasterise(cloud.xyz, cloud.intensity, camera, pose, point_size=point_size)


def _thermal(image: SensorImage, modality: Modality, native: Size, size: Size) -> Plane:
    scaled = scale_thermal(image.data, modality.encoding, modality.limits)
    if image.registration.homography is not None and scaled.min() == scaled.max():
        # outside the thermal view the plane is 0: the edge of the view would look like contrast
        return np.zeros((*size, 1), np.float32)
    return register(scaled, image.registration, native, size)[0][..., None]


def _raster(image: SensorImage, modality: Modality, native: Size, size: Size) -> Plane:
    """A raster in the camera's view; a coarser one (low-resolution events) is enlarged first."""
    height, width = image.data.shape[:2]
    ratio = (width * native[0]) / (height * native[1])
    if image.registration.homography is not None or abs(ratio - 1) > _SAME_SHAPE:
        raise SensorError(
            f"raster of {width}x{height} pixels, expected one in the camera's view of "
            f"{native[1]}x{native[0]} (a coarser one of the same shape will do)"
        )
    raster = decode_raster(image.data, modality.encoding)
    if (height, width) != native:
        nearest = cv2.resize(raster, native[::-1], interpolation=cv2.INTER_NEAREST)
        raster = np.asarray(nearest, np.float32)
    return np.asarray(resize(raster, size), np.float32)


def _why_blank(data: LidarPoints | SensorImage) -> str:
    """What is wrong with a sensor that shows nothing; empty where it had nothing to measure."""
    if isinstance(data, SensorImage):
        return "the image has the same value everywhere, or does not overlap the camera's view"
    if not len(data.xyz):
        return ""
    return f"none of {len(data.xyz)} points is in the camera's view: check the extrinsics"
