# SPDX-License-Identifier: Apache-2.0
"""What the fields of a sensor_msgs/CameraInfo mean, and where they contradict each other.

Spelling is taken leniently: names of other tools, OpenCV's longer lists of coefficients, an R of
zeros. Contradictions are refused: a matrix for another image size gives masks that look valid.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mmsam_ros.sensors.errors import SensorError
from mmsam_ros.sensors.matrices import Array, check_intrinsics, finite_array

# Names of distortion models, as lower-case letters and digits alone -> the model.
_PLUMB_BOB = ("plumbbob", "radtan", "radialtangential", "brownconrady", "opencv")
_RATIONAL = ("rationalpolynomial", "rational")
_EQUIDISTANT = (
    "equidistant", "equi", "fisheye", "opencvfisheye", "kannalabrandt", "kannalabrandt4"
)  # fmt: skip
_PINHOLE = (
    "", "none", "pinhole", "perspective", "rectilinear", "rectified", "undistorted", "nodistortion",
    "unknown", "inversebrownconrady", "modifiedbrownconrady",
)  # fmt: skip
_MODELS = {name: model for names, model in ((_PLUMB_BOB, "plumb_bob"), (_PINHOLE, "none"),
           (_RATIONAL, "rational_polynomial"), (_EQUIDISTANT, "equidistant"))
           for name in names}  # fmt: skip
# k1 k2 p1 p2, k3, k4..k6, thin prism s1..s4, tilt of the sensor
_OPENCV_LENGTHS = (4, 5, 8, 12, 14)
_AGREE = 0.05  # by how much K and P may differ where both describe the same image
_SCALED = 0.1  # P = s K with s further from 1 than this is one for another image size
_CORNER = 0.1  # a principal point in the outer tenth of both sides is that of another size
_TURNED = 0.001  # radians by which R must turn to matter: a pixel at a focal length of 1000
_OFF_CENTRE = 0.08  # share of a side; further off, it may be the centre of another image
_CENTRED, _CROPPED, _LIKE = 0.01, 0.04, 0.015  # shares of a side; of the ratio of the sides
_SHAPES = (1.25, 4 / 3, 1.5, 1.6, 16 / 9)  # ratios of sides that images often have
_USUAL = 1.85  # ratio of an image's sides; wider ones are cut, with the principal point where it is
_VIEW = (3.0, 170.0)  # degrees; a narrower or wider view has no focal length in pixels
_SQUARE, _SHEAR = 2.1, 0.1  # how far fx and fy may differ (every second line read); skew by fx
_BASELINE = (0.001, 10.0)  # metres between two cameras; others are a P in another unit
_WHICH = (
    "correct the calibration, or say by the parameter <camera>.image which is right: raw (k) or "
    "rectified (p)"
)


def check_size(name: str, width: object, height: object) -> None:
    """Raise SensorError unless both are whole numbers of pixels, and at least one."""
    for side, value in (("width", width), ("height", height)):
        if not isinstance(value, (int, np.integer)) or value < 1:
            found = f"{name}.{side} is {value!r}"
            raise SensorError(f"{found}, expected a whole number of at least 1 pixel")


def lens(model: str, d: Array) -> tuple[str, Array]:
    """The distortion that a CameraInfo's distortion_model and d mean, as `CameraModel` has it.

    `plumb_bob` and `rational_polynomial` may have 0, 4, 5, 8, 12 or 14 coefficients in OpenCV's
    order, `equidistant` 4; further zeros do not matter, and only zeros or no values mean "none" (an
    equidistant lens stays one). Other names for these models are known. SensorError for another
    model, for another length and for a tilted sensor (the last two of 14).
    """
    if not np.isfinite(d).all():
        raise SensorError(f"CameraInfo.d is {d.tolist()}, expected finite values")
    found = _MODELS.get("".join(filter(str.isalnum, model.lower())))
    if found is None or (found == "none" and d.any()):
        known = "plumb_bob, rational_polynomial, equidistant"
        nonzero = np.count_nonzero(d)
        raise SensorError(
            f"CameraInfo.distortion_model is {model!r}, expected one of {known} (or none, if d is "
            f"empty or zero; {nonzero} of its {d.size} values are not)"
        )
    if found == "equidistant":
        if not d.any():
            return found, np.zeros(4)
        if d.size < 4 or d[4:].any():
            raise SensorError(f"CameraInfo.d has {d.size} values for {model!r}, expected 4")
        return found, d[:4]
    if not d.any():
        return "none", np.zeros(0)
    if d.size not in _OPENCV_LENGTHS:
        expected = ", ".join(map(str, _OPENCV_LENGTHS))
        raise SensorError(
            f"CameraInfo.d has {d.size} values for {model!r}, expected one of {expected}"
        )
    if d[12:].any():
        raise SensorError(
            f"CameraInfo.d ends with {d[12:].tolist()}, a tilted sensor, expected zeros; calibrate "
            "without tilt, or publish the rectified image and set its image parameter to rectified"
        )
    needed = int(np.flatnonzero(d)[-1]) + 1
    size = next(length for length in _OPENCV_LENGTHS if length >= needed)
    return ("plumb_bob" if size <= 5 else "rational_polynomial"), d[:size]


class Taken(NamedTuple):
    """How a CameraInfo is taken."""

    rectified: bool  # p describes the image, else k and d
    distortion: str  # of the image: "none" for a rectified one
    d: Array
    straight: bool  # d has no distortion in it: the raw image may be the rectified one


def decide(rectified: bool | None, model: str, d: Array, p: Array) -> Taken:
    """Whether the image is rectified, where nobody has said so, and its distortion.

    A rectified image may come of any lens, so that the model is not looked at then.
    """
    if rectified:
        return Taken(True, "none", np.zeros(0), not d.any())
    distortion, used = lens(model, d)
    straight = distortion == "none"
    if rectified is None and straight and p[0, 0] != 0:
        return Taken(True, "none", np.zeros(0), straight)
    return Taken(False, distortion, used, straight)


def check_matrices(
    k: Array, p: Array, r: Array, size: tuple[int, int], taken: Taken, decided: bool
) -> None:
    """SensorError where k (3, 3), p (3, 4) and r (3, 3) cannot be those of an image of this size
    (width, height). decided: somebody has said whether the image is rectified; the other matrix is
    of no interest then.
    """
    used, other = (p[:, :3], k) if taken.rectified else (k, p[:, :3])
    names = ("p", "k") if taken.rectified else ("k", "p")
    check_intrinsics(f"CameraInfo.{names[0]}", used)
    if taken.rectified:
        finite_array("CameraInfo.p", p, (3, 4))
    check_view(f"CameraInfo.{names[0]}", used, size)
    if not np.isfinite(other).all() or min(other[0, 0], other[1, 1]) <= 0:
        return  # not filled in
    if not decided:
        try:
            check_view(f"CameraInfo.{names[1]}", other, size)
        except SensorError as error:
            raise SensorError(f"{error}; {_WHICH}") from error
    ours, theirs = _numbers(used), _numbers(other)
    found = (
        f"CameraInfo.{names[0]} has fx, fy, cx, cy {_text(ours)}, CameraInfo.{names[1]} has "
        f"{_text(theirs)}"
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = ours / theirs
    scale = float(ratios.mean())
    of_another_size = np.ptp(ratios) < _AGREE * scale and abs(scale - 1) > _SCALED
    if of_another_size and (taken.rectified or not decided):
        raise SensorError(
            f"{found}: the one is {scale:.3g} times the other, expected both for an image of "
            f"{size[0]}x{size[1]} pixels; publish the CameraInfo of this image"
        )
    same = not decided and taken.straight and np.allclose(r, np.eye(3), atol=_TURNED)
    apart = np.abs(ours - theirs) / (*ours[:2], *size)
    if same and (apart > _AGREE).any():
        raise SensorError(
            f"{found}; with d zero and r the identity both describe one image, expected the same "
            f"values; {_WHICH}"
        )


def check_view(name: str, matrix: ArrayLike, size: tuple[int, int]) -> None:
    """SensorError where a (3, 3) matrix cannot be that of an image (width, height): its principal
    point is outside or near a corner, the view is narrower or wider than those of lenses, pixels
    are far from square or sheared.
    """
    (fx, skew, x), (shear, fy, y) = np.asarray(matrix, np.float64)[:2]
    image = f"{size[0]}x{size[1]} pixels"
    share = np.array([x, y]) / size
    cornered = (np.abs(share - 0.5) > 0.5 - _CORNER).all() and np.ptp(share) < _CORNER
    if not ((share >= 0) & (share <= 1)).all() or cornered:
        raise SensorError(
            f"{name} has its principal point at {x:g}, {y:g}, expected one within the image of "
            f"{image}; it is the calibration of another image size"
        )
    view = np.degrees(2 * np.arctan(max(size[0] / fx, size[1] / fy) / 2))
    if not _VIEW[0] <= view <= _VIEW[1]:
        raise SensorError(
            f"{name} has focal lengths of {fx:g} and {fy:g}, with {image} a view of {view:.3g} "
            f"degrees, expected {_VIEW[0]:g} to {_VIEW[1]:g}; focal lengths are in pixels"
        )
    if max(fx / fy, fy / fx) > _SQUARE or max(abs(skew), abs(shear)) > _SHEAR * min(fx, fy):
        raise SensorError(
            f"{name} has focal lengths of {fx:g} and {fy:g} and a skew of {skew or shear:g}, "
            "expected nearly square pixels without skew; correct the calibration"
        )


def _numbers(matrix: Array) -> Array:
    """fx, fy, cx, cy."""
    return np.array([matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]])


def _text(values: Array) -> str:
    return " ".join(f"{value:.6g}" for value in values)


def doubts(
    *, width: int, height: int, k: Array, r: Array, p: Array, taken: Taken, settled: bool,
    parameter: str,
) -> list[str]:  # fmt: skip
    """What in a usable CameraInfo may be meant otherwise than it is taken, with what to set.

    A rotation R, or a fourth column of P, moves points from the raw camera (the first one of a
    stereo pair) into the rectified one. Recordings exist whose poses lead into the rectified camera
    already; their CameraInfo looks the same. settled: somebody has said that they do, or that the
    image is raw. parameter: where that can be said, in words.
    """
    R, P = np.reshape(r, (3, 3)), np.reshape(p, (3, 4))
    found = []
    # of sine and cosine, so that both small angles and half a turn are exact
    turn = np.arctan2(np.linalg.norm(R - R.T) / 8**0.5, (np.trace(R) - 1) / 2) if R.any() else 0.0
    marks = [f"r turns by {np.degrees(turn):.3g} degrees"] if turn > _TURNED else []
    if P[:, 3].any() and np.isfinite(P).all():
        marks.append(f"p has the fourth column {_text(P[:, 3])}")
        baseline = float(np.abs(P[:2, 3]).max() / max(P[0, 0], 1.0))
        if baseline and not _BASELINE[0] <= baseline <= _BASELINE[1]:
            found.append(
                f"{marks.pop()}, a baseline of {baseline:.2g} m, expected -fx times the baseline "
                "in metres; correct the calibration"
            )
    if marks and not settled:
        used = "p with r and its fourth column" if taken.rectified else "the raw image's k and d"
        other = "" if taken.rectified else ", or to raw if the image has the distortion d"
        found.append(
            f"{' and '.join(marks)}; used is {used}. If the image is rectified and TF or the "
            "extrinsics lead into the rectified camera itself (KITTI, right camera of a ZED), set "
            f"{parameter} to rectified_frame{other}"
        )
    if taken.distortion == "equidistant" and not taken.d.any() and not settled:
        found.append(
            "d has no coefficients of its equidistant lens; used is k with an ideal fisheye lens. "
            f"Set {parameter} to rectified if the image is, to raw if the lens is meant"
        )
    matrix = P if taken.rectified else np.reshape(k, (3, 3))
    return found + centre_doubts(matrix, (width, height))


def centre_doubts(matrix: Array, size: tuple[int, int]) -> list[str]:
    """Whether the principal point of a camera matrix, for an image (width, height), is the centre
    of another image: a scaled one of the same shape or one of usual shape; with one side in the
    middle, also a common shape that a smaller crop was made of.
    """
    x, y = matrix[:2, 2]
    ratio, shares = x / max(y, 1.0), (x / size[0], y / size[1])
    near, far = sorted(abs(share - 0.5) for share in shares)
    if far > _OFF_CENTRE:
        other = abs(shares[0] - shares[1]) < _AGREE or 1 / _USUAL < ratio < _USUAL
    else:
        common = min(abs(ratio / shape - 1) for shape in _SHAPES) < _LIKE
        other = near < _CENTRED and far > _CROPPED and common
    text = (
        f"the principal point is at {shares[0]:.0%}, {shares[1]:.0%} of {size[0]}x{size[1]} "
        f"pixels, the centre of an image of {2 * x:.0f}x{2 * y:.0f}: correct the calibration if it "
        "is for another image size or crop"
    )
    return [text] if other else []


def published_view(
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
