# SPDX-License-Identifier: Apache-2.0
"""The calibration of a recording as parameters of the node, for sensors that run without CameraInfo
or TF: camera models from CameraInfo topics, extrinsics from `/tf_static`. Needs no ROS.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rosbags.highlevel import AnyReader

from mmsam_ros.ros.bags import open_decoded, read_messages
from mmsam_ros.ros.camera_info import INFO_FIELDS, camera_model
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.extrinsics import Matrix, transform_matrix
from mmsam_ros.ros.topics import CLOUD, INFO
from mmsam_ros.sensors import SensorError, pose_values

NODE = "/**/mmsam"  # in any namespace
THERMAL_NAMES = ("thermal", "infrared", "lwir")  # in a topic: not the colour camera

Transforms = Mapping[str, tuple[str, Matrix]]
"""Child frame -> its parent and the matrix (4, 4) parent <- child (metres)."""


def transform_chain(transforms: Transforms, target: str, source: str) -> Matrix:
    """(4, 4) that takes points of frame `source` to frame `target`; RosError if there is none."""

    def parents(frame: str) -> dict[str, Matrix]:
        """The frame and all above it in the tree: name -> matrix name <- frame."""
        found = {frame: np.eye(4)}
        while frame in transforms and transforms[frame][0] not in found:
            parent, matrix = transforms[frame]
            found[parent] = matrix @ found[frame]
            frame = parent
        return found

    of_source, of_target = parents(source), parents(target)
    common = next((frame for frame in of_source if frame in of_target), None)
    if common is None:
        above_source, above_target = list(of_source)[1:], list(of_target)[1:]
        raise RosError(
            f"no path from frame {source!r} to frame {target!r} in the static transforms: the "
            f"parents of {source!r} are {above_source}, those of {target!r} {above_target}"
        )
    return np.linalg.inv(of_target[common]) @ of_source[common]


def read_parameters(
    bag: Path,
    *,
    camera_info: str | None = None,
    thermal_info: str | None = None,
    lidar: str | None = None,
) -> dict[str, Any]:
    """The node's parameters, nested by the dots of their names.

    `camera.info`, `thermal.info`: fields of the first CameraInfo; `lidar.extrinsics`,
    `thermal.extrinsics`: [x, y, z, qx, qy, qz, qw], pose of the sensor's frame in the camera's.
    Topics that are not given are found by type, thermal cameras also by name.

    Raises:
        RosError: several topics fit, something is missing or a message is not usable.
    """
    with open_decoded(bag) as reader:
        infos = _topics(reader, INFO)
        thermals = [t for t in infos if any(name in t for name in THERMAL_NAMES)]
        if thermal_info is None:
            thermals = [topic for topic in thermals if topic != camera_info]
        thermal_info = _choose(bag, "--thermal-info", thermal_info, thermals, infos)
        cameras = [topic for topic in infos if topic not in (thermal_info, *thermals)]
        camera_info = _choose(bag, "--camera-info", camera_info, cameras, infos)
        if camera_info is None:
            raise RosError(f"{bag}: no {INFO} of a colour camera, found {infos or 'none'}")
        clouds = _topics(reader, CLOUD)
        lidar = _choose(bag, "--lidar", lidar, clouds, clouds)
        firsts = {t: _first(reader, bag, t) for t in (camera_info, thermal_info, lidar) if t}
        transforms = _static_transforms(reader)

    def pose(topic: str) -> list[float]:
        frames = (_frame(firsts[name], name) for name in (camera_info, topic))
        return pose_values(transform_chain(transforms, *frames))

    parameters: dict[str, Any] = {"camera": {"info": _info(firsts[camera_info], camera_info)}}
    if lidar:
        parameters["lidar"] = {"extrinsics": pose(lidar)}
    if thermal_info:
        info = _info(firsts[thermal_info], thermal_info)
        parameters["thermal"] = {"info": info, "extrinsics": pose(thermal_info)}
    return parameters


def parameters_yaml(parameters: Mapping[str, Any]) -> str:
    """A ROS 2 parameter file for the node; floats stay doubles, also 1.0 and 1e16."""
    document = {NODE: {"ros__parameters": dict(parameters)}}
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=10_000)


def _topics(reader: AnyReader, msgtype: str) -> list[str]:
    return sorted({c.topic for c in reader.connections if c.msgtype == msgtype and c.msgcount})


def _choose(
    bag: Path, option: str, given: str | None, candidates: list[str], all_topics: list[str]
) -> str | None:
    """The topic that is given, or the only candidate; None if there is none."""
    if given is not None and given not in all_topics:
        raise RosError(f"{bag}: {option} {given} is not there, found {all_topics or 'none'}")
    if given is None and len(candidates) > 1:
        raise RosError(f"{bag}: {', '.join(candidates)} fit, choose one with {option}")
    return given or next(iter(candidates), None)


def _first(reader: AnyReader, bag: Path, topic: str) -> Any:
    connections = [connection for connection in reader.connections if connection.topic == topic]
    for connection, _, data in read_messages(reader, connections):
        return reader.deserialize(data, connection.msgtype)
    raise RosError(f"{bag}: no message on {topic}")


def _static_transforms(reader: AnyReader) -> Transforms:
    """The newest transform of each child, as in tf2."""
    static = [c for c in reader.connections if c.topic.endswith("/tf_static")]
    transforms = {}
    for connection, _, data in read_messages(reader, static) if static else ():
        message: Any = reader.deserialize(data, connection.msgtype)
        for stamped in message.transforms:
            parent, child = stamped.header.frame_id.lstrip("/"), stamped.child_frame_id.lstrip("/")
            try:
                transforms[child] = parent, transform_matrix(stamped.transform)
            except SensorError as error:
                raise RosError(f"{connection.topic}: {parent!r} to {child!r}: {error}") from error
    return transforms


def _frame(message: Any, topic: str) -> str:
    if not (frame := message.header.frame_id.lstrip("/")):
        raise RosError(f"{topic}: header.frame_id is empty, expected the sensor's frame")
    return frame


def _info(message: Any, topic: str) -> dict[str, Any]:
    """One CameraInfo as parameters; an empty d is left out (an empty list has no ROS type)."""
    roi = message.roi
    view = (roi.x_offset, roi.y_offset, roi.width, roi.height)
    if max(message.binning_x, message.binning_y) > 1 or any(view):
        raise RosError(
            f"{topic}: binning {message.binning_x}x{message.binning_y} and region of interest "
            f"{view} have no parameters, expected a full image; use the live topic instead"
        )
    camera_model(message, None, topic)  # raises if it is not usable
    values = {name: getattr(message, name) for name in INFO_FIELDS}
    lists = {name: v.tolist() for name, v in values.items() if isinstance(v, np.ndarray)}
    filled = {name: value for name, value in (values | lists).items() if value != []}
    return filled | {"frame_id": _frame(message, topic)}
