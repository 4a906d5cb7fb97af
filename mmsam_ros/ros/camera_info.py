# SPDX-License-Identifier: Apache-2.0
"""Camera models from CameraInfo messages or from parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmsam_ros.ros.errors import RosError
from mmsam_ros.sensors import CameraModel, SensorError


def camera_model(message: Any, rectified: bool | None) -> CameraModel:
    """A sensor_msgs/CameraInfo as a camera model.

    Raises:
        RosError: zero K, wrong lengths and the like (reason "camera_info").
    """
    roi = message.roi
    try:
        return CameraModel.from_info(
            width=int(message.width),
            height=int(message.height),
            k=message.k,
            d=message.d,
            distortion_model=str(message.distortion_model),
            r=message.r,
            p=message.p,
            binning_x=int(message.binning_x),
            binning_y=int(message.binning_y),
            roi=(roi.x_offset, roi.y_offset, roi.width, roi.height),
            rectified=rectified,
        )
    except SensorError as error:
        raise RosError(f"camera_info: {error}", "camera_info") from error


def camera_model_from_parameters(
    values: Mapping[str, Any], name: str, rectified: bool | None
) -> CameraModel:
    """The camera model of the parameters `<name>.info.*`.

    Raises:
        RosError: a value is missing or wrong; names the parameter.
    """
    try:
        return CameraModel.from_info(
            width=values["width"],
            height=values["height"],
            k=values["k"],
            d=values["d"],
            distortion_model=values["distortion_model"],
            r=values["r"] or np.eye(3).ravel().tolist(),
            p=values["p"] or np.zeros(12).tolist(),
            binning_x=0,
            binning_y=0,
            roi=(0, 0, 0, 0),
            rectified=rectified,
        )
    except SensorError as error:
        raise RosError(f"parameter {name}.info: {error}") from error
