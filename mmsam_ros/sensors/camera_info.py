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

# Names of distortion models, in lower case with "_" for other signs -> the model.
_PLUMB_BOB = ("plumb_bob", "plumbbob", "radtan", "radial_tangential", "brown_conrady")
_RATIONAL = ("rational_polynomial", "rational")
_EQUIDISTANT = ("equidistant", "equi", "fisheye", "kannala_brandt", "kannala_brandt4")
_PINHOLE = ("", "none", "pinhole", "inverse_brown_conrady", "modified_brown_conrady")
_MODELS = {name: model for names, model in ((_PLUMB_BOB, "plumb_bob"), (_PINHOLE, "none"),
           (_RATIONAL, "rational_polynomial"), (_EQUIDISTANT, "equidistant"))
           for name in names}  # fmt: skip
_OPENCV_LENGTHS = (
    4,
    5,
    8,
    12,
    14,
)  # k1 k2 p1 p2, k3, k4..k6, thin prism s1..s4, tilt of the sensor
_AGREE = 0.05  # by how much K and P may differ where both describe the same image
_SCALED = 0.1  # P = s K with s further from 1 than this is one for another image size
_CORNER = 0.1  # a principal point in the outer tenth of both sides is that of another size
_TURNED = 0.001  # radians by which R must turn to matter: a pixel at a focal length of 1000
_OFF_CENTRE = 0.15  # share of the sides; both alike means a matrix for another size


def check_size(name: str, width: object, height: object) -> None:
    """Raise SensorError unless both are whole numbers of pixels, and at least one."""
    for side, value in (("width", width), ("height", height)):
        if not isinstance(value, (int, np.integer)) or value < 1:
            found = f"{name}.{side} is {value!r}"
            raise SensorError(f"{found}, expected a whole number of at least 1 pixel")


def lens(model: str, d: Array) -> tuple[str, Array]:
    """The distortion that a CameraInfo's distortion_model and d mean, as `CameraModel` has it.

    `plumb_bob` and `rational_polynomial` may have 0, 4, 5, 8, 12 or 14 coefficients in OpenCV's
    order, `equidistant` 4; further zeros do not matter, and only zeros mean "none" (an equidistant
    lens stays one). Other names for these models are known. SensorError for another model, for
    another length and for a tilted sensor (the last two of 14).
    """
    if not np.isfinite(d).all():
        raise SensorError(f"CameraInfo.d is {d.tolist()}, expected finite values")
    word = "_".join(model.lower().replace("-", " ").replace("_", " ").split())
    found = _MODELS.get(word)
    if found is None or (found == "none" and d.any()):
        known = "plumb_bob, rational_polynomial, equidistant"
        nonzero = np.count_nonzero(d)
        raise SensorError(
            f"CameraInfo.distortion_model is {model!r}, expected one of {known} (or none, if d is "
            f"empty or zero; {nonzero} of its {d.size} values are not)"
        )
    if found == "equidistant":
        if 0 < d.size < 4 or d[4:].any():
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
    straight = distortion == "none" or not used.size
    if rectified is None and straight and p[0, 0] != 0:
        return Taken(True, "none", np.zeros(0), straight)
    if distortion == "equidistant" and not used.size:
        raise SensorError(f"CameraInfo.d has 0 values for {model!r}, expected 4")
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
    check_principal_point(f"CameraInfo.{names[0]}", used, size)
    if not np.isfinite(other).all() or min(other[0, 0], other[1, 1]) <= 0:
        return  # not filled in
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
            "values; correct the calibration, or say by the parameter <camera>.image which is "
            "right: raw (k) or rectified (p)"
        )


def check_principal_point(name: str, matrix: ArrayLike, size: tuple[int, int]) -> None:
    """SensorError where the principal point of a (3, 3) matrix is out of the image (width, height),
    or so near to its corner that the matrix is one for an image of another size.
    """
    centre = np.asarray(matrix, np.float64)[:2, 2]
    share = centre / size
    cornered = (np.abs(share - 0.5) > 0.5 - _CORNER).all() and np.ptp(share) < _CORNER
    if not ((share >= 0) & (share <= 1)).all() or cornered:
        x, y = centre
        raise SensorError(
            f"{name} has its principal point at {x:g}, {y:g}, expected one within the image of "
            f"{size[0]}x{size[1]} pixels; it is the calibration of another image size"
        )


def _numbers(matrix: Array) -> Array:
    """fx, fy, cx, cy."""
    return np.array([matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]])


def _text(values: Array) -> str:
    return " ".join(f"{value:.6g}" for value in values)


def doubts(
    *, width: int, height: int, k: Array, r: Array, p: Array, taken: Taken, settled: bool
) -> list[str]:  # fmt: skip
    """What in a usable CameraInfo may be meant otherwise than it is taken, with what to set.

    A rotation R, or a fourth column of P, moves points from the raw camera (the first one of a
    stereo pair) into the rectified one. Recordings exist whose poses lead into the rectified camera
    already; their CameraInfo looks the same. settled: somebody has said that they do, or that the
    image is raw.
    """
    R, P = np.reshape(r, (3, 3)), np.reshape(p, (3, 4))
    found = []
    turn = float(np.linalg.norm(R - R.T)) / 8**0.5 if R.any() else 0.0  # its sine
    marks = [f"r turns by {np.degrees(turn):.2g} degrees"] if turn > _TURNED else []
    if P[:, 3].any():
        marks.append(f"p has the fourth column {_text(P[:, 3])}")
    if marks and not settled:
        used = "p with r and its fourth column" if taken.rectified else "the raw image's k and d"
        other = "" if taken.rectified else ", or to raw if the image has the distortion d"
        found.append(
            f"{' and '.join(marks)}; used is {used}. If the image is rectified and TF or the "
            "extrinsics lead into the rectified camera itself (KITTI, right camera of a ZED), set "
            f"the image parameter to rectified_frame{other}"
        )
    used_matrix = P if taken.rectified else np.reshape(k, (3, 3))
    x, y = used_matrix[:2, 2] / (width, height)
    if min(abs(x - 0.5), abs(y - 0.5)) > _OFF_CENTRE and abs(x - y) < _AGREE:
        found.append(
            f"the principal point is at {x:.0%}, {y:.0%} of {width}x{height} pixels: correct the "
            "calibration if it is for another image size"
        )
    return found


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
