# SPDX-License-Identifier: Apache-2.0
"""rosbag2 databases (.db3) of every schema since 2019, with what their journal holds, and up to
where they are damaged.

The reader of `rosbags` leaves out the journal, and needs every page of the file.
"""

import contextlib
import shutil
import sqlite3
from array import array
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.storage import Connection, Entry, Storage, read_offers, type_name

_COLUMNS = ("name", "type", "serialization_format", "offered_qos_profiles")  # of a topic
_DAMAGED = (sqlite3.Error, UnicodeDecodeError)  # the latter where a damaged name is quoted
_JOURNALS = ("-wal", "-journal")  # appended to the file's name


class SqliteFile(Storage):
    """An open file; see `Storage`. RosError if its tables cannot be read."""

    def __init__(self, path: Path, closing: ExitStack) -> None:
        super().__init__(path)
        try:
            self._database = _connect(path, closing)
            topics = self._read_topics()
        except _DAMAGED as error:
            raise RosError(
                f"{path}: not a readable recording: {error}; `sqlite3 {path.name} .recover` may "
                "find what is left"
            ) from error
        # of each message in order of time
        self._times, self._rows, self._topics = self._read_index()
        for number, name, kind, encoding, offers in topics:
            qos, count = read_offers(offers), int(np.sum(self._topics == number))
            self.connections.append(Connection(number, name, type_name(kind), encoding, qos, count))
        if self._times.size:
            self.start, self.end = int(self._times[0]), int(self._times[-1]) + 1
        if lost := self._times.size - sum(c.msgcount for c in self.connections):
            self.fault(f"{lost} messages belong to no topic")

    def _read_topics(self) -> list[tuple[int, str, str, str, str]]:
        """(id, name, type, encoding, QoS) of topics."""
        query = self._database.execute
        tables = {name for (name,) in query("SELECT name FROM sqlite_master")}
        if missing := {"topics", "messages"} - tables:
            raise RosError(
                f"{self.path}: not a readable recording: a database without the table "
                f"{' and '.join(sorted(missing))}"
            )
        columns = {row[1] for row in query("PRAGMA table_info(messages)")}
        self._key = "id" if "id" in columns else "rowid"  # a view has no rowid
        columns = {row[1] for row in query("PRAGMA table_info(topics)")}
        texts = (f"CAST(ifnull({c}, '') AS TEXT)" if c in columns else "''" for c in _COLUMNS)
        return query(f"SELECT id, {', '.join(texts)} FROM topics ORDER BY id").fetchall()

    def _read_index(self) -> NDArray[np.int64]:
        """(3, n): time, row and topic of each message, up to the first page that is missing.

        The table is read in its own order: the database's index may be what is damaged.
        """
        values = array("q")
        most = 3 * sum(file.stat().st_size for file in _files(self.path))
        try:
            for row in self._database.execute(
                f"SELECT CAST(ifnull(timestamp, 0) AS INTEGER), CAST(ifnull({self._key}, 0) AS "
                "INTEGER), CAST(ifnull(topic_id, -1) AS INTEGER) FROM messages NOT INDEXED"
            ):
                if len(values) >= most:  # of a view, which can make rows without end
                    raise sqlite3.DataError("there are more of them than the file has bytes")
                values.extend(row)
        except _DAMAGED as error:
            self.fault(
                f"it is cut or damaged after message {len(values) // 3} ({error}); "
                f"`sqlite3 {self.path.name} .recover` may find more"
            )
        rows = np.array(values, np.int64).reshape(-1, 3).T
        return rows[:, np.argsort(rows[0], kind="stable")]

    def messages(
        self, ids: Collection[int], start: int | None = None, stop: int | None = None
    ) -> Iterator[Entry]:
        first = 0 if start is None else int(np.searchsorted(self._times, start))
        last = len(self._times) if stop is None else int(np.searchsorted(self._times, stop))
        for index in np.flatnonzero(np.isin(self._topics[first:last], list(ids))) + first:
            row, data = (int(self._rows[index]),), None
            try:
                found = self._database.execute(
                    f"SELECT data FROM messages WHERE {self._key} = ?", row
                )
                (data,) = found.fetchone() or (None,)
            except _DAMAGED as error:
                self.fault(f"messages cannot be read ({error})")
            data = data if isinstance(data, bytes) else b""
            yield int(self._topics[index]), int(self._times[index]), data


def _files(path: Path) -> list[Path]:
    """The database and the journals beside it that are not empty."""
    journals = [Path(f"{path}{end}") for end in _JOURNALS]
    return [path, *(file for file in journals if file.is_file() and file.stat().st_size)]


def _allow(action: int, *_: object) -> int:
    """Whether a statement may do something: a view that calls itself need never end."""
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_RECURSIVE else sqlite3.SQLITE_OK


def _connect(path: Path, closing: ExitStack) -> sqlite3.Connection:
    """Open for reading; where nothing can be written, a copy if a journal has to be merged."""
    _, *journals = _files(path)
    with contextlib.suppress(sqlite3.OperationalError):
        return _open(path, "mode=ro", closing)
    if not journals:  # SQLite wants to write one
        return _open(path, "mode=ro&immutable=1", closing)
    folder = closing.enter_context(TemporaryDirectory(prefix="mmsam_bag_"))
    for file in (path, *journals):
        shutil.copy(file, folder)
    return _open(Path(folder) / path.name, "mode=rw", closing)


def _open(path: Path, options: str, closing: ExitStack) -> sqlite3.Connection:
    """Open and read a first page, which is when SQLite looks at the journal."""
    database = sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True)
    closing.callback(database.close)
    database.set_authorizer(_allow)
    database.execute("PRAGMA writable_schema = ON")  # else files that are cut are refused
    database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return database
