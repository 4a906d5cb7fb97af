# SPDX-License-Identifier: Apache-2.0
"""Images of a second camera (thermal) in the colour camera's view.

Pixel coordinates are continuous: pixel i covers [i, i + 1), its centre is i + 0.5. A homography
found with OpenCV, whose pixel centres are integers, is S H S^-1 here, S the shift by (0.5, 0.5).
"""

from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmsam_ros.sensors.errors import SensorError
from mmsam_ros.sensors.matrices import Array, check_intrinsics, check_rotation, finite_array

Size = tuple[int, int]
HALF_PIXEL = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # OpenCV's pixel coordinates to ours


@dataclass(frozen=True, eq=False)
class Registration:
    """How a thermal image lies in the camera's view.

    homography: (3, 3), thermal pixel -> camera pixel at both images' published sizes, positive
    third row for what lies in front of the camera; None: both show the same view, whatever their
    sizes. SensorError where it is not a finite, invertible (3, 3) matrix.
    """

    homography: Array | None = None

    def __post_init__(self) -> None:
        if self.homography is not None:
            matrix = finite_array("homography", self.homography, (3, 3))
            if np.linalg.matrix_rank(matrix) < 3:
                raise SensorError(f"homography is {matrix.tolist()}, expected an invertible matrix")
            object.__setattr__(self, "homography", matrix)

    @classmethod
    def from_homography(cls, H: ArrayLike) -> Self:
        """From a homography thermal -> camera of any scale; H[2, 2] must not be zero."""
        matrix = finite_array("homography", H, (3, 3))
        if matrix[2, 2] == 0:
            raise SensorError(f"homography is {matrix.tolist()}, expected a non-zero H[2, 2]")
        return cls(matrix / matrix[2, 2])

    @classmethod
    def from_rotation(
        cls, K_camera: ArrayLike, R_camera_thermal: ArrayLike, K_thermal: ArrayLike
    ) -> Self:
        """From both intrinsics and the rotation camera <- thermal: K_camera R K_thermal^-1.

        Exact for points far away (the baseline's parallax is ignored) and undistorted lenses.
        """
        K_to = check_intrinsics("K_camera", K_camera)
        K_from = check_intrinsics("K_thermal", K_thermal)
        R = check_rotation("R_camera_thermal", R_camera_thermal)
        return cls(K_to @ R @ np.linalg.inv(K_from))


def register(
    image: NDArray[np.float32], registration: Registration, camera_size: Size, out_size: Size
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Resample a thermal image (h, w) float32 into the camera's view.

    camera_size: (H, W), the camera image's published size, in whose pixels the homography is.
    out_size: (H', W'), the whole camera view resized. Returns the image (H', W') float32, bilinear,
    and valid (H', W') bool: False, with value 0, where the thermal camera does not see. The
    border's value continues for half a pixel. SensorError for another shape, dtype or empty size.
    """
    if image.ndim != 2 or 0 in image.shape or image.dtype != np.float32:
        found = f"{image.dtype} {image.shape}"
        raise SensorError(f"image to register is {found}, expected float32 (h, w)")
    if min(*camera_size, *out_size) < 1:
        raise SensorError(f"sizes are {camera_size} and {out_size}, expected at least 1x1")
    if registration.homography is None:
        return resize(image, out_size), np.ones(out_size, bool)
    to_camera = np.diag([camera_size[1] / out_size[1], camera_size[0] / out_size[0], 1.0])
    from_out = np.linalg.inv(registration.homography) @ to_camera
    matrix = np.linalg.inv(HALF_PIXEL) @ from_out @ HALF_PIXEL

    def warp(source: NDArray[Any], flags: int, border: int) -> NDArray[Any]:
        flags |= cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpPerspective(source, matrix, out_size[::-1], None, flags, border))

    seen = np.ones(image.shape, np.uint8)
    valid = warp(seen, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT).astype(bool)
    rows, columns = np.ogrid[: out_size[0], : out_size[1]]
    # behind the thermal camera everything is mirrored
    valid &= matrix[2, 0] * columns + matrix[2, 1] * rows + matrix[2, 2] > 0
    out = warp(image, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
    return np.where(valid, out, np.float32(0)), valid


def resize(image: NDArray[Any], size: Size, interpolation: int = cv2.INTER_LINEAR) -> NDArray[Any]:
    """(h, w[, C]) to (*size[, C]): float32 without antialiasing; unchanged at its size."""
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image.astype(np.float32), size[::-1], interpolation=interpolation))
