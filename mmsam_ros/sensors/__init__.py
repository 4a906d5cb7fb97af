# SPDX-License-Identifier: Apache-2.0
"""What all rooms know about sensors: classes, encodings, cameras, projection, registration."""

from __future__ import annotations

from mmsam_ros.sensors.camera import CameraModel, check_pixels, check_pose
from mmsam_ros.sensors.classes import CLASS_SETS, NO_LABEL, ClassInfo, palette, topic_names
from mmsam_ros.sensors.decode import decode_image
from mmsam_ros.sensors.encodings import ENCODINGS, FIELDS, decode_raster
from mmsam_ros.sensors.errors import SensorError
from mmsam_ros.sensors.frame import Frame, LidarPoints, SensorImage
from mmsam_ros.sensors.poses import pose_matrix, pose_values
from mmsam_ros.sensors.projection import project, rasterise
from mmsam_ros.sensors.refusal import BLANK, Refusal
from mmsam_ros.sensors.registration import Registration, register, shows_nothing
from mmsam_ros.sensors.thermal import scale_thermal

__all__ = [
    "BLANK",
    "CLASS_SETS",
    "ENCODINGS",
    "FIELDS",
    "NO_LABEL",
    "CameraModel",
    "ClassInfo",
    "Frame",
    "LidarPoints",
    "Refusal",
    "Registration",
    "SensorError",
    "SensorImage",
    "check_pixels",
    "check_pose",
    "decode_image",
    "decode_raster",
    "palette",
    "pose_matrix",
    "pose_values",
    "project",
    "rasterise",
    "register",
    "scale_thermal",
    "shows_nothing",
    "topic_names",
]
