# SPDX-License-Identifier: Apache-2.0
"""MCAP files of any writer, also without summary or index, and up to where they are cut.

The library `mcap` parses. Its own iterators end at the first damaged chunk, and hold all messages
in memory where there is no summary; here each chunk is read when its time comes.
"""

import os
import struct
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from heapq import heappop, heappush
from io import BytesIO
from itertools import count
from math import inf
from pathlib import Path
from typing import NamedTuple

from lz4.frame import LZ4FrameDecompressor
from mcap.exceptions import UnsupportedCompressionError
from mcap.opcode import Opcode
from mcap.reader import SeekingReader
from mcap.records import Channel, Chunk, ChunkIndex, McapRecord, Message, Schema
from mcap.stream_reader import MAGIC_SIZE, StreamReader, breakup_chunk
from mcap.summary import Summary
from rosbags.rosbag2.reader import zstd

from mmsam_ros.ros.storage import Connection, Entry, Storage, read_offers, type_name, unpack
from mmsam_ros.ros.storage_ros1 import LATCHED

_HEAD = struct.Struct("<BQ")  # of a record: opcode, size of the rest
_READ = (Opcode.SCHEMA, Opcode.CHANNEL, Opcode.MESSAGE, Opcode.CHUNK)
_END = (Opcode.DATA_END, Opcode.FOOTER)
_CHUNK_HEAD = 40  # bytes of a chunk before its messages, where they are not compressed
_COMPRESSIONS = {"lz4": LZ4FrameDecompressor, "zstd": zstd.ZstdDecompressor}
_LOOKED_AT = 1 << 24  # bytes, about
# records besides those of indexed chunks that hold no message
_BETWEEN = (Opcode.HEADER, Opcode.SCHEMA, Opcode.CHANNEL, Opcode.MESSAGE_INDEX, Opcode.ATTACHMENT,
            Opcode.METADATA)  # fmt: skip


class _Block(NamedTuple):
    """A chunk, or a message outside of chunks."""

    start: int  # time of its earliest message (ns)
    offset: int  # in the file
    size: int
    end: int  # time of its latest message
    channels: frozenset[int]  # empty: not known


