# SPDX-License-Identifier: Apache-2.0
"""The outputs of one frame by topic, and what the tests of them know: colours, the LiDAR's pose."""

from __future__ import annotations

from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from mmsam_ros.sensors import (
    SYNTHETIC_CLASSES,
    palette,
    pose_matrix,
)

COLOURS = palette(SYNTHETIC_CLASSES)
POSE = pose_matrix([0.0, 0.2, 0.0], [0.5, -0.5, 0.5, 0.5])  # harness.LIDAR_POSE
KINDS = {
    "semantic": Image,
    "semantic/compressed": CompressedImage,
    "confidence": Image,
    "probabilities": Image,
    "color": Image,
    "color/compressed": CompressedImage,
    "overlay": Image,
    "overlay/road": Image,
    "points": PointCloud2,
    "points/labelled": PointCloud2,
}
