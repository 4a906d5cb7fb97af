# SPDX-License-Identifier: Apache-2.0
"""The node's topics: one table that the node and the reference documentation read.

Needs no ROS. Input names are relative and output names private: both can be remapped, and both
follow the node's namespace.
"""

import importlib
from dataclasses import dataclass
from typing import Any

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO, CLOUD = "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/PointCloud2"
SUFFIX = "/compressed"  # of the topic with the same images compressed


@dataclass(frozen=True)
class Topic:
    """One row."""

    name: str  # before remapping; `<class>` stands for the name of each class
    type: str
    description: str
    compressed: bool = False  # inputs: CompressedImage on `<name>/compressed` is read as well
    latched: bool = False  # outputs: transient local, depth 1, so that late subscribers get it


# Which of them are read depends on the weights; camera/image always is. The subscriptions take
# the QoS that the publishers offer (parameter input_reliability).
INPUTS = (
    Topic("camera/image", IMAGE, "rgb8, bgr8, rgba8, bgra8, mono8 or 8-bit Bayer; compressed: JPEG "
          "or PNG.", compressed=True),
    Topic("camera/camera_info", INFO, "plumb_bob, rational_polynomial or equidistant; binning and "
          "region of interest are taken into account. Needed for lidar/points and for "
          "thermal.registration rotation. Not read if camera.info.width is set."),
    Topic("lidar/points", CLOUD, "Fields x, y, z and, if the weights read it, intensity (or i, or "
          "reflectivity). The node projects the points into the camera image."),
    Topic("lidar/image", IMAGE, "Instead of points: a LiDAR raster in the camera's view, as 32FC3, "
          "16UC3 or rgb8, as the weights say.", compressed=True),
    Topic("thermal/image", IMAGE, "mono8, mono16, 8UC1 or 16UC1; compressed: PNG, or JPEG for 8 "
          "bits.", compressed=True),
    Topic("thermal/camera_info", INFO, "Read for thermal.registration rotation, unless "
          "thermal.info.width is set."),
    Topic("event/image", IMAGE, "Event raster in the camera's view.", compressed=True),
    Topic("depth/image", IMAGE, "Depth raster in the camera's view.", compressed=True),
)  # fmt: skip

# Images have the stamp, frame and size of the camera image. All outputs are reliable.
OUTPUTS = (
    Topic("~/semantic", IMAGE, "mono8: the class id of each pixel; 255 is no label."),
    Topic("~/confidence", IMAGE, "mono8: 255 times the probability of the pixel's class. Only "
          "while subscribed."),
    Topic("~/color", IMAGE, "rgb8: the mask in class colours. Only while subscribed."),
    Topic("~/overlay", IMAGE, "rgb8: the mask over the camera image. Only while subscribed."),
    Topic("~/overlay/<class>", IMAGE, "rgb8: one class highlighted in the camera image. Only while "
          "subscribed."),
    Topic("~/classes", "std_msgs/msg/String", "JSON: ids, names and colours of the classes, and "
          "the sensors that the weights read.", latched=True),
    Topic("~/label_info", "vision_msgs/msg/LabelInfo", "Ids and names of the classes. Only if "
          "vision_msgs is installed.", latched=True),
    Topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "Once per second: mask rate, "
          "latency (p50, p95), time per step, messages by outcome, fused sensors, last refusal of "
          "each stream, settings."),
)  # fmt: skip


def message_class(name: str) -> Any | None:
    """The class of a message type (`package/msg/Name`); None if it is not installed."""
    package, _, kind = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind, None)
    except ModuleNotFoundError:
        return None
