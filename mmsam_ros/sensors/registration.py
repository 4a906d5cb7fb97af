# SPDX-License-Identifier: Apache-2.0
"""Bringing an image of a second camera (thermal) into the colour camera's view.

Pixel coordinates are continuous: pixel i covers [i, i + 1), its centre is i + 0.5. A homography
found with OpenCV, whose pixel centres are integers, is S H S^-1 here, S the shift by (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmsam_ros.sensors.camera import Array, check_intrinsics, check_rotation
from mmsam_ros.sensors.errors import SensorError

# Rows that are resampled at a time: few enough for the temporaries to stay in the cache.
_BLOCK = 32


@dataclass(frozen=True, eq=False)
class Registration:
    """How a thermal image lies in the camera's view.

    homography: (3, 3), thermal pixel -> camera pixel at both images' published sizes, positive
    third row for what lies in front of the camera; None: both show the same view, whatever their
    sizes. SensorError where it is not a finite, invertible (3, 3) matrix.
    """

    homography: Array | None

    def __post_init__(self) -> None:
        if self.homography is not None:
            matrix = _matrix("homography", self.homography)
            if np.linalg.matrix_rank(matrix) < 3:
                raise SensorError(f"homography is {matrix.tolist()}, expected an invertible matrix")
            object.__setattr__(self, "homography", matrix)

    @classmethod
    def aligned(cls) -> Registration:
        """Both cameras show the same view already."""
        return cls(None)

    @classmethod
    def from_homography(cls, H: ArrayLike) -> Registration:
        """From a homography thermal -> camera of any scale; H[2, 2] must not be zero."""
        matrix = _matrix("homography", H)
        if matrix[2, 2] == 0:
            raise SensorError(f"homography is {matrix.tolist()}, expected a non-zero H[2, 2]")
        return cls(matrix / matrix[2, 2])

    @classmethod
    def from_rotation(
        cls, K_camera: ArrayLike, R_camera_thermal: ArrayLike, K_thermal: ArrayLike
    ) -> Registration:
        """From both intrinsics and the rotation camera <- thermal: K_camera R K_thermal^-1.

        Exact for points far away (the baseline's parallax is ignored) and undistorted lenses.
        """
        K_to, K_from = _matrix("K_camera", K_camera), _matrix("K_thermal", K_thermal)
        R = _matrix("R_camera_thermal", R_camera_thermal)
        check_rotation("R_camera_thermal", R)
        check_intrinsics("K_camera", K_to)
        check_intrinsics("K_thermal", K_from)
        return cls(K_to @ R @ np.linalg.inv(K_from))


def shows_nothing(image: NDArray[np.float32], registration: Registration) -> bool:
    """Whether an image that covers a part of the camera's view is of one value.

    What lies outside it is empty, so that the edge of its view would look like contrast.
    """
    return registration.homography is not None and bool(image.min() == image.max())


def register(
    image: NDArray[np.float32],
    registration: Registration,
    camera_size: tuple[int, int],
    out_size: tuple[int, int],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Resample a thermal image into the camera's view at out_size.

    image: (h, w) or (h, w, C) float32. camera_size: (H, W), the camera image's published size, in
    whose pixels the homography is. out_size: (H', W'), the whole camera view resized.
    Returns the image float32 (H', W'[, C]), bilinear, and valid bool (H', W'): False, with value 0,
    where the thermal camera does not see. Within half a pixel of its border the border's value
    continues. SensorError for other shapes or empty sizes.
    """
    if image.ndim not in (2, 3) or 0 in image.shape or image.dtype != np.float32:
        raise SensorError(
            f"image to register is {image.dtype} {image.shape}, "
            "expected float32 (h, w) or (h, w, C) with pixels"
        )
    if min(*camera_size, *out_size) < 1:
        raise SensorError(f"sizes are {camera_size} and {out_size}, expected at least 1x1")
    if registration.homography is None:
        return _resize(image, out_size), np.ones(out_size, bool)
    to_camera = np.diag([camera_size[1] / out_size[1], camera_size[0] / out_size[0], 1.0])
    return _warp(image, np.linalg.inv(registration.homography) @ to_camera, out_size)


def _resize(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Bilinear resize, one axis after the other; the identity for equal sizes."""
    out = image
    for axis, (old, new) in enumerate(zip(image.shape[:2], size, strict=True)):
        if old != new:
            low, high, weight = _neighbours((np.arange(new) + 0.5) * (old / new), old)
            weight = weight.reshape((-1,) + (1,) * (image.ndim - 1 - axis))
            first = out.take(low, axis)
            out = first + weight * (out.take(high, axis) - first)
    return out.copy() if out is image else out


def _warp(
    image: NDArray[np.float32], from_out: NDArray[np.floating], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Bilinear warp by the homography output pixel -> image pixel."""
    h, w = image.shape[:2]
    flat = image.reshape(h * w, *image.shape[2:])
    out = np.zeros((*size, *image.shape[2:]), np.float32)
    valid = np.zeros(size, bool)
    x = np.arange(size[1]) + 0.5
    for start in range(0, size[0], _BLOCK):
        y = (np.arange(start, min(start + _BLOCK, size[0])) + 0.5)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b, c = (row[0] * x + (row[1] * y + row[2]) for row in from_out)
            u, v = a / c, b / c
            inside = (c > 0) & (u >= 0) & (u < w) & (v >= 0) & (v < h)
        if not inside.any():
            continue
        valid[start : start + _BLOCK] = inside
        x0, x1, wx = _neighbours(u[inside], w)
        y0, y1, wy = _neighbours(v[inside], h)
        if image.ndim == 3:
            wx, wy = wx[:, None], wy[:, None]
        y0 *= w
        y1 *= w
        top, bottom = flat[y0 + x0], flat[y1 + x0]
        top += wx * (flat[y0 + x1] - top)
        bottom += wx * (flat[y1 + x1] - bottom)
        out[start : start + _BLOCK][inside] = top + wy * (bottom - top)
    return out, valid


def _neighbours(
    position: Array, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The two pixels whose centres enclose each position, and the second one's weight."""
    shifted = np.clip(position - 0.5, 0.0, size - 1.0)
    low = shifted.astype(np.int64)
    return low, np.minimum(low + 1, size - 1), (shifted - low).astype(np.float32)


def _matrix(name: str, value: ArrayLike) -> Array:
    matrix = np.asarray(value, np.float64)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise SensorError(f"{name} is {matrix.tolist()}, expected a finite (3, 3) matrix")
    return matrix
