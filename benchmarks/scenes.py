# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks feed: coarse noise, enlarged so that all images have edges, and points."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors import CameraModel, Frame, LidarPoints, Registration, SensorImage

# LiDAR frame (x forward) to the camera's optical frame (z forward)
T_CAMERA_LIDAR = np.array([[0, -1, 0, 0], [0, 0, -1, 0.2], [1, 0, 0, 0], [0, 0, 0, 1.0]])
POINTS, THERMAL = 100_000, (512, 640)


@dataclass(frozen=True, eq=False)
class Scene:
    """What three sensors measure at once."""

    rgb: NDArray[np.uint8]  # (H, W, 3)
    points: NDArray[np.float32]  # (N, 4): x, y, z, intensity in the LiDAR's frame
    thermal: NDArray[np.uint16]  # counts

    @classmethod
    def of(cls, height: int, width: int, points: int = POINTS) -> "Scene":
        """A camera image of this size, always the same."""
        rng = np.random.default_rng(0)
        low, high = (-60, -40, -2, 0), (60, 40, 4, 100)
        return cls(
            blocks(rng, (height, width, 3), 240).astype(np.uint8),
            rng.uniform(low, high, (points, 4)).astype(np.float32),
            (26_000 + blocks(rng, THERMAL, 5_000)).astype(np.uint16),
        )

    def frame(self) -> Frame:
        """All of it as the node has it; the thermal image is stretched over the camera's view."""
        height, width = self.rgb.shape[:2]
        camera = CameraModel.from_info(
            width=width, height=height, k=intrinsics(width, height), d=[0.0] * 5,
            distortion_model="plumb_bob",
        )  # fmt: skip
        xyz, intensity = self.points[:, :3], self.points[:, 3]
        sensors: dict[str, LidarPoints | SensorImage] = {
            "lidar": LidarPoints(np.ascontiguousarray(xyz), intensity.copy(), T_CAMERA_LIDAR),
            "thermal": SensorImage(
                self.thermal, Registration.from_homography(stretch(height, width))
            ),
        }
        return Frame(self.rgb, sensors, camera)


def blocks(rng: np.random.Generator, shape: tuple[int, ...], high: int) -> NDArray[Any]:
    """Integers below 1.1 `high`: noise on a grid of 16 pixels, and a little on every pixel."""
    height, width = shape[:2]
    coarse = rng.integers(0, high, (-(-height // 16), -(-width // 16), *shape[2:]))
    enlarged = coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    return enlarged + rng.integers(0, max(1, high // 16), shape)


def intrinsics(width: int, height: int) -> list[float]:
    """K of a pinhole camera, row by row."""
    return [0.7 * width, 0.0, width / 2, 0.0, 0.7 * width, height / 2, 0.0, 0.0, 1.0]


def stretch(height: int, width: int) -> NDArray[np.float64]:
    """Homography of thermal pixels to those of a camera image with the same view."""
    return np.diag([width / THERMAL[1], height / THERMAL[0], 1.0])
