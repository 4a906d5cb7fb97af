# SPDX-License-Identifier: Apache-2.0
"""rosbag2 databases of every year, with journals, cut and damaged."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.texts import START, STRING, TEXTS, cdr, read, write_file

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.recording import Recording


def old_schema(file: Path) -> None:
    """As rosbag2 of 2019 wrote it."""
    with sqlite3.connect(file) as database:
        database.executescript(
            "CREATE TABLE old(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, "
            "serialization_format TEXT NOT NULL);"
            "INSERT INTO old SELECT id, name, replace(type, '/msg/', '/'), 'cdr' FROM topics;"
            "DROP TABLE topics; ALTER TABLE old RENAME TO topics; DROP TABLE schema;"
            "DROP TABLE message_definitions; DROP TABLE metadata;"
        )


def foxy_schema(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.executescript(
            "DROP TABLE schema; DROP TABLE metadata; DROP TABLE message_definitions;"
            "ALTER TABLE topics DROP COLUMN type_description_hash"
        )


def no_index(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("DROP INDEX timestamp_idx")


def out_of_order(file: Path) -> None:
    """Rows as they were written late; their times are what counts."""
    with sqlite3.connect(file) as database:
        database.executescript(
            "UPDATE messages SET id = id + 100; UPDATE messages SET id = 113 - id"
        )


def view(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.executescript(
            "ALTER TABLE messages RENAME TO kept; CREATE VIEW messages AS SELECT * FROM kept"
        )


def no_rows(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.executescript(
            "CREATE TABLE kept(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, "
            "timestamp INTEGER NOT NULL, data BLOB NOT NULL) WITHOUT ROWID;"
            "INSERT INTO kept SELECT id, topic_id, timestamp, data FROM messages;"
            "DROP TABLE messages; ALTER TABLE kept RENAME TO messages"
        )


def no_id(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.executescript(
            "CREATE TABLE kept AS SELECT topic_id, timestamp, data FROM messages;"
            "DROP TABLE messages; ALTER TABLE kept RENAME TO messages"
        )


CHANGES = [old_schema, foxy_schema, no_index, out_of_order, view, no_rows, no_id]


@pytest.mark.parametrize("change", CHANGES)
def test_databases_of_every_year(tmp_path: Path, change: Callable[[Path], None]) -> None:
    file = write_file(tmp_path / "bag", TEXTS)
    change(file)
    assert read(file) == (TEXTS, [], [])
    with Recording(file) as recording:
        assert [c.msgtype for c in recording.connections] == [STRING]


def test_the_recorded_old_database(shared: Path) -> None:
    with Recording(shared / "cases/types_without_msg/old.db3") as recording:
        found = [(c.topic, c.msgtype, time) for c, time, _ in recording.messages()]
    assert [(topic, kind) for topic, kind, _ in found] == [("/image", "sensor_msgs/msg/Image")] * 3


def test_the_journal_of_a_killed_recorder_is_read(tmp_path: Path) -> None:
    """A write-ahead log holds the newest messages until the recorder ends."""
    file = write_file(tmp_path / "bag", TEXTS[:5])
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    rows = [(START + i * 1_000_000, cdr(TEXTS[i])) for i in range(5, 12)]
    database.executemany("INSERT INTO messages(topic_id, timestamp, data) VALUES(1, ?, ?)", rows)
    database.commit()
    killed = tmp_path / "killed"
    killed.mkdir()
    for end in ("", "-wal"):
        shutil.copy(f"{file}{end}", killed)
    database.close()
    assert read(killed / "bag.db3") == (TEXTS, [], [])


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder in which nothing can be written; nor can root, who gives up its rights."""
    user = os.geteuid()
    with TemporaryDirectory() as folder:
        yield Path(folder)
        os.seteuid(user)
        os.chmod(folder, 0o755)


def lock(folder: Path) -> None:
    folder.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)
    assert not os.access(folder, os.W_OK, effective_ids=True)


def test_a_write_ahead_log_of_no_content_in_a_locked_folder(tmp_path: Path, locked: Path) -> None:
    """As a recorder leaves it that ended well, on a medium that is mounted read-only."""
    file = Path(shutil.copy(write_file(tmp_path / "bag", TEXTS), locked))
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    database.close()
    assert [path.name for path in locked.iterdir()] == [file.name]
    lock(locked)
    assert read(file) == (TEXTS, [], [])


def test_a_transaction_that_was_not_finished_is_undone(tmp_path: Path) -> None:
    file = write_file(tmp_path / "bag", TEXTS)
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("PRAGMA cache_size=1")
    database.execute("BEGIN")
    database.execute("UPDATE messages SET data = zeroblob(90000)")
    killed = tmp_path / "killed"
    killed.mkdir()
    for end in ("", "-journal"):
        shutil.copy(f"{file}{end}", killed)
    database.close()
    before = (killed / "bag.db3").read_bytes()
    assert read(killed / "bag.db3") == (TEXTS, [], [])
    assert (killed / "bag.db3").read_bytes() == before  # the recording itself is not touched


def test_a_cut_database_is_read_up_to_the_cut(tmp_path: Path) -> None:
    values = [f"{i} {'x' * 3000}" for i in range(100)]
    whole = write_file(tmp_path / "bag", values).read_bytes()
    counts = []
    for tenth in range(1, 10):
        file = tmp_path / "cut.db3"
        file.write_bytes(whole[: len(whole) * tenth // 10])
        try:
            texts, _, faults = read(file)
        except RosError as error:
            texts, faults = [], [str(error)]
        assert texts == values[: len(texts)]
        assert "`sqlite3 cut.db3 .recover`" in faults[0]
        counts.append(len(texts))
    assert counts == sorted(counts)
    assert counts[4] > 40


def test_messages_of_no_topic_are_named(tmp_path: Path) -> None:
    file = write_file(tmp_path / "bag", TEXTS)
    with sqlite3.connect(file) as database:
        database.execute("UPDATE messages SET topic_id = 9 WHERE id > 10")
    texts, _, faults = read(file)
    assert texts == TEXTS[:10]
    assert faults == ["bag.db3: 2 messages belong to no topic"]


def test_databases_of_something_else_say_so(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "x.db3") as database:
        database.execute("CREATE TABLE places(x)")
    with pytest.raises(RosError, match="a database without the table messages and topics"):
        Recording(tmp_path / "x.db3")
