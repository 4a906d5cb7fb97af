# SPDX-License-Identifier: Apache-2.0
"""ROS 1 bags, and their messages as those of ROS 2."""

import contextlib
import os
import struct
from bz2 import BZ2Decompressor
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from heapq import merge
from io import BytesIO, StringIO
from operator import itemgetter
from pathlib import Path
from typing import Any

from lz4.frame import LZ4FrameDecompressor
from rosbags.convert.converter import (
    LATCH,
    STATIC_MSGTYPE_RENAMES,
    generate_message_converter,
)
from rosbags.interfaces import ConnectionExtRosbag1
from rosbags.rosbag1 import Reader, ReaderError
from rosbags.rosbag1.reader import Header, RecordType, decompressors, read_bytes, read_uint32
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.storage import Connection, Entry, Storage, unpack

LATCHED = [LATCH[0]._replace(depth=1)]  # QoS of a latched topic
ENCODING = "ros1"  # of serialised messages
# functions of rosbags -> what does the same up to a limit
_COMPRESSIONS: dict[Any, Callable[[], Any]] = {
    decompressors["bz2"]: BZ2Decompressor, decompressors["lz4"]: LZ4FrameDecompressor
}  # fmt: skip
_REMEDY = "`rosbag fix` and `rosbag reindex` of ROS 1 may repair it"
_HEADER = "std_msgs/msg/Header"
_EMPTY = "std_msgs/msg/Empty"
_DAMAGED = (ReaderError, struct.error, AssertionError, EOFError, LookupError, OSError,
            RuntimeError, ValueError)  # fmt: skip


class Ros1File(Storage):
    """An open bag; see `Storage`. RosError if it has no index or is damaged there."""

    def __init__(self, path: Path, closing: ExitStack) -> None:
        super().__init__(path)
        self._reader = Reader(path)
        self._file = closing.enter_context(path.open("rb"))
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
        times = [
            i.time for index in self._reader.indexes.values() for i in (index[:1] + index[-1:])
        ]
        if times:
            self.start, self.end = min(times), max(times) + 1
        known = sum(c.msgcount for c in self.connections)
        stated = sum(sum(c.connection_counts.values()) for c in self._reader.chunk_infos)
        if stated != known:
            self.fault(f"its index has {known} of {stated} messages; {_REMEDY}")

    def messages(
        self, ids: Collection[int], start: int | None = None, stop: int | None = None
    ) -> Iterator[Entry]:
        index = [[(i.time, i, number) for i in self._reader.indexes[number]] for number in ids]
        opened, chunk = -1, BytesIO()
        for time, place, number in merge(*index, key=itemgetter(0)):
            if (start is not None and time < start) or (stop is not None and time >= stop):
                continue
            if place.chunk_pos != opened:
                opened, chunk = place.chunk_pos, self._chunk(place.chunk_pos)
            if not chunk.getbuffer():
                continue
            try:
                yield number, time, _message(chunk, place.offset, number)
            except _DAMAGED as error:
                self._damaged(error)

    def _chunk(self, position: int) -> BytesIO:
        """The messages of a chunk, unpacked; nothing if it is damaged."""
        head = self._reader.chunks[position]
        try:
            self._file.seek(head.datapos)
            data = read_bytes(self._file, head.datasize)
            if kind := _COMPRESSIONS.get(head.decompressor):
                data = unpack(kind, data)
            return BytesIO(data)
        except _DAMAGED as error:
            self._damaged(error)
        return BytesIO()

    def _damaged(self, error: Exception) -> None:
        self.fault(f"it is damaged ({error}); {_REMEDY}")


def _message(chunk: BytesIO, offset: int, number: int) -> bytes:
    """The message of a connection that begins there, after definitions."""
    chunk.seek(offset)
    while (header := Header.read(chunk)).get_uint8("op") == RecordType.CONNECTION:
        chunk.seek(read_uint32(chunk), os.SEEK_CUR)
    if header.get_uint8("op") != RecordType.MSGDATA or header.get_uint32("conn") != number:
        raise ReaderError("the index leads to no message")
    return read_bytes(chunk, read_uint32(chunk))


class Ros1Converter:
    """Takes messages of one ROS 1 type to CDR. RosError if its definition cannot be read and Noetic
    does not know it.

    Types that ROS 2 has become those of Jazzy; others keep their fields.
    """

    def __init__(self, connection: Connection) -> None:
        msgtype, self.note = connection.msgtype, ""
        self.msgtype = STATIC_MSGTYPE_RENAMES.get(msgtype, msgtype)
        source, noetic = get_typestore(Stores.EMPTY), get_typestore(Stores.ROS1_NOETIC)
        try:
            if not connection.definition.strip() and msgtype in noetic.types.keys() - {_EMPTY}:
                raise ValueError("it is empty")
            source.register(get_types_from_msg(connection.definition, msgtype))
            self._convert = _converter(source, msgtype, self.msgtype)
        except Exception as error:  # rosbags has no common base, and asserts
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
            self.note = f"the definition of {msgtype} cannot be read ({reason})"
            if msgtype not in noetic.types:
                raise RosError(self.note) from error
            self.note += ": read as that of Noetic"
            self._convert = _converter(noetic, msgtype, self.msgtype)

    def __call__(self, data: bytes) -> bytes:
        """One message; its errors are those of the conversion."""
        return bytes(self._convert(data))


def _converter(source: Typestore, msgtype: str, target_type: str) -> Callable[[bytes], memoryview]:
    target = jazzy = get_typestore(Stores.ROS2_JAZZY)
    if target_type not in jazzy.types:
        target = get_typestore(Stores.EMPTY)
        target.register({**source.fielddefs, _HEADER: jazzy.fielddefs[_HEADER]})
    with contextlib.redirect_stdout(StringIO()):  # it prints that types differ
        return generate_message_converter(
            source, target, msgtype, target_type, {}, src_is2=False, dst_is2=True
        )
