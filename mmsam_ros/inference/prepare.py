# SPDX-License-Identifier: Apache-2.0
"""A frame of native sensor data to normalised network inputs, as the spec says."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mmsam_ros.inference.errors import InferenceError
from mmsam_ros.inference.geometry import Plan
from mmsam_ros.inference.normalise import compose, is_blank, normalise
from mmsam_ros.sensors import (
    FIELDS,
    Frame,
    LidarPoints,
    SensorError,
    SensorImage,
    decode_raster,
    rasterise,
    register,
    scale_thermal,
    shows_nothing,
)
from mmsam_ros.weights import ModalityInput, Spec

Planes = NDArray[np.float32]  # (h, w, channels)


def prepare(
    frame: Frame, spec: Spec, plan: Plan, device: torch.device
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Network inputs (1, 3, *plan.padded) by modality, and the sensors that they were made of.

    Sensors that the spec does not read are left aside. A modality all of whose sensors are
    missing is left out; where only some are, the missing ones' channels are empty. A network that
    masks what is absent is spared modalities that are blank.

    Raises:
        InferenceError: a sensor's data does not fit the weights; names it.
    """
    image = np.require(frame.rgb, requirements=["C", "W"])  # torch takes no other; copies at need
    rgb = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float()
    inputs = {"rgb": plan.pad(normalise(_resize(rgb, plan.canvas), spec.inputs["rgb"]))}
    seen: dict[str, None] = {}
    for name in spec.config.auxiliaries:
        given = spec.inputs[name]
        planes = {
            source: torch.from_numpy(_source_planes(source, given, frame, plan)).permute(2, 0, 1)
            for source in given.sources
            if source in frame.sensors
        }
        if not planes:
            continue
        raster = compose(planes, given, plan.canvas)
        if spec.config.combine.absent == "masked" and is_blank(raster):
            continue
        inputs[name] = plan.pad(normalise(raster.to(device)[None], given))
        seen |= dict.fromkeys(planes)
    return inputs, tuple(seen)


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, C, h, w) -> (1, C, *size), bilinear without antialiasing, as training resizes."""
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)


def _source_planes(source: str, given: ModalityInput, frame: Frame, plan: Plan) -> Planes:
    data, encoding = frame.sensors[source], given.encoding[source]
    try:
        if isinstance(data, LidarPoints):
            return _points(source, data, encoding, given.growth, frame, plan.canvas)
        if source == "thermal":
            return _thermal(data, encoding, given, plan)
        return _raster(source, data, encoding, plan)
    except SensorError as error:
        raise InferenceError(str(error), source) from error


def _points(
    source: str,
    cloud: LidarPoints,
    encoding: str,
    growth: int,
    frame: Frame,
    canvas: tuple[int, int],
) -> Planes:
    if FIELDS[encoding] != ("range", "intensity", "height"):
        raise InferenceError(
            f"these weights read rasters encoded as {encoding}, which cannot be made of points; "
            "publish the projected image on lidar/image instead",
            source,
        )
    if frame.camera is None:
        raise InferenceError("points need a camera model, found none", source)
    camera = frame.camera.scaled(canvas[1], canvas[0])
    return rasterise(cloud.xyz, cloud.intensity, camera, cloud.T_camera_lidar, growth=growth)


def _thermal(image: SensorImage, encoding: str, given: ModalityInput, plan: Plan) -> Planes:
    scaled = scale_thermal(image.data, encoding, given.limits)
    if shows_nothing(scaled, image.registration):
        return np.zeros((*plan.canvas, 1), np.float32)
    value, valid = register(scaled, image.registration, plan.native, plan.canvas)
    # outside the thermal camera's view the channel is empty
    return np.where(valid, value, np.float32(0))[..., None]


def _raster(source: str, image: SensorImage, encoding: str, plan: Plan) -> Planes:
    """A raster in the camera's view; a coarser one (low-resolution events) is enlarged first."""
    height, width = image.data.shape[:2]
    skew = (width * plan.native[0]) / (height * plan.native[1])
    if image.registration.homography is not None or not 0.98 < skew < 1.02:
        raise InferenceError(
            f"raster of {width}x{height} pixels, expected one in the camera's view of "
            f"{plan.native[1]}x{plan.native[0]} (a coarser one of the same shape will do)",
            source,
        )
    raster = torch.from_numpy(decode_raster(image.data, encoding)).permute(2, 0, 1)[None]
    if raster.shape[-2:] != plan.native:
        raster = F.interpolate(raster, size=plan.native, mode="nearest")  # as OpenCV
    return _resize(raster, plan.canvas)[0].permute(1, 2, 0).numpy()
