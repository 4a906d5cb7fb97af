# SPDX-License-Identifier: Apache-2.0
"""Matrices of cameras and poses: checks, and poses as geometry_msgs/Transform holds them."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmsam_ros.sensors.errors import SensorError

Array = NDArray[np.float64]
_UNIT = 0.01  # by which the square of a quaternion's length may differ from 1, as in tf2


def finite_array(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Array:
    """The value as floats; SensorError unless it has this shape and all of it is finite."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise SensorError(f"{name} is {value!r}, expected {shape} numbers") from error
    if array.shape != shape or not np.isfinite(array).all():
        raise SensorError(f"{name} is {array.tolist()}, expected a finite {shape} array")
    return array


def check_rotation(name: str, R: ArrayLike) -> Array:
    """The (3, 3) rotation as floats, up to the rounding of a hand-written one; else SensorError."""
    matrix = finite_array(name, R, (3, 3))
    if not np.allclose(matrix @ matrix.T, np.eye(3), atol=5e-3) or np.linalg.det(matrix) < 0:
        raise SensorError(f"{name} is {matrix.tolist()}, expected a rotation")
    return matrix


def check_intrinsics(name: str, K: ArrayLike) -> Array:
    """A calibrated camera's (3, 3) matrix as floats; else SensorError."""
    matrix = finite_array(name, K, (3, 3))
    if min(matrix[0, 0], matrix[1, 1]) <= 0 or not np.array_equal(matrix[2], (0.0, 0.0, 1.0)):
        raise SensorError(
            f"{name} is {matrix.tolist()}, expected a calibrated camera: positive focal lengths, "
            "last row 0 0 1"
        )
    return matrix


def check_pose(name: str, T: ArrayLike) -> Array:
    """A finite (4, 4) transform of rotation and translation, as floats; else SensorError."""
    pose = finite_array(name, T, (4, 4))
    if not np.allclose(pose[3], (0.0, 0.0, 0.0, 1.0), atol=1e-6):
        raise SensorError(f"{name} is {pose.tolist()}, expected the last row 0 0 0 1")
    check_rotation(f"the rotation of {name}", pose[:3, :3])
    return pose


def pose_matrix(translation: Sequence[float], quaternion: Sequence[float]) -> Array:
    """(x, y, z), (qx, qy, qz, qw) -> (4, 4). SensorError unless the quaternion has unit length, as
    exactly as tf2 asks for it: others are angles or have a wrong digit.
    """
    q = np.asarray(quaternion, np.float64)
    norm = np.linalg.norm(q)
    if not (np.isfinite(norm) and norm > 1e-6 and np.isfinite(translation).all()):
        values = [*translation, *quaternion]
        raise SensorError(f"pose {values} is not finite or has a zero rotation")
    if abs(norm**2 - 1) >= _UNIT:
        raise SensorError(
            f"pose {[*translation, *quaternion]} has a quaternion of length {norm:.4g}, expected 1 "
            "(qx, qy, qz, qw; not angles)"
        )
    x, y, z, w = q / norm
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])  # of the vector part
    matrix = np.eye(4)
    matrix[:3, :3] += 2 * (w * cross + cross @ cross)
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
