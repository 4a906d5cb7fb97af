# SPDX-License-Identifier: Apache-2.0
"""Arrays to CompressedImage and PointCloud2."""

import array
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

_DATATYPES = {"<f4": PointField.FLOAT32, "<u4": PointField.UINT32}
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)  # labels are flat: higher levels take longer for little
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95)  # image_transport's default


def fill_png(message: Any, labels: NDArray[np.uint8]) -> Any:
    """Write a label image (H, W) into a CompressedImage, lossless; returns it."""
    return _fill(message, "mono8; png compressed ", ".png", labels, _PNG)


def fill_jpeg(message: Any, rgb: NDArray[np.uint8]) -> Any:
    """Write a picture (H, W, 3) into a CompressedImage; returns it."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return _fill(message, "rgb8; jpeg compressed bgr8", ".jpg", bgr, _JPEG)


def _fill(message: Any, form: str, suffix: str, pixels: Any, options: tuple[int, int]) -> Any:
    """`form` is written as image_transport writes it."""
    message.format = form
    message.data = _bytes(cv2.imencode(suffix, pixels, options)[1])
    return message


def cloud_message(header: Header, points: NDArray[np.void]) -> PointCloud2:
    """The PointCloud2 of structured points (height, width) without padding."""
    fields = [
        PointField(name=name, offset=offset, datatype=_DATATYPES[kind.str], count=1)
        for name, (kind, offset, *_) in (points.dtype.fields or {}).items()
    ]
    flat = np.ascontiguousarray(points).reshape(-1)
    cloud: PointCloud2 = _maker()(header, fields, flat)
    # sensor_msgs_py takes the axes of an organised cloud for (width, height)
    cloud.height, cloud.width = points.shape
    cloud.row_step = cloud.width * cloud.point_step
    return cloud


@cache
def _maker() -> Callable[[Header, list[PointField], NDArray[np.void]], PointCloud2]:
    """sensor_msgs_py's `create_cloud`; where it is not installed, one that makes the same."""
    try:
        from sensor_msgs_py.point_cloud2 import create_cloud
    except ImportError:
        return own_cloud
    return create_cloud


def own_cloud(header: Header, fields: list[PointField], points: NDArray[np.void]) -> PointCloud2:
    """What sensor_msgs_py's `create_cloud` makes of structured points (N,)."""
    step = points.dtype.itemsize
    cloud = PointCloud2(
        header=header, height=1, width=len(points), is_dense=False, fields=fields, point_step=step,
        is_bigendian=sys.byteorder != "little", row_step=step * len(points),
    )  # fmt: skip
    cloud.data = _bytes(points)
    return cloud


def _bytes(values: NDArray[Any]) -> "array.array[int]":
    """The bytes of a contiguous array; any other type makes the setter check every byte."""
    data = array.array("B")
    data.frombytes(values.reshape(-1).view(np.uint8).data)
    return data
