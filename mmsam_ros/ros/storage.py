# SPDX-License-Identifier: Apache-2.0
"""What the files of recordings have in common, whatever their format. Needs no ROS."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.interfaces import Qos
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.metadata import parse_qos
from rosbags.typesys.msg import normalize_msgtype

# Bytes that a compressed chunk or message may hold; the largest image that is read has half of it.
MAX_UNPACKED = 2**30

# One message: id of its connection, receive time (ns), serialised message.
Entry = tuple[int, int, bytes]


@dataclass(frozen=True)
class Connection:
    """The messages of one topic and type."""

    id: int  # unique in its file
    topic: str
    msgtype: str
    encoding: str  # of serialised messages: cdr, ros1, ...
    offers: list[Qos]  # of each publisher, as far as they are recorded
    msgcount: int
    definition: str = ""  # of a ROS 1 type


class Storage(ABC):
    """One open file. Damage is noted when it is met; what is sound is still read.

    Attributes:
        faults: What is lost, in order, each once.
        start: Receive time of the earliest message (ns); 0 if there is none.
        end: One after the receive time of the latest message.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[Connection] = []
        self.faults: dict[str, None] = {}
        self.start = self.end = 0

    def fault(self, text: str) -> None:
        """Note what is lost."""
        self.faults[f"{self.path.name}: {text}"] = None

    @abstractmethod
    def messages(
        self, ids: Collection[int], start: int | None = None, stop: int | None = None
    ) -> Iterator[Entry]:
        """Messages of some connections from `start` to before `stop`, by receive time; empty where
        one cannot be read.
        """


def unpack(kind: Callable[[], Any], data: bytes) -> bytes:
    """What a compressed chunk or message holds; ValueError if it is cut, or holds more than
    `MAX_UNPACKED`. `kind` makes a decompressor of bz2, lz4 or zstd.
    """
    parts, room = [], MAX_UNPACKED
    while data:
        decompressor = kind()
        part = decompressor.decompress(data, max_length=room)
        if not decompressor.eof:
            found = f"{len(data)} compressed bytes are cut or hold more than expected"
            raise ValueError(f"{found}, {MAX_UNPACKED} bytes at most")
        parts.append(part)
        room -= len(part)
        data = decompressor.unused_data
    return b"".join(parts)


def type_name(name: str) -> str:
    """package/msg/Name of a type, also where it is written package/Name (until 2019, ROS 1) or as
    DDS does; other names as they are.
    """
    parts = name.replace("::", "/").split("/")
    if "dds_" in parts:  # package::msg::dds_::Name_
        parts = [part.removesuffix("_") for part in parts if part != "dds_"]
    joined = "/".join(parts)
    return normalize_msgtype(joined) if len(parts) == 2 else joined


def read_offers(text: str) -> list[Qos]:
    """Recorded QoS profiles; none where they cannot be read."""
    with contextlib.suppress(
        ReaderError, LookupError, TypeError, ValueError, AttributeError, RecursionError
    ):
        return parse_qos(text)
    return []
