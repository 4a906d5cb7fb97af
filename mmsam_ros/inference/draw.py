# SPDX-License-Identifier: Apache-2.0
"""Pictures of labels: colours, overlay, one class highlighted. All images are rgb8 (H, W, 3)."""

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors import NO_LABEL

Image = NDArray[np.uint8]


def colorise(labels: Image, palette: Image) -> Image:
    """Labels (H, W) through a palette (256, 3)."""
    return np.asarray(cv2.applyColorMap(labels, palette[:, None]), np.uint8)


def overlay(rgb: Image, labels: Image, palette: Image, opacity: float = 0.5) -> Image:
    """The camera image with the classes' colours over it; unlabelled pixels stay as they are."""
    blended = cv2.addWeighted(rgb, 1 - opacity, colorise(labels, palette), opacity, 0)
    unlabelled = labels == NO_LABEL
    if unlabelled.any():
        blended[unlabelled] = rgb[unlabelled]
    return np.asarray(blended, np.uint8)


def highlight(
    rgb: Image, labels: Image, class_id: int, color: tuple[int, int, int], opacity: float = 0.5
) -> Image:
    """The camera image with one class in its colour and everything else darkened by half."""
    picture = np.asarray(cv2.convertScaleAbs(rgb, alpha=0.5), np.uint8)
    tint = np.asarray(color, np.float32) * opacity
    tinted = (np.arange(256)[:, None] * (1 - opacity) + tint).astype(np.uint8)
    inside = (labels == class_id).view(np.uint8)
    cv2.copyTo(cv2.LUT(rgb, tinted[None]), inside, picture)
    return picture
