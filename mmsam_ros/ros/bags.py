# SPDX-License-Identifier: Apache-2.0
"""Opening rosbag2 recordings with `rosbags`; needs no ROS."""

import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.rosbag2 import reader as rosbag2
from rosbags.typesys import Stores, get_typestore

from mmsam_ros.ros.errors import RosError

R = TypeVar("R", Reader, AnyReader)

SUFFIXES = (".mcap", ".db3")
# What rosbags raises for a damaged file; lz4 has no error of its own.
_DAMAGED = (AnyReaderError, ReaderError, rosbag2.zstd.ZstdError, struct.error, EOFError,
            LookupError, OSError, RuntimeError, TypeError, ValueError)  # fmt: skip
_ZSTD = b"\x28\xb5\x2f\xfd"


def open_raw(path: Path) -> AbstractContextManager[Reader]:
    """A reader of serialised messages; RosError if the bag cannot be read."""
    return _opened(path, Reader)


def open_decoded(path: Path) -> AbstractContextManager[AnyReader]:
    """A reader that decodes; a bag without type definitions is read with those of Jazzy."""
    types = get_typestore(Stores.ROS2_JAZZY)
    return _opened(path, lambda bag: AnyReader([bag], default_typestore=types))


@contextmanager
def _opened(path: Path, make: Callable[[Path], R]) -> Iterator[R]:
    _check_path(path)
    try:
        reader = make(path)
        reader.open()
    except _DAMAGED as error:
        raise RosError(f"{path}: not a readable rosbag2: {error}") from error
    try:
        for connection in reader.connections:
            if connection.msgtype.count("/") != 2:
                raise RosError(
                    f"{path}: topic {connection.topic} has type {connection.msgtype!r}, expected "
                    "package/msg/Name; the bag is from an old ROS 2, convert or record it again"
                )
        yield reader
    finally:
        reader.close()


def _check_path(path: Path) -> None:
    if not path.exists():
        raise RosError(f"{path}: no such file or folder")
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        found = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
        hint = f"give one of its files instead ({', '.join(found)})" if found else "no bag files"
        raise RosError(f"{path}: a rosbag2 folder needs a metadata.yaml, found none; {hint}")
    if path.is_file() and path.suffix not in SUFFIXES:
        hint = "; convert ROS 1 bags with rosbags-convert" if path.suffix == ".bag" else ""
        raise RosError(f"{path}: expected a folder or a file {' or '.join(SUFFIXES)}{hint}")


def read_messages(
    reader: Reader | AnyReader, connections: list[Connection], *window: int, **limits: int
) -> Iterator[tuple[Connection, int, bytes]]:
    """The reader's messages, (connection, time, data); RosError for one that cannot be read."""
    try:
        for connection, stamp, data in reader.messages(connections, *window, **limits):
            if data[:4] == _ZSTD:
                raise RosError(
                    f"messages of {connection.topic} are compressed one by one; give the folder "
                    "with the metadata.yaml that says so, not the file"
                )
            yield connection, stamp, data
    except RosError:
        raise
    except _DAMAGED as error:
        raise RosError(f"a message of the bag cannot be read: {error}") from error
