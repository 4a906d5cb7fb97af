# SPDX-License-Identifier: Apache-2.0
"""Labels of points: the camera's mask on a LiDAR's cloud."""

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors import NO_LABEL, SeenPoints

Image = NDArray[np.uint8]

# As PCL's PointXYZRGBL begins (rgb: 0x00RRGGBB in a float's bytes), so that its tools and RViz
# read it; all fields have four bytes, and there is no padding.
POINT = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<f4"), ("label", "<u4"),
     ("confidence", "<f4")]
)  # fmt: skip


def organised_cloud(
    seen: SeenPoints, labels: Image, confidence: Image, palette: Image
) -> NDArray[np.void]:
    """A point for each pixel of the mask: `POINT` (H, W).

    xyz is that of the nearest seen point of the pixel, in the camera's optical frame; NaN where
    there is none. The other fields are those of the pixel, with or without a point: its label,
    its confidence as 0 to 1, and its class's colour of the palette (256, 3).
    """
    cloud = np.empty((labels.size, 6), np.float32)
    cloud[:, :3] = np.nan
    nearest = seen.nearest
    cloud[seen.pixel[nearest], :3] = seen.xyz[nearest]
    return _labelled(cloud, labels, confidence, palette).reshape(labels.shape)


def labelled_cloud(
    xyz: NDArray[np.float32], seen: SeenPoints, labels: Image, confidence: Image, palette: Image
) -> NDArray[np.void]:
    """All points of a cloud (N, 3) with the label of the pixel in which the camera sees them:
    `POINT` (N,). Points that it does not see have `NO_LABEL`, confidence 0 and the colour black.
    """
    of_points = np.full(len(xyz), NO_LABEL, np.uint8)
    of_points[seen.index] = labels.reshape(-1)[seen.pixel]
    certain = np.zeros(len(xyz), np.uint8)
    certain[seen.index] = confidence.reshape(-1)[seen.pixel]
    cloud = np.empty((len(xyz), 6), np.float32)
    cloud[:, :3] = xyz
    return _labelled(cloud, of_points, certain, palette)


def _labelled(
    cloud: NDArray[np.float32], labels: Image, confidence: Image, palette: Image
) -> NDArray[np.void]:
    """`cloud` (N, 6) as points (N,), with the fields that follow xyz filled in."""
    red, green, blue = palette.astype("<u4").T
    colours = (red << 16 | green << 8 | blue).view("<f4")
    points = cloud.view(POINT)[:, 0]
    points["rgb"] = colours[labels.reshape(-1)]
    points["label"] = labels.reshape(-1)
    points["confidence"] = (np.arange(256, dtype=np.float32) / 255)[confidence.reshape(-1)]
    return points
