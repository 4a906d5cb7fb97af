# SPDX-License-Identifier: Apache-2.0
"""MCAP files of any writer, also without summary or index, and up to where they are cut.

The reader of `rosbags` takes sound files of rosbag2 only: one schema of another kind, another
profile or a missing end makes it refuse all topics.
"""

import os
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
)
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.reader import zstd
from rosbags.rosbag2.storage_mcap import decompress

from mmsam_ros.ros.storage import FORMATS, MCAP_MAGIC, Entry, read_offers, type_name
from mmsam_ros.ros.storage_ros1 import LATCHED

# op codes of records, https://mcap.dev/spec
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _CHUNK_INDEX, _STATISTICS, _DATA_END = (
    2, 3, 4, 5, 6, 8, 11, 15,
)  # fmt: skip
_FOOTER_SIZE = 9 + 20 + len(MCAP_MAGIC)
_DAMAGED = (ReaderError, zstd.ZstdError, struct.error, EOFError, RuntimeError, ValueError)


class _Cursor:
    """Reads the fields of a record one after the other."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def numbers(self, layout: str) -> tuple[int, ...]:
        values = struct.unpack_from(f"<{layout}", self.data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return values

    def bytes(self, size: int) -> memoryview:
        part = self.data[self.at : self.at + size]
        if len(part) < size:
            raise EOFError(f"expected {size} bytes, found {len(part)}")
        self.at += size
        return part

    def prefixed(self) -> memoryview:
        return self.bytes(self.numbers("I")[0])

    def text(self) -> str:
        return str(self.prefixed(), "utf-8", "replace")


@dataclass
class _Chunk:
    """A block of messages: where its content is, and what is known of it beforehand."""

    offset: int
    size: int
    start: int
    end: int
    channels: set[int]  # empty: not known


@dataclass
class _Contents:
    """What a file has, by its summary or by a scan of it."""

    schemas: dict[int, tuple[str, MessageDefinition]] = field(default_factory=dict)
    channels: dict[int, Connection] = field(default_factory=dict)
    chunks: list[_Chunk] = field(default_factory=list)
    loose: list[tuple[int, int, int, int]] = field(default_factory=list)  # time, id, offset, size
    counts: dict[int, int] = field(default_factory=dict)  # messages by channel
    times: tuple[int, int] = (0, -1)  # of the earliest and the latest message

    def take(self, op: int, data: memoryview) -> None:
        """Note a schema or channel."""
        record = _Cursor(data)
        if op == _SCHEMA:
            (number,) = record.numbers("H")
            name, encoding, text = record.text(), record.text(), record.text()
            kind = FORMATS.get(encoding, MessageDefinitionFormat.NONE)
            self.schemas[number] = type_name(name), MessageDefinition(kind, text)
        elif op == _CHANNEL:
            number, schema = record.numbers("HH")
            topic, encoding, metadata = record.text(), record.text(), _pairs(record.prefixed())
            nothing = "", MessageDefinition(MessageDefinitionFormat.NONE, "")
            msgtype, definition = self.schemas.get(schema, nothing)
            offers = read_offers(metadata.get("offered_qos_profiles", ""))
            if metadata.get("latching") == "1":  # converted from ROS 1
                offers = LATCHED
            ext = ConnectionExtRosbag2(encoding, offers)
            self.channels[number] = Connection(number, topic, msgtype, definition, "", 0, ext, None)

    def count(self, channel: int, time: int) -> None:
        """Note a message."""
        first, last = self.times
        self.times = (min(first, time), max(last, time)) if self.counts else (time, time)
        self.counts[channel] = self.counts.get(channel, 0) + 1

    def drop_last(self) -> None:
        """Forget the message before zeros, which a full disk leaves: it may end in some, too."""
        if self.loose:
            self.counts[self.loose.pop()[1]] -= 1


class McapFile:
    """An open file; see `Storage`. RosError if not even its header can be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.faults: dict[str, None] = {}
        self.notes: list[str] = []
        self._file: BinaryIO = path.open("rb")
        self._size = os.fstat(self._file.fileno()).st_size
        try:
            self._contents = self._read_summary() or self._scan()
        except BaseException:
            self.close()
            raise
        counts = self._contents.counts
        self.connections = [
            c._replace(msgcount=counts.get(c.id, 0)) for c in self._contents.channels.values()
        ]
        self.start, last = self._contents.times
        self.end = last + 1

    def close(self) -> None:
        self._file.close()

    def messages(
        self, ids: Collection[int], start: int | None = None, stop: int | None = None
    ) -> Iterator[Entry]:
        wanted = set(ids)
        sources = [self._loose(wanted)]
        for chunk in self._contents.chunks:
            inside = (start is None or start <= chunk.end) and (stop is None or chunk.start < stop)
            if inside and (not chunk.channels or chunk.channels & wanted):
                sources.append(self._of_chunk(chunk, wanted))
        for time, channel, data in merge(*sources, key=itemgetter(0)):
            if channel < 0 or (start is not None and time < start):
                continue
            if stop is None or time < stop:
                yield channel, time, data

    def _loose(self, wanted: set[int]) -> Iterator[tuple[int, int, bytes]]:
        """(time, channel, data) of messages outside of chunks."""
        for time, channel, offset, size in sorted(self._contents.loose):
            if channel in wanted:
                yield time, channel, self._read(offset, size)

    def _of_chunk(self, chunk: _Chunk, wanted: set[int]) -> Iterator[tuple[int, int, bytes]]:
        """(time, channel, data) of a chunk, after an entry of channel -1 at its beginning, so that
        chunks are only read when their time comes.
        """
        yield chunk.start, -1, b""
        found = []
        for op, data in self._chunk_records(chunk.offset, chunk.size):
            if op == _MESSAGE and len(data) >= 22:
                channel, _, time, _ = struct.unpack_from("<HIQQ", data)
                if channel in wanted:
                    found.append((time, channel, bytes(data[22:])))
        yield from sorted(found, key=itemgetter(0))

    def _chunk_records(self, offset: int, size: int) -> Iterator[tuple[int, memoryview]]:
        """(op, content) of a chunk's records; damage is noted and ends them."""
        try:
            content, whole = _unpacked(memoryview(self._read(offset, size)))
            yield from _records(content, whole)
        except _DAMAGED as error:
            if offset + size >= self._size:
                return  # it is the one that is cut
            self._fault(
                f"the chunk at byte {offset} is damaged ({error}); its messages are missing, "
                "`mcap recover` may find some of them"
            )

    def _fault(self, text: str) -> None:
        self.faults[f"{self.path.name}: {text}"] = None

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

    def _read_summary(self) -> _Contents | None:
        """What the summary says; None where there is none, or it is not enough to find everything:
        every chunk, every channel and the schema of each.
        """
        end = self._size - _FOOTER_SIZE
        footer = self._read(max(end, 0), _FOOTER_SIZE)
        if not footer.endswith(MCAP_MAGIC) or footer[:1] != bytes([_FOOTER]) or end < 0:
            return None
        (begin,) = struct.unpack_from("<Q", footer, 9)
        if not len(MCAP_MAGIC) < begin < end:
            return None
        contents = _Contents()
        claimed: tuple[int, ...] = ()
        try:
            for op, data in _records(memoryview(self._read(begin, end - begin)), whole=True):
                record = _Cursor(data)
                if op in (_SCHEMA, _CHANNEL):
                    contents.take(op, data)
                elif op == _CHUNK_INDEX:
                    first, last, offset, size = record.numbers("QQQQ")
                    pairs = struct.iter_unpack("<HQ", record.prefixed())
                    channels = {channel for channel, _ in pairs}
                    contents.chunks.append(_Chunk(offset + 9, size - 9, first, last, channels))
                elif op == _STATISTICS:
                    claimed = record.numbers("QHIIIIQQ")
                    contents.counts = dict(struct.iter_unpack("<HQ", record.prefixed()))
        except _DAMAGED:
            return None
        if not claimed:
            return None
        messages, _, known, _, _, chunks, first, last = claimed
        contents.times = (first, last) if messages else (0, -1)
        complete = (
            messages > 0
            and chunks == len(contents.chunks) > 0
            and known == len(contents.channels)
            and sum(contents.counts.values()) == messages
            and all(channel in contents.channels for channel in contents.counts)
            and all(channel.msgtype for channel in contents.channels.values())
            and all(self._is_chunk(chunk) for chunk in contents.chunks)
        )
        return contents if complete else None

    def _is_chunk(self, chunk: _Chunk) -> bool:
        head = self._read(chunk.offset - 9, 9)
        return len(head) == 9 and struct.unpack("<BQ", head) == (_CHUNK, chunk.size)

    def _scan(self) -> _Contents:
        """Read the whole file up to its end or to where it is cut."""
        contents, at = _Contents(), len(MCAP_MAGIC)
        while True:
            head = self._read(at, 9)
            op, size = struct.unpack("<BQ", head) if len(head) == 9 else (0, 0)
            begin, at = at, at + 9 + size
            whole = op != 0 and at <= self._size
            if op in (_DATA_END, _FOOTER) and whole:
                return contents
            if op == _MESSAGE and whole and size >= 22:
                channel, _, time, _ = struct.unpack("<HIQQ", self._read(begin + 9, 22))
                contents.loose.append((time, channel, begin + 31, size - 22))
                contents.count(channel, time)
            elif op == _CHUNK:
                self._scan_chunk(contents, begin + 9, min(size, self._size - begin - 9))
            elif op in (_SCHEMA, _CHANNEL) and whole:
                self._take(contents, op, memoryview(self._read(begin + 9, size)))
            if not whole:
                if len(head) == 9 and op == 0:
                    contents.drop_last()
                self._fault(
                    f"it is cut at byte {begin} of {self._size}; if messages are missing, "
                    "`mcap recover` may find more"
                )
                return contents

    def _scan_chunk(self, contents: _Contents, offset: int, size: int) -> None:
        times, channels = [], set()
        for op, data in self._chunk_records(offset, size):
            if op == _MESSAGE and len(data) >= 22:
                channel, _, time, _ = struct.unpack_from("<HIQQ", data)
                times.append(time)
                channels.add(channel)
                contents.count(channel, time)
            elif op in (_SCHEMA, _CHANNEL):
                self._take(contents, op, data)
        if times:
            chunk = _Chunk(offset, size, min(times), max(times), channels)
            contents.chunks.append(chunk)

    def _take(self, contents: _Contents, op: int, data: memoryview) -> None:
        try:
            contents.take(op, data)
        except _DAMAGED as error:
            self._fault(f"a definition of topics is damaged: {error}")


