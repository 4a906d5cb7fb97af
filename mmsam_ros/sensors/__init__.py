# SPDX-License-Identifier: Apache-2.0
"""Sensors: classes, encodings, modalities, camera models, projection, registration, planes."""

from mmsam_ros.sensors.camera import CameraModel
from mmsam_ros.sensors.camera_info import check_size, check_view
from mmsam_ros.sensors.classes import (
    NO_LABEL,
    SYNTHETIC_CLASSES,
    ClassInfo,
    class_table,
    palette,
    topic_names,
)
from mmsam_ros.sensors.encodings import (
    AUXILIARY_SENSORS,
    CAMERA,
    DEPTH_METRES,
    ENCODINGS,
    FIELDS,
    RGB,
    Limits,
    Modality,
    check_limits,
    decode_raster,
    made_of_points,
    plain_modality,
    scale_thermal,
)
from mmsam_ros.sensors.errors import SensorError
from mmsam_ros.sensors.matrices import check_pose, pose_matrix, pose_values
from mmsam_ros.sensors.pixels import decode_image, picture_rgb, to_8_bits, to_single
from mmsam_ros.sensors.planes import (
    BLANK,
    LIMITS,
    Frame,
    LidarPoints,
    Planes,
    Refusal,
    SensorImage,
    clipping,
    frame_planes,
)
from mmsam_ros.sensors.projection import project, rasterise
from mmsam_ros.sensors.registration import HALF_PIXEL, Registration, register
from mmsam_ros.sensors.statistics import (
    ChannelStatistics,
    PlaneSample,
    Seen,
    channel_statistics,
    percentiles,
    robust_mean,
    sample_planes,
)
from mmsam_ros.sensors.visibility import SeenPoints, seen_points

__all__ = [
    "AUXILIARY_SENSORS", "BLANK", "CAMERA", "DEPTH_METRES", "ENCODINGS", "FIELDS", "HALF_PIXEL",
    "LIMITS", "NO_LABEL", "RGB", "SYNTHETIC_CLASSES", "CameraModel", "ChannelStatistics",
    "ClassInfo", "Frame", "LidarPoints", "Limits", "Modality", "PlaneSample", "Planes", "Refusal",
    "Registration", "Seen", "SeenPoints", "SensorError", "SensorImage", "channel_statistics",
    "check_limits", "check_pose", "check_size", "check_view", "class_table", "clipping",
    "decode_image", "decode_raster", "frame_planes", "made_of_points", "palette", "percentiles",
    "picture_rgb", "plain_modality", "pose_matrix", "pose_values", "project", "rasterise",
    "register", "robust_mean", "sample_planes", "scale_thermal", "seen_points", "to_8_bits",
    "to_single", "topic_names",
]  # fmt: skip
