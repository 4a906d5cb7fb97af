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


def test_every_label_and_level() -> None:
    """Against indexing and arithmetic by pixel."""
    rng = np.random.default_rng(0)
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colours = rng.integers(0, 256, (256, 3)).astype(np.uint8)
    assert np.array_equal(colorise(labels, colours), colours[labels])
    rgb = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    ones = np.where(labels % 3, 0, 1).astype(np.uint8)
    lit = highlight(rgb, ones, 1, (250, 3, 128), opacity=0.6)
    tinted = (rgb[ones == 1] * 0.4 + np.array((250, 3, 128)) * 0.6).astype(int)
    assert np.abs(lit[ones == 1] - tinted).max() <= 1
    assert np.abs(lit[ones == 0] - rgb[ones == 0] / 2).max() <= 0.5
