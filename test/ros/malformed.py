# SPDX-License-Identifier: Apache-2.0
"""Distinct ways in which a message can be wrong, and the reason under which it is refused."""

from __future__ import annotations

import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sensor_msgs.msg import PointField


@dataclass(frozen=True)
class Case:
    """`spoil` makes a good message of the stream wrong, in place, and returns it."""

    name: str
    stream: str
    reason: str
    spoil: Callable[[Any], Any]


def _set(**values: Any) -> Callable[[Any], Any]:
    def spoil(message: Any) -> Any:
        for name, value in values.items():
            setattr(message, name, value)
        return message

    return spoil


def _cut(count: int) -> Callable[[Any], Any]:
    """Bytes off the end of the data (negative: zero bytes added)."""

    def spoil(message: Any) -> Any:
        if count < 0:
            message.data = array.array("B", bytes(message.data) + bytes(-count))
        else:
            message.data = message.data[: len(message.data) - count]
        return message

    return spoil


def _fields(change: Callable[[list[PointField]], list[PointField]]) -> Callable[[Any], Any]:
    def spoil(message: Any) -> Any:
        message.fields = change(list(message.fields))
        return message

    return spoil


def _with(field: PointField, **values: Any) -> PointField:
    for name, value in values.items():
        setattr(field, name, value)
    return field


