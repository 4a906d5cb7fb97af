# SPDX-License-Identifier: Apache-2.0
"""Augmentation of training frames: the published recipe (arXiv 2509.10408), seeded by torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from mmsam_ros._util import Checked, ranged
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import Sample
from mmsam_ros.sensors import NO_LABEL

_DRAWS = 11  # of a window, at most
_ORDERED = "[low, high] with low <= high"


@dataclass(frozen=True)
class PhotometricConfig(Checked):
    """Photometric distortion of the RGB image.

    Attributes:
        probability: of each of the four steps.
        brightness: largest offset added or taken away, in grey levels.
        contrast: [low, high] of the factor.
        saturation: [low, high] of the factor, in HSV.
        hue: the shift is a whole number in [-hue, hue), in steps of 2 degrees.
    """

    error = DataError

    probability: float = ranged(0.5, 0, 1)
    brightness: float = ranged(32.0, 0, 255)
    contrast: tuple[float, float] = ranged((0.5, 1.5), 0)
    saturation: tuple[float, float] = ranged((0.5, 1.5), 0)
    hue: int = ranged(18, 0, 90)

    def check(self) -> None:
        self.require(self.contrast[0] <= self.contrast[1], "contrast", _ORDERED)
        self.require(self.saturation[0] <= self.saturation[1], "saturation", _ORDERED)


@dataclass(frozen=True)
class AugmentConfig(Checked):
    """What `Augment` does; the defaults are DeLiVER's.

    Attributes:
        base_size: [height, width] that the random factor multiplies.
        crop: [height, width] of the window.
        scale: [low, high] of the random factor.
        blur: probability of the Gaussian blur.
        flip: probability of the horizontal flip.
        max_class_share: a window is drawn again where one class has this share of its labelled
            pixels.
        two_classes: MUSES's rule, draw until a window holds two classes (bounded).
        no_intensity: probability that the LiDAR's intensity is absent, which is 0 everywhere.
        intensity_gamma: [low, high] of the exponent on the LiDAR's intensity / 100.
        photometric: distortion of the RGB image.
    """

    error = DataError

    base_size: tuple[int, int] = ranged((1042, 1042), 1)
    crop: tuple[int, int] = ranged((1024, 1024), 1)
    scale: tuple[float, float] = ranged((0.5, 2.0), 0.01)
    blur: float = ranged(0.2, 0, 1)
    flip: float = ranged(0.5, 0, 1)
    max_class_share: float = ranged(0.75, 0, 1)
    two_classes: bool = False
    no_intensity: float = ranged(0.0, 0, 1)
    intensity_gamma: tuple[float, float] = ranged((1.0, 1.0), 0.1, 10)
    photometric: PhotometricConfig = PhotometricConfig()

    def check(self) -> None:
        self.require(self.scale[0] <= self.scale[1], "scale", _ORDERED)
        low, high = self.intensity_gamma
        self.require(low <= high, "intensity_gamma", _ORDERED)

    @property
    def changes_intensity(self) -> bool:
        """Whether LiDAR intensity is changed, which then must be a field of the data."""
        return self.no_intensity > 0 or self.intensity_gamma != (1.0, 1.0)


class Augment(nn.Module):
    """Blur, resize, crop, flip and photometric distortion, in the recipe's order.

    RGB, all planes and the label are resized, cropped and flipped together; blur and distortion
    touch RGB alone. Distortion starts from and leaves whole grey levels. At the end the LiDAR's
    intensity is changed, where the configuration says so.

    Takes a sample as a `FrameSet` gives it and returns a new one: rgb float32 0..255, planes as
    they were measured, label uint8; of the crop's size at most, not padded, not normalised.
    """

    def __init__(self, config: AugmentConfig) -> None:
        super().__init__()
        self.config = config
        self.blur = v2.RandomApply([v2.GaussianBlur(3, sigma=0.8)], p=config.blur)
        self.joint = nn.Sequential(
            RandomResize(config.base_size, config.scale),
            RandomCrop(config.crop, config.max_class_share, config.two_classes),
            v2.RandomHorizontalFlip(config.flip),
        )
        self.photometric = PhotometricDistortion(config.photometric)

    def forward(self, sample: Sample) -> Sample:
        rgb = self.blur(tv_tensors.Image(sample["rgb"], dtype=torch.float32))
        out = self.joint({**sample, "rgb": rgb})
        levels = tv_tensors.Image(out["rgb"].round(), dtype=torch.uint8)
        out["rgb"] = tv_tensors.Image(self.photometric(levels), dtype=torch.float32)
        if self.config.changes_intensity and "lidar" in out["planes"]:
            lidar = self._other_intensity(out["planes"]["lidar"])
            out["planes"] = {**out["planes"], "lidar": lidar}
        return cast(Sample, out)

    def _other_intensity(self, planes: tv_tensors.Image) -> tv_tensors.Image:
        """Of range, intensity and height; empty pixels stay 0."""
        absent = torch.rand(()) < self.config.no_intensity
        low, high = map(math.log, self.config.intensity_gamma)
        gamma = math.exp(_uniform(low, high))
        intensity = 100 * (planes[1].clamp(min=0) / 100) ** gamma
        changed = torch.zeros_like(intensity) if absent else intensity.clamp(max=255)
        stacked = torch.stack([planes[0], changed, planes[2]])
        return cast(tv_tensors.Image, tv_tensors.wrap(stacked, like=planes))


def fit_factor(size: Sequence[int], base_size: Sequence[int]) -> float:
    """The factor at which an image just fits into base_size, long side along long side."""
    short, long = sorted(base_size)
    return min(long / max(size), short / min(size))


class RandomResize(v2.Transform):
    """One factor for all images, at which they just fit into base_size times a random ratio.

    Bilinear with half-pixel centres and no antialiasing; labels take OpenCV's nearest pixel.
    """

    def __init__(self, base_size: tuple[int, int], scale: tuple[float, float]) -> None:
        super().__init__()
        self.base_size, self.scale = base_size, scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        ratio = _uniform(*self.scale)
        short, long = sorted(max(1, int(side * ratio)) for side in self.base_size)
        size = v2.query_size(flat_inputs)
        factor = fit_factor(size, (short, long))
        return {"size": [max(1, int(side * factor + 0.5)) for side in size]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Mask):
            return F.resize(inpt, params["size"], v2.InterpolationMode.BILINEAR, antialias=False)
        # torch's "nearest" takes another row where a border falls on one
        size = params["size"][::-1]
        label = cv2.resize(inpt.numpy(), size, interpolation=cv2.INTER_NEAREST)
        return tv_tensors.wrap(torch.from_numpy(label), like=inpt)


class RandomCrop(v2.Transform):
    """A window of at most `size`; an axis that is shorter is taken whole.

    Drawn again, at most ten times, while it holds one class only or one class has max_class_share
    or more of its labelled pixels; the tenth is kept as it is. With two_classes this is repeated,
    at most ten times, until the window holds two classes. Without a label any window will do.
    """

    def __init__(self, size: tuple[int, int], max_class_share: float, two_classes: bool) -> None:
        super().__init__()
        self.size, self.max_class_share = size, max_class_share
        self.draws = 10 * _DRAWS if two_classes else _DRAWS

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        size = v2.query_size(flat_inputs)
        label = next((i for i in flat_inputs if isinstance(i, tv_tensors.Mask)), None)
        window = self._draw(size)
        if label is None:
            return window
        for drawn in range(1, self.draws):
            counts = torch.bincount(F.crop(label, **window).flatten())[:NO_LABEL]
            if counts.count_nonzero() > 1:
                mixed = int(counts.max()) < self.max_class_share * int(counts.sum())
                if mixed or drawn % _DRAWS == 0:
                    break
            window = self._draw(size)
        return window

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.crop(inpt, **params)

    def _draw(self, size: tuple[int, int]) -> dict[str, int]:
        (top, height), (left, width) = (
            (int(torch.randint(max(whole - part, 0) + 1, ())), min(whole, part))
            for whole, part in zip(size, self.size, strict=True)
        )
        return {"top": top, "left": left, "height": height, "width": width}


class PhotometricDistortion(v2.Transform):
    """Brightness, contrast, saturation and hue of a uint8 RGB image, each by chance.

    A coin decides whether contrast comes before or after saturation and hue. Every step rounds
    and clips to 0..255; hue and saturation are those of OpenCV's 8-bit HSV (hue 0..179).
    """

    def __init__(self, config: PhotometricConfig) -> None:
        super().__init__()
        self.config = config

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The steps in order, each with its offset, factor, factor or shift."""
        c = self.config
        steps = [("brightness", (-c.brightness, c.brightness))]
        steps += [("saturation", c.saturation), ("hue", (-c.hue, c.hue))]
        steps.insert(1 if torch.rand(()) < 0.5 else 3, ("contrast", c.contrast))
        fired = [step for step in steps if torch.rand(()) < c.probability]
        return {"steps": [(name, _uniform(*between)) for name, between in fired]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        image = np.ascontiguousarray(inpt.permute(1, 2, 0).numpy())
        for name, value in params["steps"]:
            image = _distort(image, name, value)
        return tv_tensors.wrap(torch.from_numpy(image).permute(2, 0, 1).contiguous(), like=inpt)


def _distort(image: NDArray[np.uint8], name: str, value: float) -> NDArray[np.uint8]:
    levels = np.arange(256.0)
    if name == "hue":
        changed = (levels + math.floor(value)) % 180
    else:
        changed = levels + value if name == "brightness" else levels * value
    table = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    if name in ("brightness", "contrast"):
        return table[image]
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    channel = hsv[..., 0 if name == "hue" else 1]
    channel[...] = table[channel]
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))
