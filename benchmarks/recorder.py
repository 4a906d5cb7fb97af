# SPDX-License-Identifier: Apache-2.0
"""Records topics as they come over DDS, and adds them to a recording's own messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message

from mmsam_ros.ros.bags import open_raw
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.topics import message_class

if TYPE_CHECKING:
    from rosbags.interfaces import ConnectionExtRosbag2

DEPTH = 100


@dataclass
class Recorded:
    """A topic's messages, serialised, with the steady time of their arrival."""

    msgtype: str
    data: list[bytes] = field(default_factory=list)

    def decode(self, index: int) -> Any:
        """One message, decoded."""
        return deserialize_message(self.data[index], message_class(self.msgtype))


class Recorder:
    """A context manager that subscribes to topics of a node in another process.

    Args:
        topics: message type ("sensor_msgs/msg/Image") by topic.
        latched: those of them that are published once for late subscribers.
    """

    def __init__(self, topics: Mapping[str, str], latched: tuple[str, ...] = ()) -> None:
        self.topics = {topic: Recorded(msgtype) for topic, msgtype in topics.items()}
        self._latched = latched
        self._context = Context()

    def __enter__(self) -> Recorder:
        rclpy.init(args=[], context=self._context)
        self._node = rclpy.create_node("mmsam_recorder", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        for topic, recorded in self.topics.items():
            kind = message_class(recorded.msgtype)
            if kind is None:
                raise RosError(f"{topic}: {recorded.msgtype} is not installed")
            durability = (
                DurabilityPolicy.TRANSIENT_LOCAL
                if topic in self._latched
                else DurabilityPolicy.VOLATILE
            )
            qos = QoSProfile(
                depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE, durability=durability
            )
            self._node.create_subscription(kind, topic, recorded.data.append, qos, raw=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def published(self, topic: str) -> bool:
        """Whether somebody publishes the topic."""
        return self._node.count_publishers(topic) > 0

    def spin_until(self, holds: Callable[[], bool], timeout: float) -> bool:
        """Record until the predicate holds; whether it did within `timeout` seconds."""
        end = time.monotonic() + timeout
        while not holds():
            if time.monotonic() > end:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True


def write_labelled_bag(source: Path, target: Path, topics: Mapping[str, Recorded]) -> None:
    """A copy of a recording with recorded topics added at their header stamps (MCAP).

    Topics without a header go to the recording's beginning.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    with (
        open_raw(source) as reader,
        Writer(target, version=9, storage_plugin=StoragePlugin.MCAP) as writer,
    ):
        messages: list[tuple[int, Any, bytes]] = []
        for topic, recorded in topics.items():
            connection = writer.add_connection(topic, recorded.msgtype, typestore=store)
            for k, data in enumerate(recorded.data):
                header = getattr(recorded.decode(k), "header", None)
                stamp = reader.start_time
                if header is not None:
                    stamp = header.stamp.sec * 10**9 + header.stamp.nanosec
                messages.append((stamp, connection, bytes(data)))
        messages.sort(key=lambda m: m[0])
        copies = {
            c.id: writer.add_connection(
                c.topic,
                c.msgtype,
                typestore=store,
                offered_qos_profiles=cast("ConnectionExtRosbag2", c.ext).offered_qos_profiles,
            )
            for c in reader.connections
        }
        for connection, stamp, data in reader.messages():
            while messages and messages[0][0] <= stamp:
                added = messages.pop(0)
                writer.write(added[1], added[0], added[2])
            writer.write(copies[connection.id], stamp, bytes(data))
        for stamp, connection, data in messages:
            writer.write(connection, stamp, data)