def _constant(message: Any) -> Any:
    message.data = array.array("B", bytes([0, 110]) * (len(message.data) // 2))
    return message


def _behind(message: Any) -> Any:
    """As under a pose that looks the other way."""
    points = np.frombuffer(message.data, np.float32).reshape(-1, 4) * (-1, 1, 1, 1)
    message.data = array.array("B", points.astype(np.float32).tobytes())
    return message


def _fill(value: float, column: int | None = None) -> Callable[[Any], Any]:
    """Points (N, 4) of one value, in all columns or in one."""

    def spoil(message: Any) -> Any:
        points = np.frombuffer(message.data, np.float32).reshape(-1, 4).copy()
        points[:, slice(None) if column is None else column] = value
        message.data = array.array("B", points.tobytes())
        return message

    return spoil


def _points(**values: Any) -> Callable[[Any], Any]:
    """Values of the cloud after all of its fields are changed in the same way."""

    def spoil(message: Any) -> Any:
        for name, value in values.items():
            for field in message.fields:
                setattr(field, name, value)
        return message

    return spoil


def _flags(change: Callable[[bytes], bytes]) -> Callable[[Any], Any]:
    """The data of a message, changed."""

    def spoil(message: Any) -> Any:
        message.data = array.array("B", change(bytes(message.data)))
        return message

    return spoil


def _header(**values: Any) -> Callable[[Any], Any]:
    def spoil(message: Any) -> Any:
        for name, value in values.items():
            setattr(message.header, name, value)
        return message

    return spoil


def _matrix(name: str, place: int, value: float) -> Callable[[Any], Any]:
    """One value of a calibration."""

    def spoil(message: Any) -> Any:
        getattr(message, name)[place] = value
        return message

    return spoil


EMPTY = array.array("B")
CASES = [
    Case("camera_unknown_encoding", "camera", "encoding", _set(encoding="yuv999")),
    Case("camera_empty_encoding", "camera", "encoding", _set(encoding="")),
    Case("camera_depth_encoding", "camera", "encoding", _set(encoding="16UC1")),
    Case("camera_zero_height", "camera", "size", _set(height=0, data=EMPTY)),
    Case("camera_zero_width", "camera", "size", _set(width=0)),
    Case("camera_huge_height", "camera", "size", _set(height=2**32 - 1)),
    Case("camera_huge_width", "camera", "size", _set(width=2**31)),
    Case("camera_step_too_small", "camera", "step", _set(step=100)),
    Case("camera_step_zero", "camera", "step", _set(step=0)),
    Case("camera_step_too_large", "camera", "data_length", _set(step=4000)),
    Case("camera_more_channels", "camera", "step", _set(encoding="rgba8")),
    Case("camera_short_data", "camera", "data_length", _cut(1)),
    Case("camera_long_data", "camera", "data_length", _cut(-7)),
    Case("camera_no_data", "camera", "data_length", _set(data=EMPTY)),
    Case("thermal_mosaic", "thermal", "encoding", _set(encoding="bayer_rggb8")),
    Case("thermal_raster", "thermal", "encoding", _set(encoding="32FC3")),
    Case("thermal_8_bit_for_16_bit_weights", "thermal", "weights", _set(encoding="mono8")),
    Case("thermal_odd_step", "thermal", "step", _set(step=641)),
    Case("thermal_short_data", "thermal", "data_length", _cut(2)),
    Case("thermal_of_one_value", "thermal", "blank", _constant),
    Case("cloud_out_of_view", "lidar", "blank", _behind),
    Case("cloud_without_fields", "lidar", "fields", _set(fields=[])),
    Case("cloud_without_z", "lidar", "fields", _fields(lambda f: [f[0], f[1], f[3]])),
    Case(
        "cloud_unknown_datatype",
        "lidar",
        "fields",
        _fields(lambda f: [_with(f[0], datatype=77), *f[1:]]),
    ),
    Case(
        "cloud_field_outside_the_point",
        "lidar",
        "fields",
        _fields(lambda f: [_with(f[0], offset=14), *f[1:]]),
    ),
    Case("cloud_point_step_zero", "lidar", "fields", _set(point_step=0)),
    Case("cloud_field_twice", "lidar", "fields", _fields(lambda f: [*f, f[0]])),
    Case(
        "cloud_field_of_three", "lidar", "fields", _fields(lambda f: [_with(f[0], count=3), *f[1:]])
    ),
    Case(
        "cloud_fields_overlap",
        "lidar",
        "fields",
        _fields(lambda f: [_with(f[0], offset=2), *f[1:]]),
    ),
    Case("cloud_of_nan", "lidar", "no_returns", _fill(np.nan)),
    Case("cloud_of_zeros", "lidar", "no_returns", _fill(0.0)),
    Case("cloud_without_intensities", "lidar", "no_intensity", _fill(np.nan, column=3)),
    Case("cloud_short_data", "lidar", "data_length", _cut(5)),
    Case("cloud_point_step_huge", "lidar", "step", _set(point_step=2**32 - 1)),
    Case("cloud_too_many_points", "lidar", "step", _set(width=2**31)),
    Case("camera_float_encoding", "camera", "encoding", _set(encoding="32FC1")),
    Case("camera_encoding_of_many_letters", "camera", "encoding", _set(encoding="x" * 5000)),
    Case("camera_encoding_with_line_feeds", "camera", "encoding", _set(encoding="a\nb\x1b[31m")),
    Case("camera_more_bits", "camera", "step", _set(encoding="rgb16")),
    Case("camera_one_row_more", "camera", "data_length", lambda m: _set(height=m.height + 1)(m)),
    Case("camera_one_row_less", "camera", "data_length", lambda m: _set(height=m.height - 1)(m)),
    Case("camera_one_column_more", "camera", "step", lambda m: _set(width=m.width + 1)(m)),
    Case("camera_sides_huge", "camera", "size", _set(height=16384, width=16384)),
    Case("camera_step_huge", "camera", "data_length", _set(step=2**32 - 1)),
    Case("camera_planes_without_chroma", "camera", "data_length", _set(encoding="nv12")),
    Case("camera_planes_of_odd_height", "camera", "size", _set(encoding="nv21", height=95)),
    Case("camera_chroma_of_odd_width", "camera", "size", _set(encoding="yuv422", width=95)),
    Case("thermal_unknown_encoding", "thermal", "encoding", _set(encoding="14UC1")),
    Case("thermal_zero_size", "thermal", "size", _set(height=0, width=0, data=EMPTY)),
    Case("thermal_long_data", "thermal", "data_length", _cut(-2)),
    Case("thermal_no_data", "thermal", "data_length", _set(data=EMPTY)),
    Case("thermal_huge_height", "thermal", "size", _set(height=2**32 - 1)),
    Case("thermal_step_huge", "thermal", "data_length", _set(step=2**32 - 2)),
    Case("cloud_without_x", "lidar", "fields", _fields(lambda f: f[1:])),
    Case("cloud_without_intensity", "lidar", "intensity", _fields(lambda f: f[:3])),
    Case("cloud_names_in_capitals", "lidar", "fields",
         _fields(lambda f: [_with(p, name=p.name.upper()) for p in f])),
    Case("cloud_datatype_zero", "lidar", "fields", _points(datatype=0)),
    Case("cloud_fields_at_one_place", "lidar", "fields", _points(offset=0)),
    Case("cloud_offset_huge", "lidar", "fields", _points(offset=2**32 - 1)),
    Case("cloud_values_huge", "lidar", "fields", _points(count=2**32 - 1)),
    Case("cloud_long_data", "lidar", "data_length", _cut(-3)),
    Case("cloud_no_data", "lidar", "data_length", _set(data=EMPTY)),
    Case("cloud_height_huge", "lidar", "data_length", _set(height=2**32 - 1)),
    Case("cloud_two_rows_of_one", "lidar", "data_length", _set(height=2)),
    Case("cloud_of_infinity", "lidar", "no_returns", _fill(np.inf)),
    Case("cloud_of_huge_numbers", "lidar", "no_returns", _fill(3e38)),
    Case("cloud_of_huge_intensities", "lidar", "no_intensity", _fill(1e12, column=3)),
]  # fmt: skip
"""Of an Image of the camera or the thermal camera, or of a PointCloud2."""

COMPRESSED = [
    Case("png_no_data", "camera", "compressed", _set(data=EMPTY)),
    Case("png_cut_off", "camera", "compressed", _flags(lambda d: d[: len(d) // 2])),
    Case("png_only_a_beginning", "camera", "compressed", _flags(lambda d: d[:8])),
    Case("png_of_huge_size", "camera", "size",
         _flags(lambda d: d[:16] + (60000).to_bytes(4, "big") * 2 + d[24:])),
    Case("png_of_no_size", "camera", "size", _flags(lambda d: d[:16] + bytes(8) + d[24:])),
    Case("png_of_another_size", "camera", "compressed",
         _flags(lambda d: d[:16] + bytes([0, 0, 0, 7]) + d[20:])),
    Case("png_one_byte_wrong", "camera", "compressed",
         _flags(lambda d: d[:60] + bytes([d[60] ^ 255]) + d[61:])),
    Case("png_that_is_text", "camera", "compressed", _flags(lambda d: b"hello" * 100)),
    Case("png_that_is_bmp", "camera", "compressed", _flags(lambda d: b"BM" + d)),
    Case("png_that_is_video", "camera", "compressed",
         lambda m: _set(format="h264", data=array.array("B", bytes([0, 0, 0, 1, 103] * 50)))(m)),
    Case("png_that_is_depth", "camera", "compressed", _set(format="16UC1; compressedDepth png")),
    Case("png_of_zeros", "camera", "compressed", _flags(lambda d: bytes(len(d)))),
]  # fmt: skip
"""Of a CompressedImage of the camera, as PNG."""

INFOS = [
    Case("info_of_zeros", "lidar", "camera_info", _set(k=[0.0] * 9, p=[0.0] * 12)),
    Case("info_of_no_size", "lidar", "camera_info", _set(width=0, height=0)),
    Case("info_of_another_size", "lidar", "camera_info", _set(width=640, height=480)),
    Case("info_of_huge_size", "lidar", "camera_info", _set(width=2**32 - 1, height=2**32 - 1)),
    Case("info_unknown_lens", "lidar", "camera_info",
         _set(distortion_model="double_sphere", d=[0.1, 0.2, 0.3, 0.4])),
    Case("info_nan_coefficient", "lidar", "camera_info", _set(d=[float("nan")] * 5)),
    Case("info_three_coefficients", "lidar", "camera_info", _set(d=[0.1, 0.2, 0.3])),
    Case("info_many_coefficients", "lidar", "camera_info", _set(d=[0.0] * 100000)),
    Case("info_infinite_focal_length", "lidar", "camera_info", _matrix("p", 0, float("inf"))),
    Case("info_negative_focal_length", "lidar", "camera_info", _matrix("p", 0, -50.0)),
    Case("info_principal_point_outside", "lidar", "camera_info", _matrix("p", 2, 5000.0)),
    Case("info_roi_outside", "lidar", "camera_info",
         lambda m: _set(roi=type(m.roi)(x_offset=50, y_offset=0, width=96, height=96))(m)),
    Case("info_binning_huge", "lidar", "camera_info", _set(binning_x=2**32 - 1)),
]  # fmt: skip
"""Of the camera's CameraInfo, whose defects cost the points."""

HEADERS = [
    Case("camera_frame_of_many_letters", "camera", "", _header(frame_id="x" * 5000)),
    Case("camera_frame_that_is_a_path", "camera", "", _header(frame_id="../../etc/passwd")),
    Case("camera_frame_with_line_feeds", "camera", "", _header(frame_id="a\nb\x1b[31m")),
    Case("thermal_without_frame", "thermal", "", _header(frame_id="")),
    Case("cloud_frame_of_format_words", "lidar", "", _header(frame_id="{0} %s $(id) `id`")),
]
"""Odd headers of good messages, which are used: poses come from a parameter here."""
