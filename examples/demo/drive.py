# SPDX-License-Identifier: Apache-2.0
"""What is in the bag of the drive, and a copy of the bag with the node's outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import serialize_message
from recorder import labels, stamp
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mmsam_ros.ros.bags import read_parameters
from mmsam_ros.ros.calibration import camera_model
from mmsam_ros.ros.clouds import cloud_points
from mmsam_ros.ros.messages import camera_rgb, thermal_counts
from mmsam_ros.ros.recording import Recording
from mmsam_ros.sensors import Frame, LidarPoints, Registration, SensorImage, pose_matrix


def read_topic(bag: Path, topic: str) -> list[tuple[int, Any]]:
    """Stamps (ns) and messages of a topic."""
    with Recording(bag) as reader:
        connections = [c for c in reader.connections if c.topic == topic]
        messages = (
            reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages(connections)
        )
        return [(stamp(message), message) for message in messages]


def read_truth(bag: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Stamps and label images of the ground truth."""
    return ((when, labels(message)) for when, message in read_topic(bag, "/ground_truth/semantic"))


def read_frames(bag: Path) -> Iterator[tuple[int, Frame]]:
    """Every camera image with the nearest cloud and thermal image, by the camera's stamp."""
    calibration = read_parameters(bag)
    T_camera_lidar, T_camera_thermal = (
        pose_matrix(pose[:3], pose[3:])
        for pose in (calibration[sensor]["extrinsics"] for sensor in ("lidar", "thermal"))
    )
    camera, thermal = (
        camera_model(read_topic(bag, f"/{sensor}/camera_info")[0][1])
        for sensor in ("camera", "thermal")
    )
    rotation = Registration.from_rotation(camera.K, T_camera_thermal[:3, :3], thermal.K)
    clouds, images = read_topic(bag, "/lidar/points"), read_topic(bag, "/thermal/image")
    for when, message in read_topic(bag, "/camera/image"):
        cloud, image = (
            min(stream, key=lambda entry: abs(entry[0] - when))[1] for stream in (clouds, images)
        )
        xyz, intensity = cloud_points(cloud, needs_intensity=False)
        sensors: dict[str, LidarPoints | SensorImage] = {
            "lidar": LidarPoints(xyz, intensity, T_camera_lidar),
            "thermal": SensorImage(thermal_counts(image), rotation),
        }
        yield when, Frame(camera_rgb(message), sensors, camera)


def write_labelled_bag(source: Path, target: Path, outputs: Mapping[str, list[Any]]) -> None:
    """A copy of a bag (MCAP) with more topics, each message at its header stamp.

    Messages without a header go to the beginning.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    with (
        Recording(source) as reader,
        Writer(target, version=9, storage_plugin=StoragePlugin.MCAP) as writer,
    ):
        added = []
        for topic, messages in outputs.items():
            kind = type(messages[0])
            msgtype = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
            connection = writer.add_connection(topic, msgtype, typestore=store)
            for message in messages:
                when = stamp(message) if hasattr(message, "header") else reader.start_time
                added.append((when, connection, serialize_message(message)))
        copies = {
            c.id: writer.add_connection(
                c.topic, c.msgtype, typestore=store,
                offered_qos_profiles=c.offers,
            )
            for c in reader.connections
        }  # fmt: skip
        drive = ((when, copies[c.id], bytes(data)) for c, when, data in reader.messages())
        first = itemgetter(0)
        for when, connection, data in merge(sorted(added, key=first), drive, key=first):
            writer.write(connection, when, data)
