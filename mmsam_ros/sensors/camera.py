# SPDX-License-Identifier: Apache-2.0
"""Camera models: points in the camera's optical frame to pixels, as sensor_msgs/CameraInfo defines.

Pixel coordinates are continuous: pixel i covers [i, i + 1), as in the MUSES tools. A calibration is
taken as it is published.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.polynomial import polynomial as poly
from numpy.typing import ArrayLike, NDArray

from mmsam_ros.sensors.camera_info import check_matrices, check_size, decide, published_view
from mmsam_ros.sensors.errors import SensorError
from mmsam_ros.sensors.matrices import Array, check_intrinsics, check_rotation, finite_array

# Model -> lengths that D may have. The 12 of a rational polynomial end with the thin prism.
_LENGTHS: Mapping[str, tuple[int, ...]] = {
    "none": (0,), "plumb_bob": (4, 5), "rational_polynomial": (8, 12), "equidistant": (4,)
}  # fmt: skip
# D that shows less than this share of the shorter side, or moves the edge of the image by more
# than this share of its width, is in another unit or of another model.
_SHOWN, _TORN = 0.05, 2.0


@dataclass(frozen=True, eq=False)
class CameraModel:
    """A calibrated camera.

    width, height: size in pixels of the image as published (after binning and region of interest).
    K: (3, 3) intrinsics. D: distortion coefficients in CameraInfo's order. distortion: "none",
    "plumb_bob", "rational_polynomial" or "equidistant". R: (3, 3) rectification and offset: (3,)
    4th column of P, both without effect (identity, zero) for a raw image.

    A point p maps to K R p + offset without distortion, to K distort(p) with it.
    SensorError names the field that is unusable.
    """

    width: int
    height: int
    K: Array
    D: Array
    distortion: str
    R: Array
    offset: Array

    def __post_init__(self) -> None:
        check_size("camera", self.width, self.height)
        object.__setattr__(self, "K", check_intrinsics("camera K", self.K))
        object.__setattr__(self, "R", check_rotation("camera R", self.R))
        object.__setattr__(self, "offset", finite_array("camera offset", self.offset, (3,)))
        if self.distortion not in _LENGTHS:
            known = ", ".join(_LENGTHS)
            raise SensorError(f"camera distortion is {self.distortion!r}, expected one of {known}")
        coefficients = np.asarray(self.D, np.float64)
        _check_coefficients(coefficients, self.distortion)
        object.__setattr__(self, "D", coefficients)
        if self.distortion != "none" and (self.offset.any() or not np.allclose(self.R, np.eye(3))):
            raise SensorError(
                f"camera distortion is {self.distortion!r} with a rectification, "
                "expected 'none': a rectified image has no distortion left"
            )

    @classmethod
    def from_info(
        cls, *, width: int, height: int, k: ArrayLike, d: ArrayLike, distortion_model: str,
        r: ArrayLike = (1, 0, 0, 0, 1, 0, 0, 0, 1), p: ArrayLike = (0,) * 12, binning_x: int = 0,
        binning_y: int = 0, roi: Sequence[int] = (0, 0, 0, 0), rectified: bool | None = None,
        rectified_frame: bool = False,
    ) -> Self:  # fmt: skip
        """The camera of an image from the fields of its sensor_msgs/CameraInfo.

        width, height: the full, unbinned size. k (9), r (9), p (12): row-major; an r of zeros is
        the identity. distortion_model and d: see `camera_info.lens`. roi: (x_offset, y_offset,
        width, height) in full, unbinned pixels; all zero means the full image. A binning of 0
        means 1. rectified: the image is rectified (use R and P) or raw (use K and D); None decides:
        rectified where D is empty or zero and P is filled in. (Under "equidistant" that still is
        a fisheye lens, so raw.) rectified_frame: of a rectified image, the poses of points are
        those in the rectified camera's own frame: R and the baseline in P's fourth column are not
        used.

        SensorError names the field, what it holds and what was expected.
        """
        check_size("CameraInfo", width, height)
        k_matrix = _reshape("CameraInfo.k", k, (3, 3))
        r_matrix = _reshape("CameraInfo.r", r, (3, 3))
        p_matrix = _reshape("CameraInfo.p", p, (3, 4))
        if not r_matrix.any():
            r_matrix = np.eye(3)  # not filled in
        taken = decide(rectified, distortion_model, np.asarray(d, np.float64).ravel(), p_matrix)
        view, published = published_view(width, height, binning_x, binning_y, roi)
        check_matrices(k_matrix, p_matrix, r_matrix, (width, height), taken, rectified is not None)
        if not taken.rectified:
            matrix = view @ k_matrix
            return cls(
                *published, matrix, taken.d, taken.distortion, np.eye(3), np.zeros(3)
            )._with_plausible_lens()
        matrix = view @ p_matrix
        if rectified_frame:
            r_matrix = np.eye(3)
            # the frame is moved along the baseline; KITTI's small rest stays in the column
            matrix[np.argmax(np.abs(matrix[:2, 3])), 3] = 0
        return cls(*published, matrix[:, :3], np.zeros(0), "none", r_matrix, matrix[:, 3])

    def _with_plausible_lens(self) -> Self:
        """This camera; SensorError if D leaves hardly any of the image, or tears it apart."""
        shown = float(self.limit * min(self.K[0, 0], self.K[1, 1]))
        if shown < _SHOWN * min(self.width, self.height) or self.bend > _TORN * self.width:
            raise SensorError(
                f"CameraInfo.d is {self.D.tolist()}, which shows a circle of {shown:.0f} pixels "
                f"and moves its edge by {self.bend:.0f}, expected coefficients of a lens for "
                f"{self.width}x{self.height} pixels; correct the calibration"
            )
        return self

    def scaled(self, width: int, height: int) -> Self:
        """The same camera for its whole image resized to width x height pixels."""
        scale = np.diag([width / self.width, height / self.height, 1.0])
        K, offset = scale @ self.K, scale @ self.offset
        return replace(self, width=width, height=height, K=K, offset=offset)

    def image_points(self, points: ArrayLike) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
        """Project points (N, 3), metres in the optical frame (z forward, x right, y down).

        Returns u, v (pixels), depth (m, the projection's third row: z after rectification) and
        valid, each (N,). valid is False for points that are not finite, not in front of the camera
        or beyond the angle up to which the distortion polynomial grows: there it folds back and
        would put them into the image. Their u and v mean nothing. Points outside the image are
        valid here.
        """
        xyz = np.asarray(points, np.float64)
        if xyz.ndim != 2 or xyz.shape[1] != 3:
            raise SensorError(f"camera points have shape {xyz.shape}, expected (N, 3)")
        matrix = self.K @ self.R if self.distortion == "none" else np.eye(3)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            a, b, depth = matrix @ xyz.T + self.offset[:, None]
            x, y = a / depth, b / depth
            valid = (depth > 0) & np.isfinite(depth)
            if self.distortion != "none":
                x, y, inside = self._distort(x, y)
                (fx, skew, cx), (_, fy, cy) = self.K[:2]
                x, y = fx * x + skew * y + cx, fy * y + cy
                valid &= inside
            valid &= np.isfinite(x) & np.isfinite(y)
        return x, y, depth, valid

    @cached_property
    def bend(self) -> float:
        """By how many pixels the distortion moves corners and sides of the image, at most."""
        if self.distortion == "none":
            return 0.0
        (fx, _, cx), (_, fy, cy) = self.K[:2]
        u, v = np.meshgrid((0, cx, self.width), (0, cy, self.height))
        x, y = (u - cx) / fx, (v - cy) / fy
        bent_x, bent_y, inside = self._distort(x, y)
        moved = np.hypot(fx * (bent_x - x), fy * (bent_y - y))[inside]
        return float(moved.max(initial=0.0))

    @cached_property
    def limit(self) -> float:
        """Largest usable undistorted radius (equidistant: angle in radians), exclusive; or inf."""
        if self.distortion == "none":
            return np.inf
        if self.distortion == "equidistant":
            theta = np.concatenate([[1.0], self.D])
            return _first_root(theta * np.arange(1.0, 10.0, 2.0))
        over, under = self._radial
        slope = poly.polysub(
            poly.polymul(poly.polyadd(over, 2 * poly.polymulx(poly.polyder(over))), under),
            2 * poly.polymulx(poly.polymul(over, poly.polyder(under))),
        )
        return min(_first_root(slope), _first_root(under))

    @property
    def _radial(self) -> tuple[Array, Array]:
        """Numerator and denominator of the radial factor, ascending powers of r squared."""
        k1, k2, _, _, k3, *rest = [*self.D, 0.0]
        return np.array([1.0, k1, k2, k3]), np.array([1.0, *rest[:3]])

    def _distort(self, x: Array, y: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        square = x * x + y * y
        if self.distortion == "equidistant":
            r = np.sqrt(square)
            theta = np.arctan(r)
            bent = theta * poly.polyval(theta * theta, [1.0, *self.D])
            factor = np.divide(bent, r, out=np.ones_like(r), where=r > 1e-12)
            return x * factor, y * factor, theta < self.limit
        over, under = self._radial
        factor = poly.polyval(square, over) / poly.polyval(square, under)
        p1, p2 = self.D[2:4]
        xd = x * factor + 2 * p1 * x * y + p2 * (square + 2 * x * x)
        yd = y * factor + p1 * (square + 2 * y * y) + 2 * p2 * x * y
        if self.D.size > 8:
            s1, s2, s3, s4 = self.D[8:]  # thin prism
            xd = xd + s1 * square + s2 * square * square
            yd = yd + s3 * square + s4 * square * square
        return xd, yd, square < self.limit**2


def _first_root(coefficients: NDArray[np.floating]) -> float:
    """Square root of the smallest positive real root of a polynomial in r squared; inf if none."""
    # Terms that only count at radii far beyond any lens are trimmed: as leading ones they overflow.
    roots = poly.polyroots(poly.polytrim(coefficients, tol=1e-12))
    real = roots.real[(np.abs(roots.imag) <= 1e-9 * np.abs(roots)) & (roots.real > 0)]
    return float(np.sqrt(np.min(real))) if real.size else np.inf


def _reshape(name: str, value: ArrayLike, shape: tuple[int, int]) -> Array:
    array = np.asarray(value, np.float64)
    if array.size != shape[0] * shape[1]:
        raise SensorError(f"{name} has {array.size} values, expected {shape[0] * shape[1]}")
    return array.reshape(shape)


def _check_coefficients(d: Array, model: str) -> None:
    """D must be finite and have a length that its model has."""
    if d.ndim != 1 or d.size not in _LENGTHS[model]:
        expected = " or ".join(map(str, _LENGTHS[model]))
        raise SensorError(f"camera D has {d.size} values for {model!r}, expected {expected}")
    if not np.isfinite(d).all():
        raise SensorError(f"camera D is {d.tolist()}, expected finite values")
