# SPDX-License-Identifier: Apache-2.0
"""Clouds with labels against a loop over their points."""

from __future__ import annotations

import struct

import numpy as np

from mmsam_ros.inference.points import POINT, labelled_cloud, organised_cloud
from mmsam_ros.sensors import SYNTHETIC_CLASSES, CameraModel, palette, seen_points

HEIGHT, WIDTH = 12, 16
COLOURS = palette(SYNTHETIC_CLASSES)
CAMERA = CameraModel(
    WIDTH, HEIGHT, np.array([[10.0, 0, 8], [0, 10, 6], [0, 0, 1]]), np.zeros(0), "none",
    np.eye(3), np.zeros(3),
)  # fmt: skip
RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, len(SYNTHETIC_CLASSES), (HEIGHT, WIDTH)).astype(np.uint8)
LABELS[::3, ::2] = 255
CONFIDENCE = RNG.integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
# in the camera's frame: on a wall at 10 m, some outside the view and some behind the wall
WALL = RNG.uniform((-12, -9, 9.9), (12, 9, 10.1), (120, 3))
BEHIND = RNG.uniform((-5, -5, 20), (5, 5, 30), (40, 3))
POINTS = np.concatenate([WALL, BEHIND]).astype(np.float32)


def colour(label: int) -> bytes:
    """As PCL packs it: blue, green, red, 0."""
    red, green, blue = COLOURS[label].tolist()
    return bytes((blue, green, red, 0))


def pixel_of(point: np.ndarray) -> tuple[int, int] | None:
    x, y, z = point.astype(float)
    column, row = np.floor(10 * x / z + 8), np.floor(10 * y / z + 6)
    return (int(row), int(column)) if 0 <= row < HEIGHT and 0 <= column < WIDTH else None


def test_the_layout_is_that_of_pcl() -> None:
    assert POINT.itemsize == 24
    offsets = {name: POINT.fields[name][1] for name in POINT.names or ()}  # type: ignore[index]
    assert offsets == {"x": 0, "y": 4, "z": 8, "rgb": 12, "label": 16, "confidence": 20}


def test_a_cloud_with_the_label_of_each_point() -> None:
    seen = seen_points(POINTS, CAMERA, np.eye(4))
    cloud = labelled_cloud(POINTS, seen, LABELS, CONFIDENCE, COLOURS)
    assert cloud.shape == (len(POINTS),)
    labelled = 0
    for row, point in enumerate(POINTS):
        x, y, z, rgb, label, confidence = struct.unpack("<fff4sIf", cloud[row].tobytes())
        assert (x, y, z) == tuple(point)
        at = pixel_of(point)
        if at is None or row not in seen.index:
            assert (label, confidence, rgb) == (255, 0, bytes(4))
        else:
            assert label == LABELS[at]
            assert rgb == colour(label)
            assert confidence == np.float32(CONFIDENCE[at]) / np.float32(255)
            labelled += label != 255
    hidden = set(range(120, len(POINTS))) - set(seen.index.tolist())
    assert len(hidden) > 20, "points behind the wall"
    assert labelled > 20


def test_an_organised_cloud_has_the_nearest_point_of_each_pixel() -> None:
    seen = seen_points(POINTS, CAMERA, np.eye(4))
    cloud = organised_cloud(seen, LABELS, CONFIDENCE, COLOURS)
    assert cloud.shape == (HEIGHT, WIDTH)
    nearest: dict[tuple[int, int], np.ndarray] = {}
    for row in seen.index.tolist():
        at = pixel_of(POINTS[row])
        assert at is not None
        if at not in nearest or POINTS[row, 2] < nearest[at][2]:
            nearest[at] = POINTS[row]
    assert 20 < len(nearest) < HEIGHT * WIDTH
    for at in np.ndindex(HEIGHT, WIDTH):
        point = cloud[at]
        found = np.array([point["x"], point["y"], point["z"]])
        assert np.array_equal(found, nearest.get(at, np.full(3, np.nan)), equal_nan=True)
        assert point["label"] == LABELS[at]
        assert point["rgb"].tobytes() == colour(int(LABELS[at]))
        assert point["confidence"] == np.float32(CONFIDENCE[at]) / np.float32(255)


def test_without_points() -> None:
    nothing = np.zeros((0, 3), np.float32)
    seen = seen_points(nothing, CAMERA, np.eye(4))
    assert labelled_cloud(nothing, seen, LABELS, CONFIDENCE, COLOURS).shape == (0,)
    assert np.isnan(organised_cloud(seen, LABELS, CONFIDENCE, COLOURS)["x"]).all()
