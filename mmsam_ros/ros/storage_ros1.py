# SPDX-License-Identifier: Apache-2.0
"""ROS 1 bags, and their messages as those of ROS 2."""

import contextlib
import io
import struct
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path

from rosbags.convert.converter import (
    LATCH,
    STATIC_MSGTYPE_RENAMES,
    generate_message_converter,
)
from rosbags.interfaces import ConnectionExtRosbag1
from rosbags.rosbag1 import Reader, ReaderError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.storage import Connection, Entry, Storage

LATCHED = [LATCH[0]._replace(depth=1)]  # QoS of a latched topic
ENCODING = "ros1"  # of serialised messages
_HEADER = "std_msgs/msg/Header"
_DAMAGED = (ReaderError, struct.error, AssertionError, EOFError, LookupError, OSError,
            RuntimeError, ValueError)  # fmt: skip


class Ros1File(Storage):
    """An open bag; see `Storage`. RosError if it has no index or is damaged there."""

    def __init__(self, path: Path, closing: ExitStack) -> None:
        super().__init__(path)
        self._reader = Reader(path)
        try:
            closing.enter_context(self._reader)
        except _DAMAGED as error:
            raise RosError(
                f"{path}: not a readable recording: {error} (a bag that was cut is repaired by "
                "`rosbag reindex` of ROS 1)"
            ) from error
        for c in self._reader.connections:
            latches = isinstance(c.ext, ConnectionExtRosbag1) and c.ext.latching
            offers, definition = LATCHED if latches else [], c.msgdef.data
            self.connections.append(
                Connection(c.id, c.topic, c.msgtype, ENCODING, offers, c.msgcount, definition)
            )
        if self._reader.message_count:
            self.start, self.end = self._reader.start_time, self._reader.end_time + 1

    def messages(
        self, ids: Collection[int], start: int | None = None, stop: int | None = None
    ) -> Iterator[Entry]:
        chosen = [c for c in self._reader.connections if c.id in ids]
        try:
            for connection, time, data in self._reader.messages(chosen, start, stop):
                yield connection.id, time, bytes(data)
        except _DAMAGED as error:
            self.fault(
                f"it is damaged ({error}); `rosbag fix` and `rosbag reindex` of ROS 1 may repair it"
            )


class Ros1Converter:
    """Takes messages of one ROS 1 type to CDR. RosError if its definition cannot be read.

    Types that ROS 2 has become those of Jazzy; others keep their fields.
    """

    def __init__(self, connection: Connection) -> None:
        jazzy, empty = get_typestore(Stores.ROS2_JAZZY), Stores.EMPTY
        source, target = get_typestore(empty), jazzy
        self.msgtype = STATIC_MSGTYPE_RENAMES.get(connection.msgtype, connection.msgtype)
        try:
            source.register(get_types_from_msg(connection.definition, connection.msgtype))
            if self.msgtype not in jazzy.types:
                target = get_typestore(empty)
                header = {_HEADER: jazzy.fielddefs[_HEADER]}
                target.register({**source.fielddefs, **header})
            with contextlib.redirect_stdout(io.StringIO()):  # it prints that types differ
                self._convert = generate_message_converter(
                    source, target, connection.msgtype, self.msgtype, {},
                    src_is2=False, dst_is2=True,
                )  # fmt: skip
        except Exception as error:  # rosbags has no common base, and asserts
            raise RosError(
                f"its definition of {connection.msgtype} cannot be read: {error}"
            ) from error

    def __call__(self, data: bytes) -> bytes:
        """One message; its errors are those of the conversion."""
        return bytes(self._convert(data))
