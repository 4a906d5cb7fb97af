# SPDX-License-Identifier: Apache-2.0
"""Augmentation of training frames: the published recipe (arXiv 2509.10408), seeded by torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from mmsam_ros._util import Checked, ranged
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import Sample
from mmsam_ros.sensors import NO_LABEL

_CHECKS = 10  # of windows, in a round
_ROUNDS = 10  # at most, of the stricter rule
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
        gamma: [low, high] of the exponent of the levels in 0..1, drawn for every image, on a
            logarithmic scale; [1, 1] for none (the one choice with `photometric: published`).
    """

    error = DataError

    probability: float = ranged(0.5, 0, 1)
    brightness: float = ranged(32.0, 0, 255)
    contrast: tuple[float, float] = ranged((0.5, 1.5), 0)
    saturation: tuple[float, float] = ranged((0.5, 1.5), 0)
    hue: int = ranged(18, 0, 90)
    gamma: tuple[float, float] = ranged((1.0, 1.0), 0.1, 10)

    def check(self) -> None:
        self.require(self.gamma[0] <= self.gamma[1], "gamma", _ORDERED)
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
        two_classes: MUSES's rule, rounds of draws until a window holds two label values, of which
            255 is one (bounded).
        darken: probability of a dark, noisy RGB image (1 to 6 stops less light) where the frame has
            data of another sensor.
        no_intensity: probability that the LiDAR's intensity is absent, which is 0 everywhere.
        intensity_gamma: [low, high] of the exponent on the LiDAR's intensity / 100.
        photometric: how the RGB image is distorted; `published` keeps what the released code does
            to images that are not 8-bit yet (default of DeLiVER, FMB and MUSES), `intended` is
            the same operation on whole grey levels.
        distortion: chances and ranges of both.
    """

    error = DataError

    base_size: tuple[int, int] = ranged((1042, 1042), 1)
    crop: tuple[int, int] = ranged((1024, 1024), 1)
    scale: tuple[float, float] = ranged((0.5, 2.0), 0.01)
    blur: float = ranged(0.2, 0, 1)
    flip: float = ranged(0.5, 0, 1)
    max_class_share: float = ranged(0.75, 0, 1)
    two_classes: bool = False
    darken: float = ranged(0.0, 0, 1)
    no_intensity: float = ranged(0.0, 0, 1)
    intensity_gamma: tuple[float, float] = ranged((1.0, 1.0), 0.1, 10)
    photometric: Literal["published", "intended"] = "intended"
    distortion: PhotometricConfig = PhotometricConfig()

    def check(self) -> None:
        self.require(self.scale[0] <= self.scale[1], "scale", _ORDERED)
        low, high = self.intensity_gamma
        self.require(low <= high, "intensity_gamma", _ORDERED)
        has_gamma = self.photometric == "intended" or self.distortion.gamma == (1.0, 1.0)
        self.require(has_gamma, "photometric", "intended, for any distortion.gamma but [1, 1]")

    @property
    def changes_intensity(self) -> bool:
        """Whether LiDAR intensity is changed, which then must be a field of the data."""
        return self.no_intensity > 0 or self.intensity_gamma != (1.0, 1.0)


class Augment(nn.Module):
    """Blur, resize, crop, flip, photometric distortion and darkening, in the recipe's order.

    RGB, all planes and the label are resized, cropped and flipped together; blur and distortion
    touch RGB alone. The intended distortion starts from and leaves whole grey levels. At the end
    the LiDAR's intensity is changed, where the configuration says so.

    Takes a sample as a `FrameSet` gives it and returns a new one: rgb float32 0..255, planes as
    they were measured, label uint8; of the crop's size at most, not padded, not normalised.
    """

    def __init__(self, config: AugmentConfig) -> None:
        super().__init__()
        self.config = config
        self.blur = v2.RandomApply([Blur()], p=config.blur)
        self.joint = nn.Sequential(
            RandomResize(config.base_size, config.scale),
            RandomCrop(config.crop, config.max_class_share, config.two_classes),
            v2.RandomHorizontalFlip(config.flip),
        )
        self.photometric = PhotometricDistortion(config.distortion, config.photometric)

    def forward(self, sample: Sample) -> Sample:
        rgb = self.blur(tv_tensors.Image(sample["rgb"], dtype=torch.float32))
        out = self.joint({**sample, "rgb": rgb})
        rgb = out["rgb"]
        if self.photometric.kind == "intended":
            rgb = tv_tensors.Image(rgb.round(), dtype=torch.uint8)
        out["rgb"] = tv_tensors.Image(self.photometric(rgb), dtype=torch.float32)
        if self.config.darken and sample["planes"] and torch.rand(()) < self.config.darken:
            out["rgb"] = tv_tensors.wrap(_darkened(out["rgb"]), like=out["rgb"])
        if self.config.changes_intensity and "lidar" in out["planes"]:
            lidar = self._other_intensity(out["planes"]["lidar"])
            out["planes"] = {**out["planes"], "lidar": lidar}
        return cast(Sample, out)

    def _other_intensity(self, planes: tv_tensors.Image) -> tv_tensors.Image:
        """Change the intensity of a raster of range, intensity and height; empty pixels stay 0."""
        absent = torch.rand(()) < self.config.no_intensity
        low, high = map(math.log, self.config.intensity_gamma)
        gamma = math.exp(_uniform(low, high))
        intensity = 100 * (planes[1].clamp(min=0) / 100) ** gamma
        changed = torch.zeros_like(intensity) if absent else intensity.clamp(max=255)
        stacked = torch.stack([planes[0], changed, planes[2]])
        return cast(tv_tensors.Image, tv_tensors.wrap(stacked, like=planes))


def _darkened(rgb: Tensor) -> Tensor:
    """Levels 0..255 with 1 to 6 stops less light, on a camera with gamma 2.2, and its noise."""
    dark = rgb * 2 ** (-_uniform(1, 6) / 2.2)
    return (dark + _uniform(0, 10) * torch.randn(rgb.shape)).round().clamp(0, 255)


class Blur(v2.Transform):
    """Gaussian blur with the kernel [1/4 1/2 1/4], which OpenCV has for a size of 3."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        image = cv2.GaussianBlur(_pixels(inpt), (3, 3), 0)
        return tv_tensors.wrap(_planes(image), like=inpt)


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

    A window is mixed if it holds several classes and none has max_class_share or more of its
    labelled pixels. The first mixed one of ten is taken, else an eleventh as it is. With
    two_classes the tenth is taken if it holds two label values, 255 among them, else ten more are
    looked at; that ends after a hundred. Without a label any window will do.
    """

    def __init__(self, size: tuple[int, int], max_class_share: float, two_classes: bool) -> None:
        super().__init__()
        self.size, self.max_class_share, self.two_classes = size, max_class_share, two_classes

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        size = v2.query_size(flat_inputs)
        label = next((i for i in flat_inputs if isinstance(i, tv_tensors.Mask)), None)
        following = self._draw(size)
        if label is None:
            return following
        for _ in range(_ROUNDS if self.two_classes else 1):
            for _ in range(_CHECKS):
                window, following = following, self._draw(size)
                values = torch.bincount(F.crop(label, **window).flatten())
                classes = values[:NO_LABEL]
                mixed = int(classes.max()) < self.max_class_share * int(classes.sum())
                if mixed and classes.count_nonzero() > 1:
                    return window
            if self.two_classes and values.count_nonzero() > 1:
                break
        return window if self.two_classes else following

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.crop(inpt, **params)

    def _draw(self, size: tuple[int, int]) -> dict[str, int]:
        (top, height), (left, width) = (
            (int(torch.randint(max(whole - part, 0) + 1, ())), min(whole, part))
            for whole, part in zip(size, self.size, strict=True)
        )
        return {"top": top, "left": left, "height": height, "width": width}


class PhotometricDistortion(v2.Transform):
    """Brightness, contrast, saturation and hue of an RGB image, each by chance.

    A coin decides whether contrast comes before or after saturation and hue.

    intended: takes uint8. Every step rounds and clips to 0..255; hue and saturation are those of
    OpenCV's 8-bit HSV (hue 0..179).

    published: takes float32 0..255, as the released code does. Brightness and contrast cut to
    uint8. Until one of them has, OpenCV's HSV is that of floats (saturation 0..1, hue 0..360), and
    the arithmetic for 8 bits leaves saturations of 0 or 1 and hues below 180.
    """

    def __init__(
        self, config: PhotometricConfig, kind: Literal["published", "intended"] = "intended"
    ) -> None:
        super().__init__()
        self.config, self.kind = config, kind

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The steps in order, each with its offset, factor, factor or shift."""
        c = self.config
        steps = [("brightness", (-c.brightness, c.brightness))]
        steps += [("saturation", c.saturation), ("hue", (-c.hue, c.hue))]
        steps.insert(1 if torch.rand(()) < 0.5 else 3, ("contrast", c.contrast))
        fired = [step for step in steps if torch.rand(()) < c.probability]
        if c.gamma[0] < c.gamma[1]:
            fired.append(("gamma", (math.log(c.gamma[0]), math.log(c.gamma[1]))))
        return {"steps": [(name, _uniform(*between)) for name, between in fired]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        image = _pixels(inpt)
        distort = _distort if self.kind == "intended" else _distort_as_released
        for name, value in params["steps"]:
            image = distort(image, name, value)
        return tv_tensors.wrap(_planes(image), like=inpt)


def _distort(image: NDArray[np.uint8], name: str, value: float) -> NDArray[np.uint8]:
    levels = np.arange(256.0)
    if name == "hue":
        changed = (levels + math.floor(value)) % 180
    elif name == "gamma":
        changed = 255 * (levels / 255) ** math.exp(value)
    else:
        changed = levels + value if name == "brightness" else levels * value
    table = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    if name in ("brightness", "contrast", "gamma"):
        return table[image]
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    channel = hsv[..., 0 if name == "hue" else 1]
    channel[...] = table[channel]
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def _distort_as_released(image: NDArray[Any], name: str, value: float) -> NDArray[Any]:
    """uint8 or float32, which decides what HSV is."""
    if name in ("brightness", "contrast"):
        exact = image.astype(np.float32)
        return _cut(exact + value if name == "brightness" else exact * value)
    hsv: NDArray[Any] = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    if name == "hue":
        hsv[..., 0] = (hsv[..., 0].astype(np.int64) + math.floor(value)) % 180
    else:
        hsv[..., 1] = _cut(hsv[..., 1].astype(np.float32) * value)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def _cut(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(values, 0, 255).astype(np.uint8)


def _pixels(image: Tensor) -> NDArray[Any]:
    """(3, H, W) -> (H, W, 3), as OpenCV takes it."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _planes(image: NDArray[Any]) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))
