# SPDX-License-Identifier: Apache-2.0
"""LiDAR points into an image: geometry (`project`) and the network's raster (`rasterise`)."""

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors.camera import CameraModel
from mmsam_ros.sensors.encodings import MAX_VALUE
from mmsam_ros.sensors.errors import SensorError
from mmsam_ros.sensors.matrices import Array, check_pose

MIN_RANGE = 1.0  # metres; nearer points are the vehicle's own
_MIN_DEPTH = 0.1  # metres
_EMPTY = np.finfo(np.float32).min  # less than any value; `cv2.dilate` pads with it as well


def project(
    points: NDArray[np.floating], camera: CameraModel, T: Array
) -> tuple[NDArray[np.int64], Array, Array, Array]:
    """Where points fall in the image: pure geometry.

    points: (N, >= 3), x, y, z in metres in the sensor's frame, further columns ignored.
    T: (4, 4), camera optical frame <- sensor frame. Kept are finite points deeper than 0.1 m with
    0 <= u < width and 0 <= v < height, within the distortion model's valid angle.
    Returns the kept rows' index (int64, ascending), u, v (pixels) and depth (m).
    SensorError for other shapes or a T that is not rigid.
    """
    pose = check_pose("T (camera <- sensor)", T)
    if points.ndim != 2 or points.shape[1] < 3:
        raise SensorError(f"points have shape {points.shape}, expected (N, 3) or more columns")
    with np.errstate(invalid="ignore", over="ignore"):  # garbage is dropped
        in_camera = pose[:3, :3] @ points[:, :3].astype(np.float64).T + pose[:3, 3:]
    u, v, depth, keep = camera.image_points(in_camera.T)
    keep &= (depth > _MIN_DEPTH) & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    index = np.flatnonzero(keep)
    return index, u[index], v[index], depth[index]


def rasterise(
    points: NDArray[np.floating], intensity: NDArray[np.generic], camera: CameraModel, T: Array,
    *, point_size: int = 2,
) -> NDArray[np.float32]:  # fmt: skip
    """The `muses_raw` raster: float32 (camera.height, camera.width, 3), empty pixels 0.

    Channels: range (m), intensity as it comes, and height z (m); range and height in the sensor's
    own frame. points: (N, >= 3); intensity: (N,); T: (4, 4) camera <- sensor.

    The rules are those of the MUSES tools, made well defined: points nearer to the sensor than
    1 m are dropped, a point belongs to pixel (floor u, floor v), and the point nearest to the
    camera wins a pixel whatever the order of the cloud (of equally near ones, each channel's
    maximum). Then every point covers point_size x point_size pixels to the right and down, with
    the maximum per channel among occupied pixels only, so that a negative height beats "empty".
    Points behind the camera (which the tools keep) and points with NaN, inf or beyond `MAX_VALUE`
    (intensity included) are dropped; an empty cloud gives zeros. SensorError for shapes that do
    not fit and a point_size below 1.
    """
    if point_size < 1:
        raise SensorError(f"point_size is {point_size}, expected at least 1 pixel")
    if intensity.shape != (len(points),):
        raise SensorError(f"intensity has shape {intensity.shape}, expected ({len(points)},)")
    index, u, v, depth = project(points, camera, T)
    x, y, z = (points[:, axis].take(index).astype(np.float64) for axis in range(3))
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.sqrt(x * x + y * y + z * z)
        values = np.array([distance, intensity.take(index), z]).astype(np.float32)
    use = np.flatnonzero((distance >= MIN_RANGE) & (np.abs(values) <= MAX_VALUE).all(axis=0))
    pixel = v.take(use).astype(np.int64) * camera.width + u.take(use).astype(np.int64)
    depth = depth.take(use)
    nearest = np.full(camera.height * camera.width, np.inf)
    np.minimum.at(nearest, pixel, depth)
    front = np.flatnonzero(depth == nearest[pixel])
    raster = np.full((nearest.size, len(values)), _EMPTY)
    for channel, value in enumerate(values):
        np.maximum.at(raster[:, channel], pixel[front], value[use[front]])
    canvas = raster.reshape(camera.height, camera.width, -1)
    # anchored at its last pixel, the kernel reaches up and left: points spread down and right
    kernel, last = np.ones((point_size, point_size), np.uint8), point_size - 1
    spread = np.asarray(cv2.dilate(canvas, kernel, anchor=(last, last)), np.float32)
    spread[spread == _EMPTY] = 0
    return spread
