# SPDX-License-Identifier: Apache-2.0
"""rosbag2 databases (.db3) of every schema since 2019, with what their journal holds, and up to
where they are damaged.

The reader of `rosbags` leaves out the journal, and needs every page of the file.
"""

import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
)

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.storage import FORMATS, Entry, read_offers, type_name

_JOURNALS = ("-wal", "-journal")  # appended to the file's name


class SqliteFile:
    """An open file; see `Storage`. RosError if its tables cannot be read."""

    def __init__(self, path: Path, scratch: Callable[[], Path]) -> None:
        self.path = path
        self.faults: dict[str, None] = {}
        self.notes: list[str] = []
        try:
            self._database = self._connect(path, scratch)
            self.connections = self._read_topics()
        except sqlite3.Error as error:
            raise RosError(
                f"{path}: not a readable recording: {error}; `sqlite3 {path.name} .recover` may "
                "find what is left"
            ) from error
        rows = self._read_rows()
        # of each message in order of time
        self._times, self._rows, self._topics = rows[:, np.argsort(rows[0], kind="stable")]
        counts = {c.id: int(np.sum(self._topics == c.id)) for c in self.connections}
        self.connections = [c._replace(msgcount=counts[c.id]) for c in self.connections]
        self.start = int(self._times[0]) if self._times.size else 0
        self.end = int(self._times[-1]) + 1 if self._times.size else 0
        if lost := self._times.size - sum(counts.values()):
            self._fault(f"{lost} messages belong to no topic")

    def _connect(self, path: Path, scratch: Callable[[], Path]) -> sqlite3.Connection:
        """Open for reading, a copy if a journal has to be merged where nothing can be written."""
        journals = [Path(f"{path}{end}") for end in _JOURNALS]
        journals = [journal for journal in journals if journal.is_file() and journal.stat().st_size]
        try:
            return _open(path, "ro")
        except sqlite3.OperationalError:
            if not journals:
                raise
        folder = scratch()
        for file in (path, *journals):
            shutil.copy(file, folder)
        return _open(folder / path.name, "rw")

    def close(self) -> None:
        self._database.close()

    def _fault(self, text: str) -> None:
        self.faults[f"{self.path.name}: {text}"] = None

    def _read_topics(self) -> list[Connection]:
        tables = {name for (name,) in self._database.execute("SELECT name FROM sqlite_master")}
        if missing := {"topics", "messages"} - tables:
            raise RosError(
                f"{self.path}: not a readable recording: a database without the table "
                f"{' and '.join(sorted(missing))}"
            )
        columns = {row[1] for row in self._database.execute("PRAGMA table_info(topics)")}
        offers = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
        topics = self._database.execute(
            f"SELECT id, name, type, serialization_format, {offers} FROM topics ORDER BY id"
        )
        definitions = self._read_definitions() if "message_definitions" in tables else {}
        nothing = MessageDefinition(MessageDefinitionFormat.NONE, "")
        return [
            Connection(
                number, name, type_name(kind), definitions.get(kind, nothing), "", 0,
                ConnectionExtRosbag2(encoding, read_offers(text)), None,
            )
            for number, name, kind, encoding, text in topics
        ]  # fmt: skip

    def _read_definitions(self) -> dict[str, MessageDefinition]:
        rows = self._database.execute(
            "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
        )
        return {
            kind: MessageDefinition(FORMATS.get(encoding, MessageDefinitionFormat.NONE), text)
            for kind, encoding, text in rows
        }

    def _read_rows(self) -> NDArray[np.int64]:
        """(3, n): time, row and topic of each message, up to the first page that is missing.

        The table is read in its own order: the index may be what is damaged.
        """
        rows: list[tuple[int, int, int]] = []
        cursor = self._database.cursor()
        try:
            cursor.execute(
                "SELECT CAST(ifnull(timestamp, 0) AS INTEGER), rowid, "
                "CAST(ifnull(topic_id, -1) AS INTEGER) FROM messages NOT INDEXED"
            )
            rows.extend(row for row in cursor)
        except sqlite3.Error as error:
            self._fault(
                f"it is cut or damaged after message {len(rows)} ({error}); "
                f"`sqlite3 {self.path.name} .recover` may find more"
            )
        return np.array(rows, np.int64).reshape(-1, 3).T

    def messages(
        self, ids: Collection[int], start: int | None = None, stop: int | None = None
    ) -> Iterator[Entry]:
        first = 0 if start is None else int(np.searchsorted(self._times, start))
        last = len(self._times) if stop is None else int(np.searchsorted(self._times, stop))
        chosen = np.flatnonzero(np.isin(self._topics[first:last], list(ids))) + first
        lost = 0
        for index in chosen:
            row = int(self._rows[index])
            try:
                found = self._database.execute("SELECT data FROM messages WHERE rowid = ?", (row,))
                data = found.fetchone()
            except sqlite3.Error as error:
                lost += 1
                reason = f"{error}"
            else:
                if data and isinstance(data[0], bytes):
                    yield int(self._topics[index]), int(self._times[index]), data[0]
                else:
                    lost, reason = lost + 1, "no data"
        if lost:
            self._fault(f"{lost} messages cannot be read ({reason})")


def _open(path: Path, mode: str) -> sqlite3.Connection:
    """Open and read a first page, which is when SQLite looks at the journal."""
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True)
    try:
        database.execute("PRAGMA writable_schema = ON")  # else files that are cut are refused
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        database.close()
        raise
    return database
