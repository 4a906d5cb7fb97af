# SPDX-License-Identifier: Apache-2.0
"""Recordings of numbered texts, and what is read of them."""

from __future__ import annotations

from pathlib import Path

from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mmsam_ros.ros.recording import Recording

STORE = get_typestore(Stores.ROS2_JAZZY)
STRING = "std_msgs/msg/String"
EACH = 4  # messages in a file
TEXTS = [f"text {i}" for i in range(3 * EACH)]
PLUGINS = [StoragePlugin.MCAP, StoragePlugin.SQLITE3]
START = 1_700_000_000_000_000_000


def cdr(value: str) -> bytes:
    return bytes(STORE.serialize_cdr(STORE.types[STRING](value), STRING))


def write_file(
    folder: Path,
    texts: list[str],
    plugin: StoragePlugin = StoragePlugin.SQLITE3,
    *,
    topic: str = "/a",
    begin: int = START,
    step: int = 1_000_000,
    compress: CompressionMode | None = None,
) -> Path:
    """One bag with texts; returns its storage file."""
    writer = Writer(folder, version=9, storage_plugin=plugin)
    if compress:
        writer.set_compression(compress, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(topic, STRING, typestore=STORE)
        for index, value in enumerate(texts):
            writer.write(connection, begin + index * step, cdr(value))
    (file,) = (path for path in folder.iterdir() if path.name != "metadata.yaml")
    return file


def read(path: Path) -> tuple[list[str], list[str], list[str]]:
    """Texts in the order in which they are played, notes and faults."""
    with Recording(path) as recording:
        texts = [
            recording.deserialize(data, connection.msgtype).data  # type: ignore[attr-defined]
            for connection, _, data in recording.messages()
        ]
        return texts, recording.notes, recording.faults
