# SPDX-License-Identifier: Apache-2.0
"""Calibration of a recording as parameters of the node; needs no ROS.

Camera models come from CameraInfo topics, poses from `/tf_static`. The result says what the bag
says, for those who record without CameraInfo or want to keep a calibration beside the launch file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.ros.bags import open_decoded, read_messages
from mmsam_ros.ros.errors import RosError
from mmsam_ros.sensors import CameraModel, SensorError, pose_matrix, pose_values

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

Matrix = NDArray[np.float64]

NODE = "/**/mmsam"  # in any namespace
CAMERA_INFO, CLOUD = "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/PointCloud2"
THERMAL_NAMES = ("thermal", "infrared", "lwir")  # in a topic: not the colour camera


@dataclass(frozen=True, eq=False)
class StaticTransform:
    """`matrix` (4, 4) takes points of the `child` frame to the `parent` frame (metres)."""

    parent: str
    child: str
    matrix: Matrix


def transform_chain(transforms: Iterable[StaticTransform], target: str, source: str) -> Matrix:
    """(4, 4) that takes points of frame `source` to frame `target` along a tree of transforms.

    A later transform of the same child replaces an earlier one, as in tf2. RosError where there is
    no path, with the frames that each of the two is connected to.
    """
    latest = {transform.child: transform for transform in transforms}
    edges: dict[str, list[tuple[str, Matrix]]] = {}
    for edge in latest.values():
        edges.setdefault(edge.child, []).append((edge.parent, edge.matrix))
        edges.setdefault(edge.parent, []).append(
            (edge.child, np.linalg.inv(edge.matrix).astype(np.float64))
        )

    def reachable(start: str) -> dict[str, Matrix]:
        """frame -> matrix frame <- start."""
        found, queue = {start: np.eye(4)}, deque([start])
        while queue:
            frame = queue.popleft()
            for neighbour, matrix in edges.get(frame, []):
                if neighbour not in found:
                    found[neighbour] = matrix @ found[frame]
                    queue.append(neighbour)
        return found

    found = reachable(source)
    if target not in found:
        raise RosError(
            f"no path from frame {source!r} to frame {target!r} in the static transforms: "
            f"{source!r} is connected to {sorted(found.keys() - {source})}, "
            f"{target!r} to {sorted(reachable(target).keys() - {target})}"
        )
    return found[target]


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
    Topics that are not given are found by type, thermal cameras also by name. RosError where
    several fit, something is missing or a message is not usable.
    """
    with open_decoded(bag) as reader:
        infos = _topics(reader, CAMERA_INFO)
        thermals = [topic for topic in infos if any(name in topic for name in THERMAL_NAMES)]
        if thermal_info is None and camera_info is not None:
            thermals = [topic for topic in thermals if topic != camera_info]
        thermal_info = _choose(bag, "--thermal-info", thermal_info, thermals, infos)
        cameras = [topic for topic in infos if topic != thermal_info and topic not in thermals]
        camera_info = _choose(bag, "--camera-info", camera_info, cameras, infos)
        if camera_info is None:
            raise RosError(f"{bag}: no {CAMERA_INFO} of a colour camera, found {infos or 'none'}")
        clouds = _topics(reader, CLOUD)
        lidar = _choose(bag, "--lidar", lidar, clouds, clouds)

        camera = _first(reader, bag, camera_info)
        thermal = _first(reader, bag, thermal_info) if thermal_info else None
        cloud = _first(reader, bag, lidar) if lidar else None
        transforms = _static_transforms(reader)

    frame = _frame(camera, camera_info)
    parameters: dict[str, Any] = {"camera": {"info": _info(camera, camera_info)}}
    if cloud is not None:
        pose = transform_chain(transforms, frame, _frame(cloud, lidar or ""))
        parameters["lidar"] = {"extrinsics": pose_values(pose)}
    if thermal is not None:
        pose = transform_chain(transforms, frame, _frame(thermal, thermal_info or ""))
        info = _info(thermal, thermal_info or "")
        parameters["thermal"] = {"info": info, "extrinsics": pose_values(pose)}
    return parameters


def parameters_yaml(parameters: Mapping[str, Any]) -> str:
    """A ROS 2 parameter file for the node; floats stay doubles, also 1.0 and 1e16."""
    import yaml

    document = {NODE: {"ros__parameters": dict(parameters)}}
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=10_000)


def _topics(reader: AnyReader, msgtype: str) -> list[str]:
    return sorted({c.topic for c in reader.connections if c.msgtype == msgtype and c.msgcount})


def _choose(
    bag: Path, option: str, given: str | None, candidates: list[str], all_topics: list[str]
) -> str | None:
    """The topic that is given or the only candidate; None where there is none."""
    if given is not None:
        if given not in all_topics:
            raise RosError(f"{bag}: {option} {given} is not there, found {all_topics or 'none'}")
        return given
    if len(candidates) > 1:
        raise RosError(f"{bag}: {', '.join(candidates)} fit, choose one with {option}")
    return candidates[0] if candidates else None


def _first(reader: AnyReader, bag: Path, topic: str) -> Any:
    connections = [connection for connection in reader.connections if connection.topic == topic]
    for connection, _, data in read_messages(reader, connections):
        return reader.deserialize(data, connection.msgtype)
    raise RosError(f"{bag}: no message on {topic}")


def _static_transforms(reader: AnyReader) -> list[StaticTransform]:
    static = [c for c in reader.connections if c.topic.endswith("/tf_static")]
    transforms = []
    for connection, _, data in read_messages(reader, static) if static else ():
        message: Any = reader.deserialize(data, connection.msgtype)
        for stamped in message.transforms:
            t, q = stamped.transform.translation, stamped.transform.rotation
            parent, child = stamped.header.frame_id, stamped.child_frame_id
            try:
                matrix = pose_matrix((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
            except SensorError as error:
                raise RosError(f"{connection.topic}: {parent!r} to {child!r}: {error}") from error
            transforms.append(StaticTransform(parent.lstrip("/"), child.lstrip("/"), matrix))
    return transforms


def _frame(message: Any, topic: str) -> str:
    if not (frame := message.header.frame_id.lstrip("/")):
        raise RosError(f"{topic}: header.frame_id is empty, expected the sensor's frame")
    return frame


def _info(message: Any, topic: str) -> dict[str, Any]:
    """Parameters of one CameraInfo that is usable; an empty d is left out (it has no ROS type)."""
    roi = message.roi
    view = (roi.x_offset, roi.y_offset, roi.width, roi.height)
    if max(message.binning_x, message.binning_y) > 1 or any(view):
        raise RosError(
            f"{topic}: binning {message.binning_x}x{message.binning_y} and region of interest "
            f"{view} have no parameters, expected a full image; use the live topic instead"
        )
    width, height, model = int(message.width), int(message.height), str(message.distortion_model)
    fields = {name: [float(value) for value in getattr(message, name)] for name in "dkrp"}
    try:
        CameraModel.from_info(
            width=width,
            height=height,
            distortion_model=model,
            d=fields["d"],
            k=fields["k"],
            r=fields["r"],
            p=fields["p"],
            binning_x=1,
            binning_y=1,
            roi=(0, 0, 0, 0),
        )
    except SensorError as error:
        raise RosError(f"{topic}: {error}") from error
    if not fields["d"]:
        del fields["d"]
    size = {"width": width, "height": height}
    return {**size, "distortion_model": model, **fields, "frame_id": _frame(message, topic)}
