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

from mmsam_ros.sensors.errors import SensorError
from mmsam_ros.sensors.matrices import Array, check_intrinsics, check_rotation, finite_array

# Model -> lengths that D may have.
_LENGTHS: Mapping[str, tuple[int, ...]] = {
    "none": (0,), "plumb_bob": (4, 5), "rational_polynomial": (8,), "equidistant": (4,)
}  # fmt: skip
_MESSAGE_MODELS = tuple(name for name in _LENGTHS if name != "none")


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
        _check_coefficients("camera D", coefficients, self.distortion)
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
    ) -> Self:  # fmt: skip
        """The camera of an image from the fields of its sensor_msgs/CameraInfo.

        width, height: the full, unbinned size. k (9), r (9), p (12): row-major. roi: (x_offset,
        y_offset, width, height) in full, unbinned pixels; all zero means the full image. A binning
        of 0 means 1. rectified: the image is rectified (use R and P) or raw (use K and D); None
        decides: rectified where D is empty or zero and P is filled in. (Four zeros under
        "equidistant" still are a fisheye lens, so raw.)

        SensorError names the field, what it holds and what was expected.
        """
        check_size("CameraInfo", width, height)
        coefficients = np.asarray(d, np.float64).ravel()
        k_matrix = _reshape("CameraInfo.k", k, (3, 3))
        r_matrix = _reshape("CameraInfo.r", r, (3, 3))
        p_matrix = _reshape("CameraInfo.p", p, (3, 4))
        distortion = "none" if rectified else _distortion(distortion_model, coefficients)
        if rectified is None:
            rectified = p_matrix[0, 0] != 0 and (distortion == "none" or coefficients.size == 0)
        view, size = _view(width, height, binning_x, binning_y, roi)
        if rectified:
            check_intrinsics("CameraInfo.p", p_matrix[:, :3])
            matrix = view @ finite_array("CameraInfo.p", p_matrix, (3, 4))
            return cls(*size, matrix[:, :3], np.zeros(0), "none", r_matrix, matrix[:, 3])
        check_intrinsics("CameraInfo.k", k_matrix)
        _check_coefficients("CameraInfo.d", coefficients, distortion_model, distortion)
        used = np.zeros(0) if distortion == "none" else coefficients
        return cls(*size, view @ k_matrix, used, distortion, np.eye(3), np.zeros(3))

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
        return xd, yd, square < self.limit**2


def _first_root(coefficients: NDArray[np.floating]) -> float:
    """Square root of the smallest positive real root of a polynomial in r squared; inf if none."""
    # Terms that only count at radii far beyond any lens are trimmed: as leading ones they overflow.
    roots = poly.polyroots(poly.polytrim(coefficients, tol=1e-12))
    real = roots.real[(np.abs(roots.imag) <= 1e-9 * np.abs(roots)) & (roots.real > 0)]
    return float(np.sqrt(real.min())) if real.size else np.inf


def _reshape(name: str, value: ArrayLike, shape: tuple[int, int]) -> Array:
    array = np.asarray(value, np.float64)
    if array.size != shape[0] * shape[1]:
        raise SensorError(f"{name} has {array.size} values, expected {shape[0] * shape[1]}")
    return array.reshape(shape)


def check_size(name: str, width: object, height: object) -> None:
    """Raise SensorError unless both are whole numbers of pixels, and at least one."""
    for side, value in (("width", width), ("height", height)):
        if not isinstance(value, (int, np.integer)) or value < 1:
            found = f"{name}.{side} is {value!r}"
            raise SensorError(f"{found}, expected a whole number of at least 1 pixel")


def _check_coefficients(name: str, d: Array, model: str, used: str | None = None) -> None:
    """D must be finite and have a length that its model has (none at all where it is not used)."""
    lengths = (0, *_LENGTHS.get(model, ())) if used == "none" else _LENGTHS[model]
    if d.ndim != 1 or d.size not in lengths:
        expected = " or ".join(map(str, lengths))
        raise SensorError(f"{name} has {d.size} values for {model!r}, expected {expected}")
    if not np.isfinite(d).all():
        raise SensorError(f"{name} is {d.tolist()}, expected finite values")


def _distortion(model: str, d: Array) -> str:
    """The model that applies: "none" where the coefficients say that nothing is distorted."""
    if model not in _MESSAGE_MODELS and (model or d.any()):
        raise SensorError(
            f"CameraInfo.distortion_model is {model!r}, expected one of "
            f"{', '.join(_MESSAGE_MODELS)} (or empty with an empty d)"
        )
    return model if d.any() or model == "equidistant" else "none"


def _view(
    width: int, height: int, binning_x: int, binning_y: int, roi: Sequence[int]
) -> tuple[Array, tuple[int, int]]:
    """Region of interest, then binning: matrix on homogeneous pixels, and the published size."""
    if len(roi) != 4:
        raise SensorError(f"CameraInfo.roi has {len(roi)} values, expected 4 (x, y, width, height)")
    x, y, w, h = roi if any(roi) else (0, 0, width, height)
    if min(x, y) < 0 or min(w, h) < 1 or x + w > width or y + h > height:
        found, image = f"CameraInfo.roi is {tuple(roi)}", f"{width}x{height} image"
        raise SensorError(f"{found}, expected a part of the {image}")
    if min(binning_x, binning_y) < 0 or binning_x > w or binning_y > h:
        found = f"CameraInfo.binning is {binning_x}x{binning_y}"
        raise SensorError(f"{found}, expected 0 up to the size {w}x{h}")
    bx, by = max(binning_x, 1), max(binning_y, 1)
    view = np.array([[1 / bx, 0, -x / bx], [0, 1 / by, -y / by], [0, 0, 1]])
    return view, (w // bx, h // by)
