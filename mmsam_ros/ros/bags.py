# SPDX-License-Identifier: Apache-2.0
"""The calibration of a recording as parameters of the node, for sensors that run without
CameraInfo or TF. Needs no ROS.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml

from mmsam_ros.ros.calibration import (
    CAMERAS,
    INFO_FIELDS,
    Matrix,
    camera_doubts,
    camera_model,
    links_frames,
    transform_matrix,
)
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.interface import CLOUD, INFO
from mmsam_ros.ros.recording import Recording
from mmsam_ros.ros.storage import Connection
from mmsam_ros.sensors import SensorError, pose_values

# child frame -> its parent and the matrix (4, 4) parent <- child (metres)
Transforms = Mapping[str, tuple[str, Matrix]]

NODE = "/**/mmsam"  # in any namespace
THERMAL_NAMES = ("thermal", "infrared", "lwir")  # in topic names: not the colour camera


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
        raise RosError(
            f"no path from frame {source!r} to frame {target!r} in the static transforms: the "
            f"parents of {source!r} are {list(of_source)[1:]}, those of {target!r} "
            f"{list(of_target)[1:]}"
        )
    return np.linalg.inv(of_target[common]) @ of_source[common]


def read_parameters(
    bag: Path,
    *,
    camera_info: str | None = None,
    thermal_info: str | None = None,
    lidar: str | None = None,
    note: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """The node's parameters, nested by the dots of their names.

    `camera.info`, `thermal.info`: fields of the first CameraInfo; `lidar.extrinsics`,
    `thermal.extrinsics`: [x, y, z, qx, qy, qz, qw], pose of the sensor's frame in the camera's.
    Topics that are not given are found by type, thermal cameras also by name. RosError if several
    topics fit, something is missing or a message is not usable. `note` is told what the recording
    lacks or contradicts.
    """
    with Recording(bag) as reader:
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
        frames = {topic: message.header.frame_id.lstrip("/") for topic, message in firsts.items()}
        camera_frame = frames.pop(camera_info)
        poses = _poses(reader, camera_frame, frames, note)
        for text in (*reader.notes, *reader.faults):
            note(text)

    parameters: dict[str, Any] = {"camera": {"info": _info(firsts[camera_info], camera_info)}}
    if lidar:
        parameters["lidar"] = {"extrinsics": poses[lidar]}
    if thermal_info:
        info = _info(firsts[thermal_info], thermal_info)
        parameters["thermal"] = {"info": info, "extrinsics": poses[thermal_info]}
    return parameters


def parameter_doubts(parameters: Mapping[str, Any]) -> list[str]:
    """Ambiguities in the CameraInfo of `read_parameters`, and what to set."""
    found = []
    for name in ("camera", "thermal"):
        values = parameters.get(name, {}).get("info")
        if values:
            defaults = {"d": [], "r": [0.0] * 9, "p": [0.0] * 12}
            doubts = camera_doubts(SimpleNamespace(**defaults | values), name=name)
            found += [f"{name}.info: {doubt}" for doubt in doubts]
    return found


def parameters_yaml(parameters: Mapping[str, Any]) -> str:
    """A ROS 2 parameter file for the node; floats stay doubles, also 1.0 and 1e16."""
    document = {NODE: {"ros__parameters": dict(parameters)}}
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=10_000)


def nested(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with dots in their names as nested ones."""
    found: dict[str, Any] = {}
    for name, value in parameters.items():
        *sections, leaf = name.split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = value
    return found


def _topics(reader: Recording, msgtype: str) -> list[str]:
    found = (c for c in reader.connections if c.msgtype == msgtype and c.msgcount)
    return sorted({c.topic for c in found if c.id not in reader.unreadable})


def _choose(
    bag: Path, option: str, given: str | None, candidates: list[str], all_topics: list[str]
) -> str | None:
    """The topic that is given, or the only candidate; None if there is none."""
    if given is not None and given not in all_topics:
        raise RosError(f"{bag}: {option} {given} is not there, found {all_topics or 'none'}")
    if given is None and len(candidates) > 1:
        raise RosError(f"{bag}: {', '.join(candidates)} fit, choose one with {option}")
    return given or next(iter(candidates), None)


