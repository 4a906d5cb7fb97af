# SPDX-License-Identifier: Apache-2.0
"""MCAP files byte by byte, as other writers lay them out."""

from __future__ import annotations

import struct
from binascii import crc32
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rosbags.rosbag1.writer import lz4_compress
from rosbags.rosbag2.reader import zstd

MAGIC = b"\x89MCAP0\r\n"
PACK = {"": bytes, "lz4": lz4_compress, "zstd": zstd.compress}


@dataclass(frozen=True)
class Channel:
    topic: str
    type: str = "std_msgs/msg/String"
    schema: str = "ros2msg"  # encoding; empty: no schema
    definition: str = "string data\n"
    encoding: str = "cdr"
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Layout:
    profile: str = "ros2"
    compression: str | None = "zstd"  # of chunks; None: no chunks
    chunk: int = 3  # messages in a chunk
    summary: bool = True
    message_index: bool = True
    statistics: bool = True
    repeat_channels: bool = True
    crc: bool = True

    def but(self, **change: object) -> Layout:
        return replace(self, **change)  # type: ignore[arg-type]


def text(value: str) -> bytes:
    return struct.pack("<I", len(value.encode())) + value.encode()


def record(op: int, content: bytes) -> bytes:
    return struct.pack("<BQ", op, len(content)) + content


def definitions(channels: Sequence[Channel]) -> bytes:
    """Schema and channel records, channels numbered from 1."""
    out = b""
    for number, channel in enumerate(channels, 1):
        if channel.schema:
            body = struct.pack("<H", number) + text(channel.type) + text(channel.schema)
            out += record(3, body + text(channel.definition))
        pairs = b"".join(text(key) + text(value) for key, value in channel.metadata)
        body = struct.pack("<HH", number, number if channel.schema else 0)
        body += text(channel.topic) + text(channel.encoding)
        out += record(4, body + struct.pack("<I", len(pairs)) + pairs)
    return out


def message(channel: int, time: int, data: bytes) -> bytes:
    return record(5, struct.pack("<HIQQ", channel, 0, time, time) + data)


def write_mcap(
    path: Path,
    channels: Sequence[Channel],
    messages: Sequence[tuple[int, int, bytes]],
    layout: Layout | None = None,
) -> Path:
    """`messages`: (channel from 1, time, data)."""
    layout = layout or Layout()
    out = MAGIC + record(1, text(layout.profile) + text("other"))
    indexes = b""
    step = layout.chunk if layout.compression is not None else len(messages) or 1
    blocks = [messages[i : i + step] for i in range(0, len(messages), step)]
    for number, block in enumerate(blocks):
        records = definitions(channels) if number == 0 else b""
        places: dict[int, list[tuple[int, int]]] = {}
        for channel, time, data in block:
            places.setdefault(channel, []).append((time, len(records)))
            records += message(channel, time, data)
        if layout.compression is None:
            out += records
            continue
        times = [time for _, time, _ in block]
        packed = PACK[layout.compression](records)
        crc = crc32(records) if layout.crc else 0
        head = struct.pack("<QQQI", min(times), max(times), len(records), crc)
        begin = len(out)
        out += record(6, head + text(layout.compression) + struct.pack("<Q", len(packed)) + packed)
        length, offsets, index = len(out) - begin, b"", b""
        if layout.message_index:
            for channel, entries in places.items():
                offsets += struct.pack("<HQ", channel, len(out) + len(index))
                body = b"".join(struct.pack("<QQ", *entry) for entry in entries)
                index += record(7, struct.pack("<HI", channel, len(body)) + body)
        out += index
        indexes += record(
            8,
            struct.pack("<QQQQI", min(times), max(times), begin, length, len(offsets))
            + offsets
            + struct.pack("<Q", len(index))
            + text(layout.compression)
            + struct.pack("<QQ", len(packed), len(records)),
        )
    out += record(15, struct.pack("<I", 0))
    start = 0
    if layout.summary:
        start = len(out)
        out += definitions(channels) if layout.repeat_channels else b""
        out += indexes if layout.compression is not None else b""
        if layout.statistics:
            times = [time for _, time, _ in messages] or [0]
            counts = b"".join(
                struct.pack("<HQ", number, sum(c == number for c, _, _ in messages))
                for number in range(1, len(channels) + 1)
            )
            chunks = len(blocks) if layout.compression is not None else 0
            head = struct.pack(
                "<QHIIIIQQ", len(messages), len(channels), len(channels), 0, 0, chunks,
                min(times), max(times),
            )  # fmt: skip
            out += record(11, head + struct.pack("<I", len(counts)) + counts)
    out += record(2, struct.pack("<QQI", start, 0, 0)) + MAGIC
    path.write_bytes(out)
    return path
