# SPDX-License-Identifier: Apache-2.0
"""Rigid poses between (4, 4) matrices and translation with quaternion (geometry_msgs/Transform)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mmsam_ros.sensors.camera import Array
from mmsam_ros.sensors.errors import SensorError


def pose_matrix(translation: Sequence[float], quaternion: Sequence[float]) -> Array:
    """(x, y, z), (qx, qy, qz, qw) -> (4, 4); the quaternion need not have unit length."""
    q = np.asarray(quaternion, np.float64)
    norm = np.linalg.norm(q)
    if not (np.isfinite(norm) and norm > 1e-6 and np.isfinite(translation).all()):
        raise SensorError(
            f"pose {[*translation, *quaternion]} is not finite or has a zero rotation"
        )
    x, y, z, w = q / norm
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) + 2 * np.array(
        [
            [-y * y - z * z, x * y - z * w, x * z + y * w],
            [x * y + z * w, -x * x - z * z, y * z - x * w],
            [x * z - y * w, y * z + x * w, -x * x - y * y],
        ]
    )
    matrix[:3, 3] = translation
    return matrix


def pose_values(matrix: Array) -> list[float]:
    """(4, 4) -> [x, y, z, qx, qy, qz, qw], qw >= 0: the inverse of `pose_matrix`."""
    m = matrix[:3, :3]
    # 4 q q^T, whose longest column gives q without a division by something small (Bar-Itzhack)
    products = np.empty((4, 4))
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        products[i, i] = 1 + m[i, i] - m[j, j] - m[k, k]
        products[i, j] = products[j, i] = m[i, j] + m[j, i]
        products[i, 3] = products[3, i] = m[k, j] - m[j, k]
    products[3, 3] = 1 + np.trace(m)
    q = products[:, np.argmax(np.diag(products))]
    q = q / np.linalg.norm(q) * math.copysign(1.0, q[3])
    return [float(value) for value in (*matrix[:3, 3], *q)]
