# SPDX-License-Identifier: Apache-2.0
"""Camera models from CameraInfo messages: live, from a bag or from parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.sets import CAMERA
from mmsam_ros.sensors import CameraModel, SensorError


def camera_model(info: Any, rectified: bool | None, where: str = "camera_info") -> CameraModel:
    """The camera model of a sensor_msgs/CameraInfo.

    Args:
        info: the message, of rclpy or of rosbags.
        rectified: whether the image is rectified; None: decided from the message.
        where: the topic or parameter that it comes from, for messages.

    Raises:
        RosError: zero K, wrong lengths and the like (reason "camera_info").
    """
    roi = info.roi
    try:
        return CameraModel.from_info(
            width=int(info.width),
            height=int(info.height),
            k=info.k,
            d=info.d,
            distortion_model=str(info.distortion_model),
            r=info.r,
            p=info.p,
            binning_x=int(info.binning_x),
            binning_y=int(info.binning_y),
            roi=(roi.x_offset, roi.y_offset, roi.width, roi.height),
            rectified=rectified,
        )
    except SensorError as error:
        raise RosError(f"{where}: {error}", "camera_info") from error


@dataclass
class CameraInfos:
    """The newest camera models of "camera" and "thermal".

    Attributes:
        rectified: whether the camera image is rectified; None: decided from its CameraInfo.
        fixed: models from parameters; they take precedence over topics.
    """

    rectified: bool | None = None
    fixed: Mapping[str, CameraModel] = field(default_factory=dict)
    _received: dict[str, Callable[[], CameraModel]] = field(default_factory=dict)

    def update(self, name: str, message: Any) -> None:
        """Store a CameraInfo; it is converted when it is needed, once."""
        rectified = self.rectified if name == CAMERA else None
        convert = partial(camera_model, message, rectified, f"{name}/camera_info")
        self._received[name] = cache(convert)

    def model(self, name: str, height: int, width: int) -> CameraModel:
        """The model of "camera" or "thermal" for an image of this size.

        Raises:
            RosError: there is none yet (reason "no_camera_info"), it is not usable or for another
                image size ("camera_info").
        """
        if name in self.fixed:
            model, where = self.fixed[name], f"parameter {name}.info"
        elif name in self._received:
            model, where = self._received[name](), f"{name}/camera_info"
        else:
            raise RosError(
                f"no CameraInfo received on {name}/camera_info; publish or remap it, or set the "
                f"parameters {name}.info",
                "no_camera_info",
            )
        if (model.width, model.height) != (width, height):
            raise RosError(
                f"{where} is for an image of {model.width}x{model.height} pixels, the image has "
                f"{width}x{height}; publish the CameraInfo of this image",
                "camera_info",
            )
        return model
