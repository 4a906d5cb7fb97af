# SPDX-License-Identifier: Apache-2.0
"""Degraded frames for evaluation: DeLiVER's cases (arXiv 2303.01480) and similar ones.

Draws depend on the frame's name and the seed alone, so that every network sees the same frames.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util import check_word
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import FrameSet, LabelledFrame
from mmsam_ros.sensors import CAMERA, LidarPoints, SensorImage

Image = NDArray[Any]
Change = Callable[[Image, np.random.Generator], Image]


class Corruption(NamedTuple):
    """Whose image is degraded and how: float32 (H, W[, C]), same shape out."""

    sensor: str
    apply: Change


def _motion_blur(image: Image, draw: np.random.Generator) -> Image:
    """A straight line as kernel, 1/40 of the image's longer side, in any direction."""
    length = max(3, max(image.shape[:2]) // 40) | 1
    middle, angle = length // 2, draw.uniform(0, np.pi)
    reach = middle * np.array([np.cos(angle), np.sin(angle)])
    kernel = np.zeros((length, length), np.float32)
    columns, rows = np.rint(middle + np.linspace(-1, 1, 4 * length)[:, None] * reach).astype(int).T
    kernel[rows, columns] = 1.0
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def _expose(image: Image, _: np.random.Generator, *, stops: float) -> Image:
    """Light times 2 ** stops, on a camera with gamma 2.2."""
    return image * 2.0 ** (stops / 2.2)


def _noise(image: Image, draw: np.random.Generator) -> Image:
    """Gaussian noise of 25 grey levels."""
    return image + draw.normal(0.0, 25.0, image.shape)


def _jitter(image: Image, draw: np.random.Generator) -> Image:
    """Turned by up to 1 degree and shifted by up to 1/90 of each side; no values are mixed."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), draw.uniform(-1, 1), 1.0)
    matrix[:, 2] += draw.uniform(-1, 1, 2) * (width / 90, height / 90)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_NEAREST)


def _low_resolution(image: Image, _: np.random.Generator, *, factor: int, down: int) -> Image:
    """As from a sensor with a factor-th of the resolution along each axis."""
    height, width = image.shape[:2]
    small = (max(1, width // factor), max(1, height // factor))
    low = cv2.resize(image, small, interpolation=down)
    return cv2.resize(low, (width, height), interpolation=cv2.INTER_NEAREST)


CORRUPTIONS: Mapping[str, Corruption] = {
    "motionblur": Corruption("camera", _motion_blur),
    "overexposure": Corruption("camera", partial(_expose, stops=3)),
    "underexposure": Corruption("camera", partial(_expose, stops=-6)),
    "noise": Corruption("camera", _noise),
    "lidarjitter": Corruption("lidar", _jitter),
    "eventlowres": Corruption("event", partial(_low_resolution, factor=2, down=cv2.INTER_NEAREST)),
    "thermallowres": Corruption("thermal", partial(_low_resolution, factor=4, down=cv2.INTER_AREA)),
}
"""Name, as DeLiVER spells it where it has the case -> what it does."""


def corrupt(item: LabelledFrame, name: str, frames: FrameSet, seed: int = 0) -> LabelledFrame:
    """A copy of a frame of `frames` with one image degraded; the label stays.

    Points are projected and rasters enlarged to the camera image's size first. Images that are
    registered keep their size. DataError for an unknown name and for a frame without its sensor.
    """
    check_word("corruption", name, CORRUPTIONS, DataError)
    sensor, frame = CORRUPTIONS[name].sensor, item.frame
    if sensor not in (CAMERA, *frame.sensors):
        have = ", ".join([CAMERA, *frame.sensors])
        raise DataError(f"frame {item.record.name}: {name} needs {sensor}, the frame has {have}")
    draw = np.random.default_rng([seed, zlib.crc32(f"{name} {item.record.name}".encode())])
    data = SensorImage(frame.rgb) if sensor == CAMERA else frame.sensors[sensor]
    if isinstance(data, LidarPoints):
        data = SensorImage(frames.sample(item)["planes"][sensor].permute(1, 2, 0).numpy())
    image: Image = data.data
    if data.registration.homography is None and image.shape[:2] != frame.size:
        # coarse already, as DeLiVER's own eventlowres: it must not lose resolution twice
        image = cv2.resize(image, frame.size[::-1], interpolation=cv2.INTER_NEAREST)
    worse = CORRUPTIONS[name].apply(image.astype(np.float32), draw)
    if image.dtype.kind == "u":
        worse = np.clip(np.rint(worse), 0, np.iinfo(image.dtype).max)
    worse = worse.reshape(image.shape).astype(image.dtype)
    if sensor == CAMERA:
        return replace(item, frame=replace(frame, rgb=worse))
    sensors = {**frame.sensors, sensor: SensorImage(worse, data.registration)}
    return replace(item, frame=replace(frame, sensors=sensors))
