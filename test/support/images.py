# SPDX-License-Identifier: Apache-2.0
"""Images as messages and as files, made of arrays."""

from __future__ import annotations

import array
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

RNG = np.random.default_rng(1)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)
BGR = np.ascontiguousarray(RGB[..., ::-1])
GREY = RNG.integers(0, 256, (4, 8), np.uint8)


def message(
    pixels: np.ndarray, encoding: str, height: int = 0, *, padding: int = 0, big: bool = False,
    step: int | None = None,
) -> Any:  # fmt: skip
    """An Image; `height`: of the picture, where planes lie below it."""
    if big:
        pixels = pixels.astype(pixels.dtype.newbyteorder(">"))
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return SimpleNamespace(
        height=height or pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(big),
        step=rows.shape[1] if step is None else step,
        data=array.array("B", rows.tobytes()),
    )


def compressed(data: bytes, form: str) -> Any:
    return SimpleNamespace(format=form, data=array.array("B", data))


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()