class McapFile(Storage):
    """An open file; see `Storage`."""

    def __init__(self, path: Path, closing: ExitStack) -> None:
        super().__init__(path)
        self._file = closing.enter_context(path.open("rb"))
        self._size = os.fstat(self._file.fileno()).st_size
        self._summary = Summary()
        self._blocks: list[_Block] = []
        self._counts: Counter[int] = Counter()  # messages by channel
        if not self._read_summary():
            self._scan()
        self._blocks.sort()
        for channel in self._summary.channels.values():
            schema = self._summary.schemas.get(channel.schema_id, Schema(0, b"", "", ""))
            offers = read_offers(channel.metadata.get("offered_qos_profiles", ""))
            if channel.metadata.get("latching") == "1":  # converted from ROS 1
                offers = LATCHED
            self.connections.append(
                Connection(
                    channel.id,
                    channel.topic,
                    type_name(schema.name),
                    channel.message_encoding,
                    offers,
                    self._counts[channel.id],
                    schema.data.decode("utf-8", "replace"),
                )
            )
        if lost := self._counts.total() - sum(c.msgcount for c in self.connections):
            self.fault(f"{lost} messages belong to no topic")

    def messages(
        self, ids: Collection[int], start: int | None = None, stop: int | None = None
    ) -> Iterator[Entry]:
        wanted, number = set(ids), count()
        begin, end = start or 0, inf if stop is None else stop
        waiting: list[tuple[int, int, Message]] = []  # a heap, by time and order in the file
        for block in self._blocks:
            elsewhere = block.channels and not block.channels & wanted
            if elsewhere or block.end < begin or block.start >= end:
                continue
            yield from _due(waiting, block.start)
            for record in self._records(block.offset, block.size):
                if not isinstance(record, Message) or record.channel_id not in wanted:
                    continue
                if begin <= record.log_time < end:
                    heappush(waiting, (record.log_time, next(number), record))
        yield from _due(waiting, inf)

    def _read_summary(self) -> bool:
        """Take what the summary says; False if it is not enough to find everything, or the file
        contradicts it.
        """
        try:
            self._file.seek(0)
            summary = SeekingReader(self._file, record_size_limit=self._size).get_summary()
        except Exception:  # of any kind: it is damaged or cut off
            return False
        if summary is None or summary.statistics is None:
            return False
        stated, counts = summary.statistics, Counter(summary.statistics.channel_message_counts)
        blocks = [
            _Block(
                index.message_start_time,
                index.chunk_start_offset,
                index.chunk_length,
                index.message_end_time,
                frozenset(index.message_index_offsets),
            )
            for index in summary.chunk_indexes
        ]
        busy = [block for block in blocks if block.end]  # one without messages has no times
        start = min((block.start for block in busy), default=0)
        end = max((block.end for block in busy), default=0)
        if not (
            stated.message_count == counts.total()
            and stated.chunk_count == len(blocks) > 0
            and (stated.message_start_time, stated.message_end_time) == (start, end)
            and counts.keys() <= summary.channels.keys()
            and {c.schema_id for c in summary.channels.values()} <= {0, *summary.schemas}
            and self._is_complete(summary.chunk_indexes)
            and all(self._fits(block, summary) for block in _sample(blocks))
        ):
            return False
        self._summary, self._counts, self._blocks = summary, counts, blocks
        self.start, self.end = start, end + 1
        return True

    def _is_complete(self, indexes: Iterable[ChunkIndex]) -> bool:
        """Whether all chunks and messages of the file are those of the indexes; reads what lies
        between them.
        """
        at = MAGIC_SIZE
        places = [(i.chunk_start_offset, i.chunk_length + i.message_index_length) for i in indexes]
        for begin, size in [*sorted(places), (self._size, 0)]:
            while at < begin:
                opcode, length = self._head(at)
                if opcode in _END and begin == self._size:
                    return True
                if opcode not in _BETWEEN:
                    return False
                at += length
            if at != begin:
                return False
            at += size
        return False

    def _fits(self, block: _Block, summary: Summary) -> bool:
        """Whether the records of a chunk are as the summary says, if they can be read."""
        if self._head(block.offset) != (Opcode.CHUNK, block.size):
            return False
        try:
            records = self._unpack(block.offset, block.size)
        except Exception:  # it is damaged, which is said when its time comes
            return True
        messages = [record for record in records if isinstance(record, Message)]
        times = [message.log_time for message in messages] or [block.start, block.end]
        return (
            (min(times), max(times)) == (block.start, block.end)
            and (not block.channels or block.channels >= {m.channel_id for m in messages})
            and all(summary.channels.get(r.id) == r for r in records if isinstance(r, Channel))
            and all(summary.schemas.get(r.id) == r for r in records if isinstance(r, Schema))
        )

    def _scan(self) -> None:
        """Read the whole file up to its end or to where it is cut."""
        at, opcode = MAGIC_SIZE, 0
        while opcode not in _END:
            before = opcode
            opcode, size = self._head(at)
            if opcode and at + size <= self._size:
                if opcode in _READ:
                    self._take(at, size)
                at += size
            elif opcode == Opcode.CHUNK and self._file.read(_CHUNK_HEAD)[28:32] == bytes(4):
                at += _HEAD.size + _CHUNK_HEAD  # not compressed: its messages up to the cut
            else:
                self.fault(
                    f"it is cut at byte {at} of {self._size}; if messages are missing, "
                    "`mcap recover` may find more"
                )
                zeros = (opcode, size) == (0, _HEAD.size) and at + size <= self._size
                if zeros and before == Opcode.MESSAGE and self._blocks:
                    # a full disk leaves zeros: that message may end in some, too
                    self._counts.subtract(self._blocks.pop().channels)
                break
        self.start = min((block.start for block in self._blocks), default=0)
        self.end = max((block.end + 1 for block in self._blocks), default=0)

    def _take(self, at: int, size: int) -> None:
        """Note what a record holds."""
        times, channels = [], []
        for record in self._records(at, size):
            if isinstance(record, Message):
                times.append(record.log_time)
                channels.append(record.channel_id)
            elif isinstance(record, Schema):
                self._summary.schemas[record.id] = record
            elif isinstance(record, Channel):
                self._summary.channels[record.id] = record
        if times:
            self._counts.update(channels)
            self._blocks.append(_Block(min(times), at, size, max(times), frozenset(channels)))

    def _head(self, at: int) -> tuple[int, int]:
        """(opcode, size with its head) of the record at a byte; opcode 0 beyond the end."""
        self._file.seek(at)
        head = self._file.read(_HEAD.size)
        opcode, size = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0)
        return opcode, size + _HEAD.size

    def _records(self, at: int, size: int) -> list[McapRecord]:
        """The record at a byte, or those in it if it is a chunk; damage is noted."""
        try:
            return self._unpack(at, size)
        except Exception as error:  # those of the decompressors have no common base
            self.fault(
                f"the record at byte {at} is damaged ({str(error) or type(error).__name__}); its "
                "messages are missing, `mcap recover` may find some of them"
            )
            return []

    def _unpack(self, at: int, size: int) -> list[McapRecord]:
        self._file.seek(at)
        data = BytesIO(self._file.read(min(size, self._size)))
        record = next(StreamReader(data, skip_magic=True, emit_chunks=True).records)
        if not isinstance(record, Chunk):
            return [record]
        if record.compression:
            if record.compression not in _COMPRESSIONS:
                raise UnsupportedCompressionError(record.compression)
            content = unpack(_COMPRESSIONS[record.compression], record.data)
            record = replace(record, compression="", data=content)
        return breakup_chunk(record, validate_crc=True)


def _sample(blocks: Sequence[_Block]) -> Sequence[_Block]:
    """Blocks that are looked at when a file is opened: all of a small one, few of a large one."""
    step = 1 + sum(block.size for block in blocks) // _LOOKED_AT
    return [*blocks[:-1:step], blocks[-1]]


def _due(waiting: list[tuple[int, int, Message]], until: float) -> Iterator[Entry]:
    """Messages up to a time, which leave the heap."""
    while waiting and waiting[0][0] <= until:
        message = heappop(waiting)[2]
        yield message.channel_id, message.log_time, message.data
