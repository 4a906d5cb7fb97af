# SPDX-License-Identifier: Apache-2.0
"""Pictures of labels."""

from __future__ import annotations

import numpy as np

from mmsam_ros.inference.draw import colorise, highlight, overlay
from mmsam_ros.sensors import SYNTHETIC_CLASSES, palette

CLASSES = SYNTHETIC_CLASSES
COLOURS = palette(CLASSES)


def test_pictures() -> None:
    rgb = np.full((2, 3, 3), 100, np.uint8)
    labels = np.array([[0, 1, 255], [7, 8, 0]], np.uint8)
    colored = colorise(labels, COLOURS)
    assert tuple(colored[0, 0]) == CLASSES[0].rgb
    assert tuple(colored[0, 2]) == (0, 0, 0)
    blended = overlay(rgb, labels, COLOURS)
    assert np.abs(blended[0, 0].astype(int) - (50 + np.array(CLASSES[0].rgb) / 2)).max() <= 1
    assert tuple(blended[0, 2]) == (100, 100, 100)  # no label: the camera shows through
    lit = highlight(rgb, labels, 1, CLASSES[1].rgb, opacity=0.5)
    assert np.abs(lit[0, 1].astype(int) - (50 + np.array(CLASSES[1].rgb) / 2)).max() <= 1
    assert tuple(lit[0, 0]) == (50, 50, 50)
