# SPDX-License-Identifier: Apache-2.0
"""Samples of noise, and an augmentation that does only what is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from mmsam_ros.data.frames import Sample
from mmsam_ros.data.transforms import (
    Augment,
    AugmentConfig,
    PhotometricConfig,
)

STILL = PhotometricConfig(probability=0.0)


def make_sample(height: int, width: int, seed: int = 0) -> Sample:
    draw = torch.Generator().manual_seed(seed)
    return {
        "rgb": tv_tensors.Image(
            torch.randint(0, 256, (3, height, width), generator=draw, dtype=torch.uint8)
        ),
        "planes": {
            "lidar": tv_tensors.Image(80 * torch.rand((3, height, width), generator=draw) - 5),
            "thermal": tv_tensors.Image(255 * torch.rand((1, height, width), generator=draw)),
        },
        "label": tv_tensors.Mask(
            torch.randint(0, 19, (height, width), generator=draw, dtype=torch.uint8)
        ),
    }


def hwc(image: torch.Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def augment(size: tuple[int, int], **changes: Any) -> Augment:
    """An augmentation that does nothing but what is asked for."""
    nothing: dict[str, Any] = {
        "base_size": size, "crop": (999, 999), "scale": (1.0, 1.0), "blur": 0.0, "flip": 0.0,
        "distortion": STILL,
    }  # fmt: skip
    return Augment(AugmentConfig(**(nothing | changes)))
