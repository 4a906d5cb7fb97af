# SPDX-License-Identifier: Apache-2.0
"""A frame of native sensor data to normalised network inputs, as the spec says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmsam_ros.inference.geometry import Plan, resize_maps
from mmsam_ros.sensors import LIMITS, RGB, Frame, Modality, Planes, Refusal, frame_planes
from mmsam_ros.weights import Spec


@dataclass(frozen=True, eq=False)
class Prepared:
    """A frame as the network takes it; an absent sensor is neither in `used` nor in `refused`."""

    inputs: Mapping[str, Tensor]  # normalised images (1, 3, *plan.padded) by modality
    plan: Plan
    used: tuple[str, ...]  # sensors besides the camera that the inputs were made of
    refused: Mapping[str, Refusal]  # sensors that were left out, and why
    milliseconds: float = 0.0  # taken by preparing


Review = Callable[[Frame, Planes], Planes]  # of the planes before they become inputs


def prepare(
    frame: Frame, spec: Spec, plan: Plan, device: torch.device, *,
    pad_raw: bool = False, review: Review | None = None,
) -> Prepared:  # fmt: skip
    """Network inputs of a frame; the plan is one for its camera image's size.

    Sensors that the spec does not read are ignored. A sensor whose data does not fit its
    modality is refused. A blank one is left out where the network can do without, and refused as
    well unless blank is normal for it (an empty cloud, no events). `pad_raw` pads with what a raw
    zero is normalised to, instead of with 0. `review` may change or refuse planes. On a GPU the
    camera image is resized there, and so sent as bytes.
    """
    there = resizes(device)
    planes = frame_planes(frame, spec.modalities, plan.canvas, resize_rgb=not there)
    if review is not None:
        planes = review(frame, planes)
    refused = dict(planes.refused)

    def image(values: NDArray[Any], modality: Modality) -> Tensor:
        array = np.require(values, requirements=["C", "W"])  # torch takes no other
        tensor = upload(array, device).permute(2, 0, 1)[None]
        if tensor.shape[-2:] != plan.canvas:
            tensor = resize_maps(tensor.float(), plan.canvas)
        fill = modality.empty if pad_raw else (0.0, 0.0, 0.0)
        return plan.pad(normalise(tensor, modality), fill)

    inputs = {RGB: image(planes.rgb, spec.inputs[RGB])}
    for sensor, values in planes.auxiliaries.items():
        blank = planes.blank.get(sensor)
        if blank is None or not (blank.reason == LIMITS or without_blank(spec)):
            inputs[sensor] = image(values, spec.inputs[sensor])
        elif blank.text and sensor != "event":  # without motion there are no events
            refused[sensor] = blank
    return Prepared(inputs, plan, tuple(name for name in inputs if name != RGB), refused)


def resizes(device: torch.device) -> bool:
    """Whether images are resized on this device; it is as OpenCV does it, up to rounding."""
    return device.type == "cuda"


def upload(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array on a device. To a GPU it goes by pinned memory, so that nothing waits for it."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    np.copyto(pinned.numpy(), array)  # torch would wake all its threads for that: 7 ms of 16
    return pinned.to(device, non_blocking=True)


def normalise(planes: Tensor, modality: Modality) -> Tensor:
    """(…, C, h, w) planes -> (…, 3, h, w): the modality's fields, scaled, minus mean, over std."""
    channels = planes[..., modality.channels, :, :].float()  # a copy
    scale, mean, std = _constants(modality, planes.device)
    return channels.mul_(scale).sub_(mean).div_(std)


@lru_cache(maxsize=64)
def _constants(modality: Modality, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, mean and standard deviation, each (3, 1, 1): sent to a GPU once."""
    with torch.inference_mode(False):  # training uses them as well
        scale, mean, std = (
            torch.tensor(values, device=device)[:, None, None]
            for values in (modality.scale, modality.mean, modality.std)
        )
    return scale, mean, std


def without_blank(spec: Spec) -> bool:
    """Whether blank sensors count as absent: norms in the network would amplify them."""
    return spec.config.combine.absent != "empty"
