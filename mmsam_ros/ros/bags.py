# SPDX-License-Identifier: Apache-2.0
"""Opening rosbag2 recordings with `rosbags`; needs no ROS."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mmsam_ros.ros.errors import RosError

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.interfaces import Connection
    from rosbags.rosbag2 import Reader

R = TypeVar("R", "Reader", "AnyReader")

SUFFIXES = (".mcap", ".db3")
# What rosbags raises for a damaged file besides its own errors.
_DAMAGED = (EOFError, LookupError, OSError, TypeError, ValueError, struct.error)
_ZSTD = b"\x28\xb5\x2f\xfd"


def check_path(path: Path) -> None:
    """Raises RosError unless `path` looks like a rosbag2 folder or a storage file."""
    if not path.exists():
        raise RosError(f"{path}: no such file or folder")
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        found = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
        hint = (
            f"give one of its files instead ({', '.join(found)})" if found else "no bag files in it"
        )
        raise RosError(f"{path}: a rosbag2 folder needs a metadata.yaml, found none; {hint}")
    if path.is_file() and path.suffix not in SUFFIXES:
        hint = "; ROS 1 bags can be converted with rosbags-convert" if path.suffix == ".bag" else ""
        raise RosError(f"{path}: expected a folder or a file {' or '.join(SUFFIXES)}{hint}")


def _check_types(path: Path, connections: list[Connection]) -> None:
    for connection in connections:
        if connection.msgtype.count("/") != 2:
            raise RosError(
                f"{path}: topic {connection.topic} has type {connection.msgtype!r}, expected "
                "package/msg/Name; the bag was recorded by an old ROS 2 and has to be recorded or "
                "converted anew"
            )


@contextmanager
def _opened(path: Path, make: Callable[[Path], R]) -> Iterator[R]:
    check_path(path)
    try:
        from rosbags.highlevel import AnyReaderError
        from rosbags.rosbag2 import ReaderError
    except ImportError as error:
        raise RosError(
            f"{path}: bags are read with rosbags (pip install rosbags): {error}"
        ) from error

    with ExitStack() as stack:
        try:
            reader = stack.enter_context(make(path))
        except (AnyReaderError, ReaderError, *_DAMAGED) as error:
            raise RosError(f"{path}: not a readable rosbag2: {error}") from error
        _check_types(path, reader.connections)
        try:
            yield reader
        except (AnyReaderError, ReaderError) as error:  # a damaged chunk on the way
            raise RosError(f"{path}: not a readable rosbag2: {error}") from error


def open_raw(path: Path) -> AbstractContextManager[Reader]:
    """A reader of serialised messages; what is wrong with the bag is raised as RosError."""

    def make(path: Path) -> Reader:
        from rosbags.rosbag2 import Reader

        return Reader(path)

    return _opened(path, make)


def open_decoded(path: Path) -> AbstractContextManager[AnyReader]:
    """A reader that decodes; bags without type definitions are taken as Jazzy's."""

    def make(path: Path) -> AnyReader:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore

        return AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY))

    return _opened(path, make)


def read_messages(
    reader: Reader | AnyReader, connections: list[Connection], *window: int, **limits: int
) -> Iterator[tuple[Connection, int, bytes]]:
    """The reader's messages, (connection, time, data); RosError where the bag is damaged."""
    from rosbags.rosbag2 import reader as rosbag2

    damaged = (*_DAMAGED, RuntimeError, rosbag2.zstd.ZstdError)  # lz4 has no error of its own
    found = iter(reader.messages(connections, *window, **limits))
    while True:
        try:
            message = next(found)
        except StopIteration:
            return
        except damaged as error:
            raise RosError(f"a message of the bag cannot be read: {error}") from error
        yield message


def check_cdr(path: Path, topic: str, data: bytes) -> bytes:
    """The serialised message itself, unless it is a compressed one out of its folder."""
    if data[:4] == _ZSTD:
        raise RosError(
            f"{path}: messages of {topic} are compressed one by one; give the folder with the "
            "metadata.yaml that says so, not the file"
        )
    return data
