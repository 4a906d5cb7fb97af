# SPDX-License-Identifier: Apache-2.0
"""Which points of a cloud a camera sees, and where."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors.camera import CameraModel
from mmsam_ros.sensors.matrices import Array
from mmsam_ros.sensors.projection import MIN_RANGE, project

# A sensor that is mounted above the camera measures behind what the camera sees, and its beams are
# so far apart that pixels between them show no nearer point. So points are compared within cells.
_CELL = 0.005  # side of a cell, of the focal length: 0.3 degrees
_BEHIND, _BEHIND_SHARE = 0.5, 0.1  # metres, and share of the nearer depth: then a point is hidden


@dataclass(frozen=True, eq=False)
class SeenPoints:
    """The points of a cloud that the camera sees, in the cloud's order; K of them.

    Attributes:
        index: int64 (K,), their rows in the cloud.
        pixel: int64 (K,), row of the image times its width plus column.
        xyz: float32 (K, 3), metres in the camera's optical frame.
        depth: float64 (K,), metres; what decides which point of a pixel is nearest.
    """

    index: NDArray[np.int64]
    pixel: NDArray[np.int64]
    xyz: NDArray[np.float32]
    depth: Array

    @property
    def nearest(self) -> NDArray[np.int64]:
        """Row (of these K) of the nearest point in each pixel that has any."""
        order = np.lexsort((self.depth, self.pixel))
        first = np.diff(self.pixel[order], prepend=-1) > 0
        return np.asarray(order[first], np.int64)


def seen_points(points: NDArray[np.floating], camera: CameraModel, T: Array) -> SeenPoints:
    """The points that the camera sees; `points` (N, >= 3) and `T` as of `project`.

    Left out are points outside the view, points nearer to the sensor than 1 m (the vehicle), and
    hidden ones: a point is hidden where another one, in its cell of the image or in one of the
    eight around it, is nearer to the camera by more than 0.5 m and a tenth of its depth. A cell
    has a side of 0.005 focal lengths (0.3 degrees).
    """
    index, u, v, depth = project(points, camera, T)
    inside = points[index, :3].astype(np.float64)
    away = np.einsum("ij,ij->i", inside, inside) >= MIN_RANGE**2
    index, u, v, depth, inside = index[away], u[away], v[away], depth[away], inside[away]
    seen = ~_hidden(u, v, depth, camera)
    index, u, v, depth, inside = index[seen], u[seen], v[seen], depth[seen], inside[seen]
    xyz = (inside @ T[:3, :3].T + T[:3, 3]).astype(np.float32)
    pixel = v.astype(np.int64) * camera.width + u.astype(np.int64)
    return SeenPoints(index, pixel, xyz, depth)


def _hidden(u: Array, v: Array, depth: Array, camera: CameraModel) -> NDArray[np.bool_]:
    side = max(1, round(_CELL * camera.K[0, 0]))
    rows, columns = -(-camera.height // side), -(-camera.width // side)
    cell = v.astype(np.int64) // side * columns + u.astype(np.int64) // side
    nearest = np.full(rows * columns, np.inf)
    np.minimum.at(nearest, cell, depth)
    nearest = cv2.erode(nearest.reshape(rows, columns), np.ones((3, 3), np.uint8)).reshape(-1)
    return np.asarray(depth > nearest[cell] * (1 + _BEHIND_SHARE) + _BEHIND)