def _decoded(reader: Recording, connections: list[Connection]) -> Iterator[tuple[str, Any]]:
    """(topic, message) of some connections; RosError for one that cannot be read."""
    for connection, _, data in reader.messages(connections) if connections else ():
        try:
            yield connection.topic, reader.deserialize(data, connection.msgtype)
        except RosError as error:
            raise RosError(f"{connection.topic}: {error}") from error


def _first(reader: Recording, bag: Path, topic: str) -> Any:
    """The first message on a topic, which names its frame; RosError for CameraInfos of several
    cameras.
    """
    connections = [connection for connection in reader.connections if connection.topic == topic]
    first = None
    for _, message in islice(_decoded(reader, connections), CAMERAS):
        frame = message.header.frame_id.lstrip("/")
        if not frame:
            raise RosError(f"{topic}: header.frame_id is empty, expected the sensor's frame")
        if first is not None and frame != first.header.frame_id.lstrip("/"):
            raise RosError(
                f"{topic}: CameraInfo is of frames {first.header.frame_id!r} and {frame!r}, "
                "expected that of one camera"
            )
        first = message if first is None else first
        if not hasattr(message, "distortion_model"):  # a cloud, which may be large
            break
    if first is not None:
        return first
    raise RosError("; ".join([f"{bag}: no message on {topic}", *reader.faults]))


def _poses(
    reader: Recording, camera: str, frames: Mapping[str, str], note: Callable[[str], object]
) -> dict[str, list[float]]:
    """The pose in the camera's frame of each topic's frame.

    Read from the static transforms; where they do not connect the frames, also from transforms on
    /tf that never change: `static_transform_publisher` of ROS 1 publishes there.
    """
    transforms, _ = recorded_transforms(reader, "tf_static")
    try:
        return {t: pose_values(transform_chain(transforms, camera, f)) for t, f in frames.items()}
    except RosError as error:
        moving, changed = recorded_transforms(reader, "tf")
        constant = {child: pose for child, pose in moving.items() if child not in changed}
        try:
            chains = {t: transform_chain({**constant, **transforms}, camera, f)
                      for t, f in frames.items()}  # fmt: skip
        except RosError:
            raise RosError("; ".join([str(error), *reader.faults])) from error
        note("poses are from transforms on /tf, which never change in this recording")
        return {topic: pose_values(chain) for topic, chain in chains.items()}


def recorded_transforms(reader: Recording, name: str) -> tuple[Transforms, set[str]]:
    """The newest transform of each child on topics that end in `name`, as in tf2, and the children
    whose transform changes. RosError if one is not a valid pose.
    """
    connections = [c for c in reader.connections if c.topic.split("/")[-1] == name]
    connections = [c for c in connections if c.msgtype == "tf2_msgs/msg/TFMessage"]
    transforms: dict[str, tuple[str, Matrix]] = {}
    changed = set()
    for topic, message in _decoded(reader, connections):
        for stamped in message.transforms:
            parent, child = stamped.header.frame_id.lstrip("/"), stamped.child_frame_id.lstrip("/")
            if not links_frames(parent, child):
                continue
            try:
                pose = parent, transform_matrix(stamped.transform)
            except SensorError as error:
                raise RosError(f"{topic}: {parent!r} to {child!r}: {error}") from error
            before = transforms.setdefault(child, pose)
            if before[0] != parent or not np.allclose(before[1], pose[1], atol=1e-9):
                changed.add(child)
            transforms[child] = pose
    return transforms, changed


def _info(message: Any, topic: str) -> dict[str, Any]:
    """One CameraInfo as parameters; an empty d is left out (an empty list has no ROS type)."""
    roi = message.roi
    view = (roi.x_offset, roi.y_offset, roi.width, roi.height)
    whole = (0, 0, message.width, message.height)
    if max(message.binning_x, message.binning_y) > 1 or (any(view) and view != whole):
        raise RosError(
            f"{topic}: binning {message.binning_x}x{message.binning_y} and region of interest "
            f"{view} have no parameters, expected a full image; use the live topic instead"
        )
    camera_model(message, where=topic)  # raises if it is not usable
    values = {name: np.asarray(getattr(message, name)).tolist() for name in INFO_FIELDS}
    values["frame_id"] = message.header.frame_id.lstrip("/")
    return {name: value for name, value in values.items() if value != []}
