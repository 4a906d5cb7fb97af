# SPDX-License-Identifier: Apache-2.0
"""How images and rasters are stored (encodings) and what the network reads of them (modalities)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util import Checked, MmsamError, ranged
from mmsam_ros.sensors.errors import SensorError
from mmsam_ros.sensors.statistics import percentiles

Limits = tuple[float, float]
Triple = tuple[float, float, float]
_COLOUR, _RASTER, _SINGLE = ("red", "green", "blue"), ("range", "intensity", "height"), ("value",)
DEPTH_METRES, LIDAR_GAIN = "depth_metres", "lidar_gain"

# Encoding -> the names of its channels, and the dtypes that it may have.
_STORED: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rgb8": (_COLOUR, ("uint8",)),
    "png8": (_COLOUR, ("uint8",)),
    "muses_raw": (_RASTER, ("float32",)),
    LIDAR_GAIN: (_RASTER, ("float32",)),  # stored like muses_raw
    "muses_png16": (_RASTER, ("uint16", "float32")),  # float32 holds metres already
    "event_counts": (("positive", "negative", "zero"), ("uint8",)),
    "mono8": (_SINGLE, ("uint8",)),
    "mono16": (_SINGLE, ("uint16", "float32")),  # float32: a temperature
    "frame_gain": (_SINGLE, ("uint8", "uint16", "float32")),
    DEPTH_METRES: (("depth",), ("uint16", "float32")),  # uint16 holds millimetres
}

FIELDS: Mapping[str, tuple[str, ...]] = {name: fields for name, (fields, _) in _STORED.items()}
"""Encoding -> the names of its channels, in stored order."""

ENCODINGS: Mapping[str, tuple[str, ...]] = {
    "camera": ("rgb8",),
    "lidar": ("muses_raw", LIDAR_GAIN, "png8", "muses_png16"),
    "thermal": ("mono8", "mono16", "frame_gain"),
    "event": ("png8", "event_counts"),
    "depth": ("png8", DEPTH_METRES),
}
"""Sensor -> the encodings that it may have."""

CAMERA, RGB = "camera", "rgb"
AUXILIARY_SENSORS = tuple(sensor for sensor in ENCODINGS if sensor != CAMERA)
MAX_POINT_SIZE = 31  # pixels
# Stretched to 0..255, less would be a picture of noise: counts, and degrees of a float image.
_LEAST_CONTRAST, _LEAST_DEGREES = 4.0, 0.2
_BRIGHT = 100.0  # what `lidar_gain` makes of a frame's 90th percentile of intensity
_LEAST_RELIEF = 0.01  # share of the highest intensities; less contrast is no measurement
MAX_CLIPPED = 0.9  # of a thermal image's pixels; beyond it, the limits are another camera's
MAX_VALUE = 1e9  # no sensor measures more; its square fits float32, within the network as well


def check_image(image: NDArray[np.generic], encoding: str) -> None:
    """Raise SensorError unless dtype and shape of a stored image fit its encoding.

    Three-channel encodings are (H, W, 3), single-channel ones (H, W); either byte order will do.
    """
    if encoding not in FIELDS:
        raise SensorError(f"encoding is {encoding!r}, expected one of {', '.join(FIELDS)}")
    fields, dtypes = _STORED[encoding]
    if image.dtype.name not in dtypes:
        expected = " or ".join(dtypes)
        raise SensorError(f"{encoding} image: dtype is {image.dtype}, expected {expected}")
    channels = () if len(fields) == 1 else (len(fields),)
    if image.ndim < 2 or image.shape[2:] != channels or 0 in image.shape:
        expected = f"(H, W, {len(fields)})" if channels else "(H, W)"
        raise SensorError(f"{encoding} image: shape is {image.shape}, expected {expected}")


def check_limits(name: str, encoding: str, limits: Limits | None) -> None:
    """SensorError unless limits are there for `mono16` alone, finite and ordered."""
    if encoding != "mono16":
        if limits is not None:
            raise SensorError(f"{name}: found {limits} for {encoding}, expected none")
    elif limits is None or not -math.inf < limits[0] < limits[1] < math.inf:
        raise SensorError(f"{name}: found {limits}, expected finite counts (low, high), low < high")


@dataclass(frozen=True)
class Modality(Checked):
    """How the three channels of a modality are computed: (plane * scale - mean) / std.

    An auxiliary has the name of its sensor; the camera's is `rgb`.

    Attributes:
        fields: of the encoding, one per channel; thermal has its only one three times.
        encoding: of the sensor's data, see `ENCODINGS`.
        scale: factor on the plane's value, per channel.
        mean, std: of the scaled value, per channel.
        point_size: side of the square that a projected LiDAR point covers, in pixels of the planes.
        limits: counts of a 16-bit thermal image that map to 0 and 255; for `mono16` alone.
    """

    error: ClassVar[type[MmsamError]] = SensorError
    where: ClassVar[str] = "modality"

    fields: tuple[str, str, str]
    encoding: str
    scale: Triple = (1.0, 1.0, 1.0)
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = ranged((1.0, 1.0, 1.0), 1e-6)
    point_size: int = ranged(1, 1, MAX_POINT_SIZE)
    limits: Limits | None = None

    def check(self) -> None:
        self.require(self.encoding in FIELDS, "encoding", f"one of {', '.join(FIELDS)}")
        known = FIELDS[self.encoding]
        self.require(set(self.fields) <= set(known), "fields", f"some of {known}")
        for name in ("scale", "mean", "std"):
            self.require(all(map(math.isfinite, getattr(self, name))), name, "finite values")
        self.require(0 not in self.scale, "scale", "factors other than 0")
        check_limits(f"{self.where}.limits", self.encoding, self.limits)

    @property
    def channels(self) -> list[int]:
        """The plane of each channel, as the encoding numbers them."""
        return [FIELDS[self.encoding].index(field) for field in self.fields]

    @property
    def empty(self) -> Triple:
        """The normalised value of a plane without data (raw zero)."""
        a, b, c = ((0.0 - m) / s for m, s in zip(self.mean, self.std, strict=True))
        return (a, b, c)


# How far apart the values of a field lie; a plane without data stays 0.
_SPREAD = {"range": 20.0, "intensity": 50.0, "depth": 20.0}
_SPREAD |= dict.fromkeys(("height", "positive", "negative", "zero"), 1.0)


def plain_modality(encoding: str, limits: Limits | None = None, point_size: int = 2) -> Modality:
    """The modality of a sensor without known statistics: three fields, or one repeated.

    `point_size` holds for encodings that are made of points.
    """
    first, second, third = (3 * FIELDS[encoding])[:3]
    std = (_SPREAD.get(first, 255.0), _SPREAD.get(second, 255.0), _SPREAD.get(third, 255.0))
    size = point_size if made_of_points(encoding) else 1
    return Modality((first, second, third), encoding, std=std, point_size=size, limits=limits)


def made_of_points(encoding: str) -> bool:
    """Whether a raster of this encoding can be made of a point cloud."""
    return FIELDS[encoding] == FIELDS["muses_raw"]


def stored_alike(first: str, second: str) -> bool:
    """Whether data that is stored in one encoding can be read as the other."""
    return first == second or {first, second} == {"muses_raw", LIDAR_GAIN}


def scale_raster(raster: NDArray[np.float32], encoding: str) -> NDArray[np.float32]:
    """Decoded LiDAR raster (h, w, 3) -> what the weights' encoding reads; most stay as they are.

    lidar_gain: an intensity free of unit. The 90th percentile of the positive ones in the view
    becomes 100; 255 is the most, 0 the least. Where intensity has no contrast (constant, as in a
    cloud without that field) it becomes 0. Scaled rasters do not change when they are scaled again.
    """
    if encoding != LIDAR_GAIN:
        return raster
    held = raster[..., 0] > 0
    values = np.maximum(raster[held][:, 1], 0)
    scaled = raster.copy()
    scaled[..., 1] = 0
    low, high = np.percentile(values, (1.0, 99.0)) if len(values) else (0.0, 0.0)
    if high - low > _LEAST_RELIEF * high:
        gain = _BRIGHT / float(np.percentile(values[values > 0], 90.0))
        scaled[held, 1] = np.minimum(values * gain, 255.0)
    return scaled


def decode_raster(image: NDArray[np.generic], encoding: str) -> NDArray[np.float32]:
    """Stored image -> channel values, float32 (H, W, C), channels as `FIELDS[encoding]` names them.

    `muses_png16` becomes metres and raw intensity (v / 150 - 100, so a stored 15000 is empty);
    `depth_metres` becomes metres, 0 where nothing was measured (stored as 0, NaN or infinite);
    every other encoding keeps its numbers (8-bit ones 0..255, thermal ones unscaled counts: those
    are scaled by `scale_thermal`, rasters of `lidar_gain` by `scale_raster`). SensorError where
    dtype or shape do not fit the encoding, or a value is not finite.
    """
    check_image(image, encoding)
    values = np.array(image, np.float32)
    if encoding == DEPTH_METRES:
        if image.dtype.kind == "u":
            values /= 1000.0
        else:
            values[~((values > 0) & (values < math.inf))] = 0.0
    if image.dtype.kind == "f" and not (np.abs(values) <= MAX_VALUE).all():
        raise SensorError(
            f"{encoding} image holds NaN or infinite values or some beyond {MAX_VALUE:g}, "
            "expected 0 where empty"
        )
    if encoding == "muses_png16" and image.dtype.kind == "u":
        values = values / 150.0 - 100.0
    return values if values.ndim == 3 else values[..., None]


def scale_thermal(
    image: NDArray[np.generic], encoding: str, limits: Limits | None = None, *,
    own_limits: Limits | None = None, inverted: bool = False,
) -> NDArray[np.float32]:  # fmt: skip
    """Thermal image (h, w) as published -> float32 (h, w) in 0..255, as the weights' encoding says.

    mono8: uint8 as it is. mono16: uint16 counts or a float32 temperature, fixed limits (low, high)
    in its unit to 0 and 255, clipped. frame_gain: any of these, the frame's own 1st and 99th
    percentile to 0 and 255, clipped; a frame whose contrast is the noise of its last bits gives 0.
    own_limits: this camera's, which replace all that for an image of any of these types. inverted:
    0 and 255 change places. What is not finite becomes 0. SensorError where dtype, shape or limits
    do not fit the encoding, or most values are not finite.
    """
    if encoding not in ENCODINGS["thermal"]:
        expected = ", ".join(ENCODINGS["thermal"])
        raise SensorError(f"thermal encoding is {encoding!r}, expected one of {expected}")
    check_image(image, encoding if own_limits is None else "frame_gain")
    check_limits("thermal limits", encoding, limits)
    scaled = image.astype(np.float32)
    is_float = image.dtype.kind == "f"
    known = np.abs(scaled) <= MAX_VALUE if is_float else np.ones(image.shape, bool)
    if 2 * (count := int(known.sum())) < image.size:
        raise SensorError(
            f"thermal image: {image.size - count} of {image.size} values are NaN or infinite, "
            "expected a temperature"
        )
    limits = own_limits or limits
    if limits is None and encoding != "mono8":
        limits, least = frame_range(image)
        if limits[1] - limits[0] < least:
            return np.zeros(image.shape, np.float32)
    if limits is not None:
        scaled[~known] = limits[0]
        scaled -= limits[0]
        scaled *= 255.0 / (limits[1] - limits[0])
        np.clip(scaled, 0.0, 255.0, out=scaled)
    if inverted:
        np.subtract(np.float32(255), scaled, out=scaled, where=known)
    return scaled


def frame_range(image: NDArray[np.generic]) -> tuple[Limits, float]:
    """The 1st and 99th percentile of a thermal image of which at least one value is finite, and how
    far apart they must be to be more than noise.
    """
    values, least = image, _LEAST_CONTRAST
    if image.dtype.kind == "f":
        values, least = image[np.abs(image.astype(np.float32)) <= MAX_VALUE], _LEAST_DEGREES
    low, high = percentiles(values, (1.0, 99.0)).tolist()
    return (low, high), least


def check_clipping(image: NDArray[np.generic], limits: Limits) -> None:
    """SensorError where limits clip nearly all of a thermal image: they are not this camera's."""
    values = image.astype(np.float32)
    values = values[np.abs(values) <= MAX_VALUE]
    if not values.size:
        return
    share = float(((values < limits[0]) | (values > limits[1])).mean())
    if share > MAX_CLIPPED:
        raise SensorError(
            f"{share:.0%} of the image, whose values are {np.min(values):g} to {np.max(values):g}, "
            f"is beyond the limits {limits[0]:g} and {limits[1]:g} that map to 0 and 255"
        )
