# SPDX-License-Identifier: Apache-2.0
"""Camera models from CameraInfo messages: live, from a bag or from parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.sets import CAMERA
from mmsam_ros.sensors import CameraModel, SensorError

INFO_FIELDS = ("width", "height", "distortion_model", "d", "k", "r", "p")
"""Of a CameraInfo: those that are parameters `<camera>.info.*` too."""


def camera_model(info: Any, rectified: bool | None, where: str = "camera_info") -> CameraModel:
    """The camera model of a sensor_msgs/CameraInfo, of rclpy or of rosbags.

    Args:
        rectified: whether the image is rectified; None: decided from the message.
        where: the topic or parameter that it comes from, for errors.

    Raises:
        RosError: zero K, wrong lengths and the like (reason "camera_info").
    """
    values = {name: getattr(info, name) for name in (*INFO_FIELDS, "binning_x", "binning_y")}
    roi = (info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height)
    try:
        return CameraModel.from_info(**values, roi=roi, rectified=rectified)
    except SensorError as error:
        raise RosError(f"{where}: {error}", "camera_info") from error


@dataclass
class CameraInfos:
    """The newest calibrations of "camera" and "thermal"."""

    rectified: bool | None = None  # the camera image; None: decided from its CameraInfo
    fixed: Mapping[str, CameraModel] = field(default_factory=dict)  # preferred to topics
    _received: dict[str, Any] = field(default_factory=dict)

    def update(self, name: str, message: Any) -> None:
        """Store a CameraInfo; it is checked when an image needs it."""
        self._received[name] = message

    def model(self, name: str, height: int, width: int) -> CameraModel:
        """The model of "camera" or "thermal" for an image of this size.

        Raises:
            RosError: there is none yet (reason "no_camera_info"), it is not usable or for another
                image size ("camera_info").
        """
        if name in self.fixed:
            model, where = self.fixed[name], f"parameter {name}.info"
        elif name in self._received:
            where, rectified = f"{name}/camera_info", self.rectified if name == CAMERA else None
            model = camera_model(self._received[name], rectified, where)
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
