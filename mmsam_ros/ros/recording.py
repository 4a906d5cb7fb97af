# SPDX-License-Identifier: Apache-2.0
"""A recording as a whole: rosbag2 folders and files, ROS 1 bags. Needs no ROS.

Every file is opened as what its content says, and all that lie in a folder are read; metadata.yaml
is checked against them. A message that two files hold is given once. One topic, message or file
that cannot be read does not spoil the others.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from heapq import merge
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from rosbags.rosbag2.reader import zstd
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.metadata import BAG, MCAP, NAME, bag_files, locate, read_metadata
from mmsam_ros.ros.storage import Connection, Storage, unpack
from mmsam_ros.ros.storage_mcap import McapFile
from mmsam_ros.ros.storage_ros1 import ENCODING as ROS1
from mmsam_ros.ros.storage_ros1 import Ros1Converter, Ros1File
from mmsam_ros.ros.storage_sqlite import SqliteFile

_ZSTD = b"\x28\xb5\x2f\xfd"  # no serialised message begins so
_CDR_HEADER = 4  # bytes
_JAZZY = get_typestore(Stores.ROS2_JAZZY)
_FORMATS: dict[bytes, Callable[[Path, ExitStack], Storage]] = {
    MCAP: McapFile,
    b"SQLite format 3\0": SqliteFile,
    BAG: Ros1File,
}


class Recording:
    """An open recording; RosError if nothing in it can be read.

    Attributes:
        connections: One for each topic and type, with the number of its messages.
        unreadable: Why a connection has no messages that ROS 2 reads, by its id.
        start_time: Receive time of the earliest message (ns); 0 if there is none.
        end_time: One after the receive time of the latest message.
        message_count: Messages of all files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[Connection] = []
        self.unreadable: dict[int, str] = {}
        self._notes: list[str] = []
        self._faults: dict[str, None] = {}
        self._lost: Counter[tuple[str, str]] = Counter()  # messages by topic and reason
        self._repeated: Counter[tuple[str, str]] = Counter()  # messages by file and the other file
        self._converters: dict[int, Ros1Converter] = {}
        # files, and for each the recording's connection by the file's own id
        self._storages: dict[Storage, dict[int, Connection]] = {}
        self._claims: dict[str, int] = {}  # of metadata.yaml, by unit
        with ExitStack() as self._closing:
            self._open()
            self._merge_connections()
            self._closing = self._closing.pop_all()  # stay open
        used = [s for s in self._storages if any(c.msgcount for c in s.connections)]
        self.start_time = min((s.start for s in used), default=0)
        self.end_time = max((s.end for s in used), default=0)
        self.message_count = sum(c.msgcount for c in self.connections)
        self._check_claims()

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        self._closing.close()

    @property
    def is_database(self) -> bool:
        """Whether its files are databases of rosbag2 (sqlite3)."""
        return all(isinstance(storage, SqliteFile) for storage in self._storages)

    @property
    def notes(self) -> list[str]:
        """What was found and corrected so far."""
        repeated = (
            f"{name}: {count} messages are left out, {other} has the same"
            for (name, other), count in self._repeated.items()
        )
        return [*self._notes, *repeated]

    @property
    def repeated(self) -> int:
        """Messages that `messages` has left out because another file has them."""
        return self._repeated.total()

    @property
    def faults(self) -> list[str]:
        """What could not be read so far."""
        lost = (
            f"{topic}: {count} messages cannot be read ({reason})"
            for (topic, reason), count in self._lost.items()
        )
        return [*self._faults, *(f for s in self._storages for f in s.faults), *lost]

    def messages(
        self,
        connections: Collection[Connection] = (),
        start: int | None = None,
        stop: int | None = None,
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """(connection, receive time, CDR) of messages from `start` to before `stop`, by time.

        Without `connections`, those of all readable ones.
        """
        self._lost.clear()
        self._repeated.clear()
        chosen = {c.id for c in connections or self.connections} - set(self.unreadable)
        sources = [self._of_storage(s, chosen, start, stop) for s in self._storages]
        now, seen = None, dict[tuple[int, int], Storage]()  # of the time `now`
        for time, storage, number, data in merge(*sources, key=itemgetter(0)):
            if number is None:
                continue
            connection = self._storages[storage][number]
            try:
                data = self._as_cdr(connection, data)
            except (zstd.ZstdError, SerdeError, ValueError, LookupError) as error:
                self._lost[connection.topic, str(error)] += 1
                continue
            if time != now:
                now, seen = time, {}
            first = seen.setdefault((connection.id, hash(data)), storage)
            if first is storage:
                yield connection, time, data
            else:
                self._repeated[storage.path.name, first.path.name] += 1

    def _as_cdr(self, connection: Connection, data: bytes) -> bytes:
        """A recorded message as ROS 2 serialises it."""
        if data[:4] == _ZSTD:
            data = unpack(zstd.ZstdDecompressor, data)
        if connection.id in self._converters:
            data = self._converters[connection.id](data)
        if len(data) < _CDR_HEADER:
            raise ValueError(f"it has {len(data)} bytes")
        return data

    def _of_storage(
        self, storage: Storage, chosen: set[int], start: int | None, stop: int | None
    ) -> Iterator[tuple[int, Storage, int | None, bytes]]:
        """A file's messages, after an empty entry at its start, so that it is not read earlier."""
        yield storage.start, storage, None, b""
        merged = self._storages[storage]
        ids = {number for number, connection in merged.items() if connection.id in chosen}
        if ids:
            for number, time, data in storage.messages(ids, start, stop):
                yield time, storage, number, data

    def deserialize(self, data: bytes, msgtype: str) -> object:
        """A message, read as Jazzy defines its type; RosError if it cannot be."""
        try:
            return _JAZZY.deserialize_cdr(data, msgtype)
        except (SerdeError, LookupError) as error:
            raise RosError(f"{self.path}: a {msgtype} cannot be read: {error}") from error

    def _open(self) -> None:
        """Open all files of the recording that can be opened."""
        if self.path.name == NAME:
            self.path = self.path.parent
        if not self.path.exists():
            raise RosError(f"{self.path}: no such file or folder")
        try:
            if self.path.is_dir():
                self._open_folder()
            else:
                self._open_files([self.path])
        except OSError as error:
            raise RosError(f"{self.path}: {error.strerror or error}") from error
        if not self._storages:
            raise RosError("; ".join(self._faults))

    def _open_folder(self) -> None:
        present = bag_files(self.path)
        if not present:
            inner = sorted(str(path.parent) for path in self.path.glob(f"*/{NAME}"))
            hint = f"; give one of the recordings in it: {', '.join(inner)}" if inner else ""
            raise RosError(f"{self.path}: a folder without files of a bag{hint}")
        files, missing = present, list[str]()
        try:
            listed, self._claims = read_metadata(self.path / NAME)
            files, missing = locate(present, listed)
        except RosError as error:
            self._notes.append(f"{error}: all files of the folder are read")
        self._open_files(present)
        self._notes += [
            f"{s.path.name} is not listed in {NAME} and read as well"
            for s in self._storages
            if s.path not in files
        ]
        if missing and self._held < self._claims.get("messages", self._held + 1):
            self._faults[f"{', '.join(missing)}: listed in {NAME}, and not there"] = None

    @property
    def _held(self) -> int:
        """Number of messages of all files; files that look like copies of another count once."""
        files = {
            (s.start, s.end, frozenset((c.topic, c.msgcount) for c in s.connections)): s
            for s in self._storages
        }
        return sum(c.msgcount for s in files.values() for c in s.connections)

    def _open_files(self, paths: Iterable[Path]) -> None:
        """Open the files that can be opened."""
        for path in paths:
            try:
                self._storages[_open_storage(path, self._closing)] = {}
            except (RosError, OSError) as error:
                self._faults[str(error)] = None

    def _merge_connections(self) -> None:
        """Merge the connections of each topic, type and encoding into one.

        QoS are those of one file: each names all publishers.
        """
        parts: dict[tuple[str, str, str], list[tuple[Storage, Connection]]] = defaultdict(list)
        for storage in self._storages:
            for connection in storage.connections:
                encoding = connection.encoding.strip().lower() or "cdr"  # as older recorders wrote
                connection = replace(connection, encoding=encoding)
                key = connection.topic, connection.msgtype, connection.encoding
                parts[key].append((storage, connection))
        for number, of_files in enumerate(parts.values(), 1):
            connections = [connection for _, connection in of_files]
            merged = replace(
                connections[0],
                id=number,
                offers=max((c.offers for c in connections), key=len),
                msgcount=sum(c.msgcount for c in connections),
            )
            merged = self._as_ros2(merged)
            self.connections.append(merged)
            for storage, connection in of_files:
                self._storages[storage][connection.id] = merged

    def _as_ros2(self, connection: Connection) -> Connection:
        """The connection with the type that its messages have once they are read."""
        encoding, msgtype = connection.encoding, connection.msgtype
        if encoding == ROS1:
            try:
                converter = self._converters[connection.id] = Ros1Converter(connection)
            except RosError as error:
                self.unreadable[connection.id] = str(error)
            else:
                if converter.note:
                    self._notes.append(f"{connection.topic}: {converter.note}")
                return replace(connection, msgtype=converter.msgtype)
        elif encoding != "cdr":
            self.unreadable[connection.id] = f"its messages are {encoding}"
        elif not re.fullmatch(r"\w+/\w+/\w+", msgtype):
            found = repr(msgtype) if msgtype else "no type"
            self.unreadable[connection.id] = f"found {found}, expected package/msg/Name"
        return connection

    def _check_claims(self) -> None:
        facts = {
            "messages": self._held,
            "ns at the start": self.start_time,
            "ns of duration": self.end_time - 1 - self.start_time,
        }
        wrong = [
            f"{claim} {unit}, the files have {facts[unit]}"
            for unit, claim in self._claims.items()
            if claim != facts[unit]
        ]
        if wrong and self.message_count:
            self._notes.append(f"{NAME} says {'; '.join(wrong)}: the files are believed")


def _open_storage(path: Path, closing: ExitStack) -> Storage:
    """Open a file; RosError if nothing can be read."""
    with path.open("rb") as file:
        begin = file.read(16)
    if begin.startswith(_ZSTD):
        return _open_packed(path, closing)
    for magic, kind in _FORMATS.items():
        if begin.startswith(magic):
            return kind(path, closing)
    found = f"a file that begins with {begin!r}" if begin else "an empty file"
    raise RosError(
        f"{path}: not a readable recording: expected MCAP, a rosbag2 database or a ROS 1 bag, "
        f"found {found}"
    )


def _open_packed(path: Path, closing: ExitStack) -> Storage:
    """Open a compressed file as far as it can be decompressed."""
    try:
        folder = closing.enter_context(TemporaryDirectory(prefix="mmsam_bag_"))
        target, fault = Path(folder) / path.stem, ""
        with path.open("rb") as packed, zstd.open(packed, "rb") as source, target.open("wb") as out:
            try:
                while block := source.read(1 << 20):
                    out.write(block)
            except (zstd.ZstdError, EOFError) as error:
                fault = f"it is cut or damaged after {out.tell()} unpacked bytes ({error})"
    except OSError as error:
        raise RosError(
            f"{path}: cannot be unpacked in {gettempdir()} ({error.strerror or error}); set TMPDIR "
            "to a folder with enough space"
        ) from error
    storage = _open_storage(target, closing)
    storage.path = path
    if fault:
        storage.fault(fault)
    return storage
