# SPDX-License-Identifier: Apache-2.0
"""Degraded frames for evaluation: DeLiVER's cases (arXiv 2303.01480) and the like, made.

Draws depend on the frame's name and the seed alone, so that every network sees the same frames.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from mmsam_ros._util import check_word
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import Sample

Image = NDArray[Any]
Change = Callable[[Image, np.random.Generator], Image]


@dataclass(frozen=True)
class Corruption:
    """Which image is degraded (`rgb` or a source), and how: float32 (H, W, C), same shape out."""

    source: str
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


def _expose(stops: float) -> Change:
    """Light times 2 ** stops, on a camera with gamma 2.2."""
    return lambda image, _: image * 2.0 ** (stops / 2.2)


def _noise(image: Image, draw: np.random.Generator) -> Image:
    """Gaussian noise of 25 grey levels."""
    return image + draw.normal(0.0, 25.0, image.shape)


def _jitter(image: Image, draw: np.random.Generator) -> Image:
    """Turned by up to 1 degree and shifted by up to 1/90 of each side; no values are mixed."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), draw.uniform(-1, 1), 1.0)
    matrix[:, 2] += draw.uniform(-1, 1, 2) * (width / 90, height / 90)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_NEAREST)


def _low_resolution(factor: int, down: int) -> Change:
    """As from a sensor with a factor-th of the resolution along each axis."""

    def apply(image: Image, _: np.random.Generator) -> Image:
        height, width = image.shape[:2]
        small = (max(1, width // factor), max(1, height // factor))
        low = cv2.resize(image, small, interpolation=down)
        return cv2.resize(low, (width, height), interpolation=cv2.INTER_NEAREST)

    return apply


CORRUPTIONS: Mapping[str, Corruption] = {
    "motionblur": Corruption("rgb", _motion_blur),
    "overexposure": Corruption("rgb", _expose(3.0)),
    "underexposure": Corruption("rgb", _expose(-6.0)),
    "noise": Corruption("rgb", _noise),
    "lidarjitter": Corruption("lidar", _jitter),
    "eventlowres": Corruption("event", _low_resolution(2, cv2.INTER_NEAREST)),
    "thermallowres": Corruption("thermal", _low_resolution(4, cv2.INTER_AREA)),
}
"""Name, as DeLiVER spells it where it has the case -> what it does."""


def corrupt(sample: Sample, name: str, seed: int = 0) -> Sample:
    """A copy of the sample with one image degraded; dtypes, sizes and the label stay.

    DataError for an unknown name, and for a sample without the source that it degrades.
    """
    check_word("corruption", name, CORRUPTIONS, DataError)
    source = CORRUPTIONS[name].source
    image = sample["rgb"] if source == "rgb" else sample["sources"].get(source)
    if image is None:
        have = ", ".join(["rgb", *sample["sources"]])
        raise DataError(f"frame {sample['name']}: {name} needs {source}, the sample has {have}")
    draw = np.random.default_rng([seed, zlib.crc32(f"{name} {sample['name']}".encode())])
    before = image.permute(1, 2, 0).float().numpy()
    after = np.asarray(CORRUPTIONS[name].apply(before, draw), np.float32).reshape(before.shape)
    if source == "rgb":
        after = np.clip(np.rint(after), 0, 255)
    worse = tv_tensors.Image(torch.from_numpy(after).permute(2, 0, 1), dtype=image.dtype)
    if source == "rgb":
        return {**sample, "rgb": worse}
    worse_sample: Sample = {**sample, "sources": {**sample["sources"], source: worse}}
    worse_sample["measured"] = {s: m for s, m in sample.get("measured", {}).items() if s != source}
    return worse_sample
