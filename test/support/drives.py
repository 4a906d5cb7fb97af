# SPDX-License-Identifier: Apache-2.0
"""A short synthetic drive as a bag, the same in other formats, and what labelled bags hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mmsam_ros.cli.main import main
from mmsam_ros.ros.bags import parameters_yaml, read_parameters
from mmsam_ros.ros.recording import Recording
from mmsam_ros.ros.storage import Connection
from mmsam_ros.weights import save_model
from mmsam_ros.world import Vehicle, build_street, make_rig, world_seed
from mmsam_ros.world.bag import write_bag
from support.networks import random_network, spec_of

STORE, ROS1 = get_typestore(Stores.ROS2_JAZZY), get_typestore(Stores.ROS1_NOETIC)
FRAMES = 5  # camera images of a second
SEMANTIC = "/mmsam/semantic"

# (connection, receive time) -> receive time to write, None: leave the message out
Edit = Callable[[Connection, int], int | None]


def write_drive(folder: Path, seconds: float = 1.0) -> Path:
    """A bag with calibration beside it, as `mmsam synth bag` writes it, of small images."""
    rig = make_rig(96, 64, steps=128)
    world = build_street(world_seed("test", 3), weather="sun", case="ordinary", seconds=seconds)
    bag = folder / "drive"
    write_bag(bag, Vehicle(world, rig), seconds)
    parameters = read_parameters(bag)
    parameters["thermal"]["registration"] = "rotation"
    (bag / "calibration.yaml").write_text(parameters_yaml(parameters))
    return bag


def write_weights(folder: Path) -> Path:
    """Randomised weights that read LiDAR and thermal images."""
    path, spec = folder / "nano.safetensors", spec_of("synthetic_rgb_lidar_thermal")
    save_model(path, random_network(spec), spec)
    return path


def label_bag(bag: Path, out: Path, weights: Path, *more: str) -> int:
    """The exit code of `mmsam label-bag` on the CPU."""
    return main(["label-bag", str(bag), str(out), "-p", f"weights:={weights}",
                 "-p", "device:=cpu", *more])  # fmt: skip


def copy_bag(
    source: Path, target: Path, edit: Edit = lambda _, time: time,
    plugin: StoragePlugin = StoragePlugin.MCAP,
    rewrite: Callable[[Connection, bytes], bytes] = lambda _, data: data,
    rename: Mapping[str, str] = MappingProxyType({}),
) -> Path:  # fmt: skip
    """A copy with other receive times, topics, fewer or other messages, without calibration
    beside it.
    """
    with Recording(source) as reader:
        messages = [(edit(c, t), c, rewrite(c, bytes(d))) for c, t, d in reader.messages()]
        with Writer(target, version=9, storage_plugin=plugin) as writer:
            connections = {
                c.id: writer.add_connection(
                    rename.get(c.topic, c.topic),
                    c.msgtype,
                    typestore=STORE,
                    offered_qos_profiles=c.offers,
                )
                for c in reader.connections
            }
            kept = [entry for entry in messages if entry[0] is not None]
            for time, connection, data in sorted(kept, key=lambda entry: entry[0] or 0):
                writer.write(connections[connection.id], time or 0, data)
    return target


def as_ros1(source: Path, target: Path) -> Path:
    """The same as a ROS 1 bag, without transforms."""
    left_out = "tf2_msgs/msg/TFMessage"
    with Recording(source) as reader, Ros1Writer(target) as writer:
        connections = {
            c.id: writer.add_connection(c.topic, c.msgtype, typestore=ROS1)
            for c in reader.connections
            if c.msgtype != left_out
        }
        for connection, time, data in reader.messages():
            if connection.id in connections:
                message = _to_ros1(STORE.deserialize_cdr(data, connection.msgtype))
                packed = ROS1.serialize_ros1(message, connection.msgtype)
                writer.write(connections[connection.id], time, packed)
    return target


def _to_ros1(value: Any) -> Any:
    """ROS 1's headers have a number, and some of its fields another case."""
    name = getattr(type(value), "__msgtype__", "")
    if not name:
        return [_to_ros1(v) for v in value] if isinstance(value, list) else value
    kind = ROS1.types[name]
    given = {key.lower(): _to_ros1(v) for key, v in vars(value).items()}
    if name == "std_msgs/msg/Header":
        given["seq"] = 7
    return kind(**{key: given[key.lower()] for key in kind.__dataclass_fields__ if key[0] != "_"})


def read_topic(bag: Path, topic: str) -> list[tuple[int, Any]]:
    """(receive time, message) of a topic."""
    with Recording(bag) as reader:
        found = [c for c in reader.connections if c.topic == topic]
        messages = reader.messages(found) if found else ()
        return [(time, reader.deserialize(d, c.msgtype)) for c, time, d in messages]


def pixels(message: Any) -> NDArray[np.uint8]:
    """(H, W[, 3]) of a mask or picture."""
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    return rows if message.step == message.width else rows.reshape(message.height, -1, 3)
