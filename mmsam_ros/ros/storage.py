# SPDX-License-Identifier: Apache-2.0
"""What the files of recordings have in common, whatever their format. Needs no ROS."""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

from rosbags.interfaces import Connection, MessageDefinitionFormat, Qos
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.metadata import parse_qos
from rosbags.typesys.msg import normalize_msgtype

# One message: id of its connection, receive time (ns), serialised message.
Entry = tuple[int, int, bytes]

MCAP_MAGIC = b"\x89MCAP0\r\n"
FORMATS = {
    "ros2msg": MessageDefinitionFormat.MSG,
    "ros1msg": MessageDefinitionFormat.MSG,
    "ros2idl": MessageDefinitionFormat.IDL,
    "omgidl": MessageDefinitionFormat.IDL,
}


class Storage(Protocol):
    """One open file. Damage is noted in `faults` when it is met, and what is sound is given."""

    path: Path
    connections: list[Connection]  # with unique ids
    start: int  # receive time of the earliest message (ns); 0 if there is none
    end: int  # one after the receive time of the latest message
    faults: dict[str, None]  # in order, each once
    notes: list[str]  # that nothing is lost by

    def messages(
        self, ids: Collection[int], start: int | None = None, stop: int | None = None
    ) -> Iterator[Entry]:
        """Messages of some connections from `start` to before `stop`, by receive time."""

    def close(self) -> None:
        """Close the file."""


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
    with contextlib.suppress(ReaderError, LookupError, TypeError, ValueError, AttributeError):
        return parse_qos(text)
    return []
