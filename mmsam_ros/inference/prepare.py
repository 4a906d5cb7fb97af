# SPDX-License-Identifier: Apache-2.0
"""A frame of native sensor data to normalised network inputs, as the spec says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mmsam_ros.inference.geometry import Plan
from mmsam_ros.inference.normalise import compose, is_blank, normalise
from mmsam_ros.sensors import (
    BLANK,
    FIELDS,
    Frame,
    LidarPoints,
    Refusal,
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


@dataclass(frozen=True, eq=False)
class Prepared:
    """A frame as the network takes it.

    Attributes:
        inputs: normalised images (1, 3, *plan.padded) by modality.
        plan: the sizes.
        used: sensors besides the camera that the inputs were made of.
        refused: sensors that were left out, and why; one that was not there is in neither.
        milliseconds: what preparing took.
    """

    inputs: Mapping[str, Tensor]
    plan: Plan
    used: tuple[str, ...]
    refused: Mapping[str, Refusal]
    milliseconds: float = 0.0


def prepare(frame: Frame, spec: Spec, plan: Plan, device: torch.device) -> Prepared:
    """Network inputs of a frame.

    Sensors that the spec does not read are left aside. A sensor whose data does not fit the
    weights is refused, and a blank one where the network can do without (an empty cloud and a
    scene without events are normal: they are not used, and not refused).
    """
    image = np.require(frame.rgb, requirements=["C", "W"])  # torch takes no other; copies at need
    rgb = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float()
    inputs = {"rgb": plan.pad(normalise(_resize(rgb, plan.canvas), spec.inputs["rgb"]))}
    seen: dict[str, None] = {}
    refused: dict[str, Refusal] = {}
    for name in spec.config.auxiliaries:
        given = spec.inputs[name]
        planes = {}
        for source in given.sources:
            if source not in frame.sensors:
                continue
            try:
                found = _source_planes(source, given, frame, plan)
            except SensorError as error:
                refused[source] = Refusal(source, "weights", str(error))
                continue
            planes[source] = torch.from_numpy(found).permute(2, 0, 1)
        if not planes:
            continue
        raster = compose(planes, given, plan.canvas)
        if spec.config.combine.absent == "masked" and is_blank(raster):
            for source in planes:
                if text := _blank_text(source, frame.sensors[source]):
                    refused[source] = Refusal(source, BLANK, text)
            continue
        inputs[name] = plan.pad(normalise(raster.to(device)[None], given))
        seen |= dict.fromkeys(planes)
    return Prepared(inputs, plan, tuple(seen), refused)


def _blank_text(sensor: str, data: LidarPoints | SensorImage) -> str:
    """What is wrong with a sensor that shows nothing; empty where that is normal."""
    if isinstance(data, LidarPoints):
        count = len(data.xyz)
        text = f"none of {count} points is in the camera's view: check the extrinsics"
        return text if count else ""
    if sensor == "event":  # a scene may stand still
        return ""
    return "the image has the same value everywhere, or does not overlap the camera's view"


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, C, h, w) -> (1, C, *size), bilinear without antialiasing, as training resizes."""
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)


def _source_planes(source: str, given: ModalityInput, frame: Frame, plan: Plan) -> Planes:
    data, encoding = frame.sensors[source], given.encoding[source]
    if isinstance(data, LidarPoints):
        return _points(source, data, encoding, given.growth, frame, plan.canvas)
    if source == "thermal":
        return _thermal(data, encoding, given, plan)
    return _raster(source, data, encoding, plan)


def _points(
    source: str,
    cloud: LidarPoints,
    encoding: str,
    growth: int,
    frame: Frame,
    canvas: tuple[int, int],
) -> Planes:
    if FIELDS[encoding] != ("range", "intensity", "height"):
        raise SensorError(
            f"these weights read rasters encoded as {encoding}, which cannot be made of points; "
            "publish the projected image on lidar/image instead"
        )
    if frame.camera is None:
        raise SensorError("points need a camera model, found none")
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
        raise SensorError(
            f"raster of {width}x{height} pixels, expected one in the camera's view of "
            f"{plan.native[1]}x{plan.native[0]} (a coarser one of the same shape will do)"
        )
    raster = torch.from_numpy(decode_raster(image.data, encoding)).permute(2, 0, 1)[None]
    if raster.shape[-2:] != plan.native:
        raster = F.interpolate(raster, size=plan.native, mode="nearest")  # as OpenCV
    return _resize(raster, plan.canvas)[0].permute(1, 2, 0).numpy()
