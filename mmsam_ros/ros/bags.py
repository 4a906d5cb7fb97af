# SPDX-License-Identifier: Apache-2.0
"""rosbag2 recordings read with `rosbags`, and their calibration as parameters of the node, for
sensors that run without CameraInfo or TF. Needs no ROS.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import yaml
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.rosbag2 import reader as rosbag2
from rosbags.typesys import Stores, get_typestore

from mmsam_ros.ros.calibration import (
    INFO_FIELDS,
    Matrix,
    camera_doubts,
    camera_model,
    transform_matrix,
)
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.interface import CLOUD, INFO
from mmsam_ros.sensors import SensorError, pose_values

R = TypeVar("R", Reader, AnyReader)
# child frame -> its parent and the matrix (4, 4) parent <- child (metres)
Transforms = Mapping[str, tuple[str, Matrix]]

NODE = "/**/mmsam"  # in any namespace
THERMAL_NAMES = ("thermal", "infrared", "lwir")  # in a topic: not the colour camera
SUFFIXES = (".mcap", ".db3")
# What rosbags raises for a damaged file; lz4 has no error of its own.
_DAMAGED = (AnyReaderError, ReaderError, rosbag2.zstd.ZstdError, struct.error, EOFError,
            LookupError, OSError, RuntimeError, TypeError, ValueError)  # fmt: skip
_ZSTD = b"\x28\xb5\x2f\xfd"


def open_raw(path: Path) -> AbstractContextManager[Reader]:
    """A reader of serialised messages; RosError if the bag cannot be read."""
    return _opened(path, Reader)


def open_decoded(path: Path) -> AbstractContextManager[AnyReader]:
    """A reader that decodes; a bag without type definitions is read with those of Jazzy."""
    types = get_typestore(Stores.ROS2_JAZZY)
    return _opened(path, lambda bag: AnyReader([bag], default_typestore=types))


@contextmanager
def _opened(path: Path, make: Callable[[Path], R]) -> Iterator[R]:
    _check_path(path)
    try:
        reader = make(path)
        reader.open()
    except _DAMAGED as error:
        raise RosError(f"{path}: not a readable rosbag2: {error}") from error
    with closing(reader):
        for connection in reader.connections:
            if connection.msgtype.count("/") != 2:
                raise RosError(
                    f"{path}: topic {connection.topic} has type {connection.msgtype!r}, expected "
                    "package/msg/Name; the bag is from an old ROS 2, convert or record it again"
                )
        yield reader


def _check_path(path: Path) -> None:
    if not path.exists():
        raise RosError(f"{path}: no such file or folder")
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        found = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
        hint = f"give one of its files instead ({', '.join(found)})" if found else "no bag files"
        raise RosError(f"{path}: a rosbag2 folder needs a metadata.yaml, found none; {hint}")
    if path.is_file() and path.suffix not in SUFFIXES:
        hint = "; convert ROS 1 bags with rosbags-convert" if path.suffix == ".bag" else ""
        raise RosError(f"{path}: expected a folder or a file {' or '.join(SUFFIXES)}{hint}")


def read_messages(
    reader: Reader | AnyReader, connections: list[Connection], *window: int, **limits: int
) -> Iterator[tuple[Connection, int, bytes]]:
    """The reader's messages, (connection, time, data); RosError for one that cannot be read."""
    try:
        for connection, stamp, data in reader.messages(connections, *window, **limits):
            if data[:4] == _ZSTD:
                raise RosError(
                    f"messages of {connection.topic} are compressed one by one; give the folder "
                    "with the metadata.yaml that says so, not the file"
                )
            yield connection, stamp, data
    except RosError:
        raise
    except _DAMAGED as error:
        raise RosError(f"a message of the bag cannot be read: {error}") from error


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
) -> dict[str, Any]:
    """The node's parameters, nested by the dots of their names.

    `camera.info`, `thermal.info`: fields of the first CameraInfo; `lidar.extrinsics`,
    `thermal.extrinsics`: [x, y, z, qx, qy, qz, qw], pose of the sensor's frame in the camera's.
    Topics that are not given are found by type, thermal cameras also by name. RosError if several
    topics fit, something is missing or a message is not usable.
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
        frames = (firsts[name].header.frame_id.lstrip("/") for name in (camera_info, topic))
        return pose_values(transform_chain(transforms, *frames))

    parameters: dict[str, Any] = {"camera": {"info": _info(firsts[camera_info], camera_info)}}
    if lidar:
        parameters["lidar"] = {"extrinsics": pose(lidar)}
    if thermal_info:
        info = _info(firsts[thermal_info], thermal_info)
        parameters["thermal"] = {"info": info, "extrinsics": pose(thermal_info)}
    return parameters


def parameter_doubts(parameters: Mapping[str, Any]) -> list[str]:
    """What in the CameraInfo of `read_parameters` may be meant otherwise, with what to set."""
    found = []
    for name in ("camera", "thermal"):
        values = parameters.get(name, {}).get("info")
        if values:
            defaults = {"d": [], "r": [0.0] * 9, "p": [0.0] * 12}
            texts = camera_doubts(SimpleNamespace(**defaults | values))
            parameter = f"parameter {name}.image"
            found += [f"{name}.info: {t.replace('the image parameter', parameter)}" for t in texts]
    return found


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
    """The first message on a topic, which names its frame."""
    connections = [connection for connection in reader.connections if connection.topic == topic]
    for connection, _, data in read_messages(reader, connections):
        message: Any = reader.deserialize(data, connection.msgtype)
        if not message.header.frame_id.lstrip("/"):
            raise RosError(f"{topic}: header.frame_id is empty, expected the sensor's frame")
        return message
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


def _info(message: Any, topic: str) -> dict[str, Any]:
    """One CameraInfo as parameters; an empty d is left out (an empty list has no ROS type)."""
    roi = message.roi
    view = (roi.x_offset, roi.y_offset, roi.width, roi.height)
    if max(message.binning_x, message.binning_y) > 1 or any(view):
        raise RosError(
            f"{topic}: binning {message.binning_x}x{message.binning_y} and region of interest "
            f"{view} have no parameters, expected a full image; use the live topic instead"
        )
    camera_model(message, where=topic)  # raises if it is not usable
    values = {name: np.asarray(getattr(message, name)).tolist() for name in INFO_FIELDS}
    values["frame_id"] = message.header.frame_id.lstrip("/")
    return {name: value for name, value in values.items() if value != []}
