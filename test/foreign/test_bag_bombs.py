# SPDX-License-Identifier: Apache-2.0
"""Recordings that hold far more than their files: what is too much is left out and said."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from mcap.writer import CompressionType, Writer
from rosbags.rosbag1 import Writer as BagWriter
from rosbags.rosbag2.reader import zstd
from rosbags.typesys import Stores, get_typestore

from mmsam_ros.ros import storage
from mmsam_ros.ros.recording import Recording

LIMIT = 1 << 20
TYPE = "std_msgs/msg/String"
SMALL, LARGE = bytes(100), bytes(LIMIT + 1)
Write = Callable[[Path, list[bytes]], None]


def mcap(compression: CompressionType) -> Write:
    def write(path: Path, messages: list[bytes]) -> None:
        with path.open("wb") as file:
            writer = Writer(file, chunk_size=1, compression=compression)
            writer.start()
            schema = writer.register_schema(TYPE, "ros2msg", b"string data")
            channel = writer.register_channel("/text", "cdr", schema)
            for time, data in enumerate(messages, 1):
                writer.add_message(channel, time, data, time)
            writer.finish()

    return write


def database(path: Path, messages: list[bytes]) -> None:
    with sqlite3.connect(path) as file:
        file.executescript(
            "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, "
            "serialization_format TEXT, offered_qos_profiles TEXT);"
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, "
            f"data BLOB); INSERT INTO topics VALUES(1, '/text', '{TYPE}', 'cdr', '')"
        )
        rows = [(time, zstd.compress(data)) for time, data in enumerate(messages, 1)]
        file.executemany("INSERT INTO messages(topic_id, timestamp, data) VALUES(1, ?, ?)", rows)


def bag(compression: BagWriter.CompressionFormat) -> Write:
    def write(path: Path, messages: list[bytes]) -> None:
        writer = BagWriter(path)
        writer.set_compression(compression)
        writer.chunk_threshold = 1
        types = get_typestore(Stores.ROS1_NOETIC)
        with writer:
            connection = writer.add_connection("/text", TYPE, typestore=types)
            for time, data in enumerate(messages, 1):
                text = types.types[TYPE](data.decode())
                writer.write(connection, time, types.serialize_ros1(text, TYPE))

    return write


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.mcap", mcap(CompressionType.ZSTD)), ("a.mcap", mcap(CompressionType.LZ4)),
        ("a.db3", database),
        ("a.bag", bag(BagWriter.CompressionFormat.BZ2)),
        ("a.bag", bag(BagWriter.CompressionFormat.LZ4)),
    ],
)  # fmt: skip
def test_a_chunk_of_too_much_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: Write
) -> None:
    monkeypatch.setattr(storage, "MAX_UNPACKED", LIMIT)
    path = tmp_path / name
    write(path, [SMALL, LARGE, SMALL])
    with Recording(path) as recording:
        assert [time for _, time, _ in recording.messages()] == [1, 3]
        (fault,) = recording.faults
    assert f"hold more than expected, {LIMIT} bytes at most" in fault


@pytest.mark.parametrize(
    "rows",
    [
        "WITH RECURSIVE c(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM c) SELECT id FROM c",
        "SELECT a.id FROM kept a, kept b, kept c, kept d, kept e, kept f",
    ],
)
def test_a_view_without_end_is_cut(tmp_path: Path, rows: str) -> None:
    path = tmp_path / "a.db3"
    database(path, [SMALL] * 50)
    with sqlite3.connect(path) as file:
        file.executescript(
            "ALTER TABLE messages RENAME TO kept; CREATE VIEW messages AS "
            f"SELECT id, 1 AS topic_id, id AS timestamp, zeroblob(9) AS data FROM ({rows})"
        )
    with Recording(path) as recording:
        assert recording.message_count <= path.stat().st_size
        (fault,) = recording.faults
    assert "a.db3: it is cut or damaged after message" in fault
