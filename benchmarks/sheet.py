# SPDX-License-Identifier: Apache-2.0
"""One picture of one frame: camera, LiDAR raster, thermal, mask, overlay and the legend."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.inference.draw import colorise, overlay
from mmsam_ros.sensors import (
    ClassInfo,
    Frame,
    LidarPoints,
    SensorImage,
    palette,
    rasterise,
    register,
)

Image = NDArray[np.uint8]

BAND = 26  # pixels of a panel's caption
LIDAR_RANGE = 60.0  # metres at the far end of the colour scale
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE, _DARK = (255, 255, 255), (28, 28, 32)


def sheet(frame: Frame, labels: Image, classes: Sequence[ClassInfo], note: str = "") -> Image:
    """Six panels in two rows, rgb8; `note` is written over the mask and the overlay."""
    colours = palette(classes)
    mask = f"mask ({note})" if note else "mask"
    panels = [
        _captioned(frame.rgb, "camera"),
        _captioned(_lidar(frame), f"LiDAR range, 0 to {LIDAR_RANGE:.0f} m"),
        _captioned(_thermal(frame), "thermal"),
        _captioned(colorise(labels, colours), mask),
        _captioned(overlay(frame.rgb, labels, colours), "overlay" + (f" ({note})" if note else "")),
        _legend(frame.rgb.shape[:2], classes, labels),
    ]
    return np.vstack([np.hstack(panels[:3]), np.hstack(panels[3:])])


def _captioned(panel: Image, text: str) -> Image:
    band = np.full((BAND, panel.shape[1], 3), _DARK, np.uint8)
    cv2.putText(band, text, (8, BAND - 8), _FONT, 0.5, _WHITE, 1, cv2.LINE_AA)
    return np.vstack([band, panel])


def _lidar(frame: Frame) -> Image:
    """Range by colour over the darkened camera image, or what is published as a raster."""
    data = frame.sensors.get("lidar")
    if isinstance(data, SensorImage):
        return _grey(data, frame)
    if not isinstance(data, LidarPoints) or frame.camera is None:
        return _missing(frame)
    raster = rasterise(data.xyz, data.intensity, frame.camera, data.T_camera_lidar, growth=3)
    near = np.clip(1 - raster[..., 0] / LIDAR_RANGE, 0, 1)
    colored = cv2.applyColorMap((near * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    picture = (frame.rgb * 0.3).astype(np.uint8)
    hit = raster[..., 0] > 0
    picture[hit] = colored[hit]
    return picture


def _thermal(frame: Frame) -> Image:
    data = frame.sensors.get("thermal")
    return _grey(data, frame) if isinstance(data, SensorImage) else _missing(frame)


def _grey(data: SensorImage, frame: Frame) -> Image:
    """A sensor's image in the camera's view, stretched to its own range; nothing: dark blue."""
    size = (frame.rgb.shape[0], frame.rgb.shape[1])
    value, valid = register(data.data.astype(np.float32), data.registration, size, size)
    value = value.mean(axis=2) if value.ndim == 3 else value
    low, high = np.percentile(value[valid], (1, 99)) if valid.any() else (0.0, 1.0)
    grey = np.clip((value - low) / max(high - low, 1e-6), 0, 1) * 255
    picture = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    picture[~valid] = (20, 24, 48)
    return picture


def _missing(frame: Frame) -> Image:
    picture = np.full_like(frame.rgb, _DARK)
    cv2.putText(picture, "absent", (16, 40), _FONT, 0.8, (160, 160, 160), 1, cv2.LINE_AA)
    return picture


def _legend(size: tuple[int, ...], classes: Sequence[ClassInfo], labels: Image) -> Image:
    """Class colours with their share of the mask."""
    height, width = size[0], size[1]
    shares = np.bincount(labels.ravel(), minlength=256) / labels.size
    panel = np.full((height, width, 3), _DARK, np.uint8)
    columns = 2 if len(classes) > 10 else 1
    rows = -(-len(classes) // columns)
    step = max(min(34, (height - 10) // rows), 8)
    for k, info in enumerate(classes):
        x, y = 14 + (k // rows) * (width // columns), 8 + (k % rows) * step
        cv2.rectangle(panel, (x, y), (x + step - 8, y + step - 8), info.rgb, cv2.FILLED)
        text = f"{info.name}  {100 * shares[info.id]:.1f} %"
        cv2.putText(panel, text, (x + step, y + step - 12), _FONT, 0.5, _WHITE, 1, cv2.LINE_AA)
    return _captioned(panel, "classes, share of the mask")
