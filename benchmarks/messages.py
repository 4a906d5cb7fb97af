# SPDX-License-Identifier: Apache-2.0
"""ROS messages of arrays."""

from array import array

import numpy as np
from numpy.typing import NDArray
from scenes import intrinsics
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header

from mmsam_ros.ros.messages import fill_image


def image(pixels: NDArray[np.generic], encoding: str, frame: str) -> Image:
    """An Image of uint8 or uint16 pixels."""
    rows = pixels.view(np.uint8).reshape(pixels.shape[0], -1)
    message = fill_image(Image(header=Header(frame_id=frame)), rows, encoding)
    message.width = pixels.shape[1]
    return message


def cloud(points: NDArray[np.float32]) -> PointCloud2:
    """A PointCloud2 of points (N, 4)."""
    message = PointCloud2(header=Header(frame_id="lidar"), height=1, width=len(points))
    names = enumerate(("x", "y", "z", "intensity"))
    message.fields = [PointField(name=n, offset=4 * i, datatype=7, count=1) for i, n in names]
    message.point_step, message.row_step = 16, points.nbytes
    message.data = array("B", points.tobytes())
    return message


def camera_info(width: int, height: int) -> CameraInfo:
    """Of a camera without distortion."""
    k = intrinsics(width, height)
    message = CameraInfo(header=Header(frame_id="camera"), width=width, height=height)
    message.distortion_model, message.d, message.k = "plumb_bob", [0.0] * 5, k
    message.r = np.eye(3).ravel().tolist()
    message.p = [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0]
    return message
