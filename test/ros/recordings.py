# SPDX-License-Identifier: Apache-2.0
"""Small rosbag2 recordings, as tests write them, and what they hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mmsam_ros.ros.recording import Recording

STORE = get_typestore(Stores.ROS2_JAZZY)
T = STORE.types
START = 1_700_000_000_000_000_000
STEP = 100_000_000  # ns between the messages of a stream
FRAMES = 6
IMAGE, CLOUD, STATIC, LATCHED = "/camera/image", "/lidar/points", "/tf_static", "/about"

BEST_EFFORT = Qos(
    QosHistory.KEEP_LAST,
    5,
    QosReliability.BEST_EFFORT,
    QosDurability.VOLATILE,
    QosTime(0, 0),
    QosTime(0, 0),
    QosLiveliness.AUTOMATIC,
    QosTime(0, 0),
    False,
)
TRANSIENT = BEST_EFFORT._replace(
    depth=1, reliability=QosReliability.RELIABLE, durability=QosDurability.TRANSIENT_LOCAL
)


def header(stamp: int, frame: str) -> Any:
    time_ = T["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
    return T["std_msgs/msg/Header"](time_, frame)


def image(stamp: int, index: int, size: int) -> Any:
    data = np.full(size, index, np.uint8)
    return T["sensor_msgs/msg/Image"](header(stamp, "camera"), 1, size, "mono8", 0, size, data)


def cloud(stamp: int, index: int) -> Any:
    field = T["sensor_msgs/msg/PointField"]("x", 0, 7, 1)
    points = np.full(5, index, np.float32).view(np.uint8)
    return T["sensor_msgs/msg/PointCloud2"](
        header(stamp, "lidar"), 1, 5, [field], False, 4, 20, points, True
    )


def static(stamp: int) -> Any:
    zero = T["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
    turn = T["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    transform = T["geometry_msgs/msg/Transform"](zero, turn)
    stamped = T["geometry_msgs/msg/TransformStamped"](header(stamp, "base"), "lidar", transform)
    return T["tf2_msgs/msg/TFMessage"]([stamped])


def write_bag(
    path: Path,
    plugin: StoragePlugin = StoragePlugin.MCAP,
    *,
    image_size: int = 300,
    image_qos: tuple[Qos, ...] = (),
    compress: CompressionMode | None = None,
) -> Path:
    """A static transform and a latched text, then images and clouds in turn, 50 ms apart."""
    writer = Writer(path, version=9, storage_plugin=plugin)
    if compress:
        writer.set_compression(compress, CompressionFormat.ZSTD)
    with writer:

        def connect(topic: str, kind: str, *qos: Qos) -> Callable[[int, Any], None]:
            connection = writer.add_connection(
                topic, kind, typestore=STORE, offered_qos_profiles=qos
            )
            return lambda at, msg: writer.write(connection, at, STORE.serialize_cdr(msg, kind))

        put_static = connect(STATIC, "tf2_msgs/msg/TFMessage")
        put_latched = connect(LATCHED, "std_msgs/msg/String", TRANSIENT)
        put_image = connect(IMAGE, "sensor_msgs/msg/Image", *image_qos)
        put_cloud = connect(CLOUD, "sensor_msgs/msg/PointCloud2")
        put_static(START, static(START))
        put_latched(START, T["std_msgs/msg/String"]("a bag"))
        for index in range(FRAMES):
            at = START + index * STEP
            put_image(at, image(at, index, image_size))
            put_cloud(at + STEP // 2, cloud(at, index))
    return path


def content(path: Path) -> dict[str, list[tuple[float, bytes]]]:
    """topic -> (seconds after the start, serialised message) of a bag."""
    messages: dict[str, list[tuple[float, bytes]]] = {}
    with Recording(path) as reader:
        for connection, stamp, data in reader.messages():
            messages.setdefault(connection.topic, []).append(((stamp - START) / 1e9, data))
    return messages