def _records(data: memoryview, whole: bool) -> Iterator[tuple[int, memoryview]]:
    """(op, content) of records; EOFError where the last one of a whole block is cut."""
    at = 0
    while at + 9 <= len(data):
        op, size = struct.unpack_from("<BQ", data, at)
        begin, at = at + 9, at + 9 + size
        if at > len(data):
            break
        yield op, data[begin:at]
    if whole and at != len(data):
        raise EOFError("its last record is cut")


def _unpacked(data: memoryview) -> tuple[memoryview, bool]:
    """The records in a chunk, and whether they are all; of a cut one those that are left."""
    record = _Cursor(data)
    _, _, size, crc = record.numbers("QQQI")
    compression, (packed_size,) = record.text(), record.numbers("Q")
    packed = data[record.at : record.at + packed_size]
    if len(packed) == packed_size:
        return memoryview(decompress(bytes(packed), compression, size, crc)), True
    if compression == "zstd":
        return memoryview(zstd.ZstdDecompressor().decompress(packed)), False
    if compression:  # an incomplete frame cannot be unpacked
        return memoryview(b""), False
    return packed, False


def _pairs(data: memoryview) -> dict[str, str]:
    """A map of strings."""
    record, pairs = _Cursor(data), {}
    while record.at < len(data):
        key = record.text()
        pairs[key] = record.text()
    return pairs
