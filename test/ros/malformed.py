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
]
