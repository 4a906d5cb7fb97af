# SPDX-License-Identifier: Apache-2.0
"""How each sensor's image or raster is stored, what its channels mean, and how to decode it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors.errors import SensorError

_RASTER = ("range", "intensity", "height")
_COLOUR = ("red", "green", "blue")
_SINGLE = ("value",)

FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "rgb8": _COLOUR,
        "png8": _COLOUR,
        "muses_raw": _RASTER,
        "muses_png16": _RASTER,
        "event_counts": ("positive", "negative", "zero"),
        "mono8": _SINGLE,
        "mono16": _SINGLE,
        "frame_gain": _SINGLE,
    }
)
"""Encoding -> the names of its channels, in stored order."""

ENCODINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "camera": ("rgb8",),
        "lidar": ("muses_raw", "png8", "muses_png16"),
        "thermal": ("mono8", "mono16", "frame_gain"),
        "event": ("png8", "event_counts"),
        "depth": ("png8",),
    }
)
"""Sensor -> the encodings that it may have."""

MAX_VALUE = 1e9
"""No sensor measures more; squares of such values still fit float32, within the network as well."""

_DTYPES: Mapping[str, tuple[type[np.generic], ...]] = {
    "rgb8": (np.uint8,),
    "png8": (np.uint8,),
    "muses_raw": (np.float32,),
    "muses_png16": (np.uint16,),
    "event_counts": (np.uint8,),
    "mono8": (np.uint8,),
    "mono16": (np.uint16,),
    "frame_gain": (np.uint8, np.uint16),
}


def check_image(image: NDArray[np.generic], encoding: str) -> None:
    """Raise SensorError unless dtype and shape of a stored image fit its encoding.

    Three-channel encodings are (H, W, 3), single-channel ones (H, W); either byte order will do.
    """
    if encoding not in FIELDS:
        raise SensorError(f"encoding is {encoding!r}, expected one of {', '.join(FIELDS)}")
    if image.dtype.newbyteorder("=") not in _DTYPES[encoding]:
        names = " or ".join(np.dtype(dtype).name for dtype in _DTYPES[encoding])
        raise SensorError(f"{encoding} image: dtype is {image.dtype}, expected {names}")
    channels = len(FIELDS[encoding])
    fits = image.ndim == 2 if channels == 1 else image.ndim == 3 and image.shape[2] == channels
    if not fits or 0 in image.shape:
        expected = "(H, W)" if channels == 1 else f"(H, W, {channels})"
        raise SensorError(f"{encoding} image: shape is {image.shape}, expected {expected}")


def decode_raster(image: NDArray[np.generic], encoding: str) -> NDArray[np.float32]:
    """Stored image -> channel values, float32 (H, W, C), channels as `FIELDS[encoding]` names them.

    `muses_png16` becomes metres and raw intensity (v / 150 - 100, so a stored 15000 is empty);
    every other encoding keeps its numbers (8-bit ones 0..255, thermal ones unscaled counts: those
    are scaled by `scale_thermal`). SensorError where dtype or shape do not fit the encoding.
    """
    check_image(image, encoding)
    values = np.array(image, np.float32)
    if image.dtype.kind == "f" and not (np.abs(values) <= MAX_VALUE).all():
        raise SensorError(
            f"{encoding} image holds NaN or infinite values or some beyond {MAX_VALUE:g}, "
            "expected 0 where empty"
        )
    if encoding == "muses_png16":
        values /= 150.0
        values -= 100.0
    return values if values.ndim == 3 else values[..., None]
