# SPDX-License-Identifier: Apache-2.0
"""A recording as a whole: rosbag2 folders and files, ROS 1 bags. Needs no ROS.

Every file is opened as what its content says, and metadata.yaml is checked against the files. One
topic, message or file that cannot be read does not spoil the others.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from heapq import merge
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory

from rosbags.rosbag2.reader import zstd
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.metadata import NAME, bag_files, locate, read_metadata
from mmsam_ros.ros.storage import Connection, Storage
from mmsam_ros.ros.storage_mcap import MAGIC as MCAP
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
    b"#ROSBAG": Ros1File,
}


class Recording:
    """An open recording; RosError if nothing in it can be read.

    Attributes:
        connections: One for each topic and type, with the number of its messages.
        unreadable: Why a connection has no messages that ROS 2 reads, by its id.
        notes: What was found and set right when it was opened.
        start_time: Receive time of the earliest message (ns); 0 if there is none.
        end_time: One after the receive time of the latest message.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[Connection] = []
        self.unreadable: dict[int, str] = {}
        self.notes: list[str] = []
        self._faults: dict[str, None] = {}
        self._lost: Counter[tuple[str, str]] = Counter()  # messages by topic and reason
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
    def faults(self) -> list[str]:
        """What could not be read, as far as it is known by now."""
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

        Without `connections` those of all that can be read.
        """
        self._lost.clear()
        chosen = {c.id for c in connections or self.connections} - set(self.unreadable)
        sources = [self._of_storage(s, chosen, start, stop) for s in self._storages]
        for time, connection, data in merge(*sources, key=itemgetter(0)):
            if connection is None:
                continue
            try:
                if data[:4] == _ZSTD:
                    data = zstd.decompress(data)
                if connection.id in self._converters:
                    data = self._converters[connection.id](data)
                if len(data) < _CDR_HEADER:
                    raise ValueError(f"it has {len(data)} bytes")
            except (zstd.ZstdError, SerdeError, ValueError, LookupError) as error:
                self._lost[connection.topic, str(error)] += 1
                continue
            yield connection, time, data

    def _of_storage(
        self, storage: Storage, chosen: set[int], start: int | None, stop: int | None
    ) -> Iterator[tuple[int, Connection | None, bytes]]:
        """Its messages after an empty entry at its beginning, so that it waits for its time."""
        yield storage.start, None, b""
        merged = self._storages[storage]
        ids = {number for number, connection in merged.items() if connection.id in chosen}
        if ids:
            for number, time, data in storage.messages(ids, start, stop):
                yield time, merged[number], data

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
        try:
            listed, self._claims = read_metadata(self.path / NAME)
        except RosError as error:
            self.notes.append(f"{error}: all files of the folder are read")
            listed = [path.name for path in present]
        files, missing = locate(present, listed)
        self._open_files(files)
        self._open_files((path for path in present if path not in files), listed=False)
        held = sum(c.msgcount for s in self._storages for c in s.connections)
        if missing and held < self._claims.get("messages", held + 1):
            self._faults[f"{', '.join(missing)}: listed in {NAME}, and not there"] = None

    def _open_files(self, paths: Iterable[Path], *, listed: bool = True) -> None:
        """Open those that can be; of those that are not listed none that copies another."""
        for path in paths:
            try:
                storage = _open_storage(path, self._closing)
            except (RosError, OSError) as error:
                self._faults[str(error)] = None
                continue
            if not listed and any(_overlap(storage, other) for other in self._storages):
                self.notes.append(
                    f"{path.name} is not listed in {NAME} and left out: it has topics and times of "
                    "the listed files"
                )
                continue
            if not listed:
                self.notes.append(f"{path.name} is not listed in {NAME} and read as well")
            self._storages[storage] = {}

    def _merge_connections(self) -> None:
        """One connection for all of a topic, type and encoding.

        QoS are those of one file: each names all publishers.
        """
        parts: dict[tuple[str, str, str], list[tuple[Storage, Connection]]] = defaultdict(list)
        for storage in self._storages:
            for connection in storage.connections:
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
                return replace(connection, msgtype=converter.msgtype)
        elif encoding != "cdr":
            self.unreadable[connection.id] = f"its messages are {encoding or 'of no encoding'}"
        elif not re.fullmatch(r"\w+/\w+/\w+", msgtype):
            found = repr(msgtype) if msgtype else "no type"
            self.unreadable[connection.id] = f"found {found}, expected package/msg/Name"
        return connection

    def _check_claims(self) -> None:
        facts = {
            "messages": self.message_count,
            "ns at the start": self.start_time,
            "ns of duration": self.end_time - 1 - self.start_time,
        }
        wrong = [
            f"{claim} {unit}, the files have {facts[unit]}"
            for unit, claim in self._claims.items()
            if claim != facts[unit]
        ]
        if wrong and self.message_count:
            self.notes.append(f"{NAME} says {'; '.join(wrong)}: the files are believed")


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
    folder = closing.enter_context(TemporaryDirectory(prefix="mmsam_bag_"))
    target, fault = Path(folder) / path.stem, ""
    with path.open("rb") as packed, zstd.open(packed, "rb") as source, target.open("wb") as out:
        try:
            while block := source.read(1 << 20):
                out.write(block)
        except (zstd.ZstdError, EOFError) as error:
            fault = f"it is cut or damaged after {out.tell()} unpacked bytes ({error})"
    storage = _open_storage(target, closing)
    storage.path = path
    if fault:
        storage.fault(fault)
    return storage


def _overlap(one: Storage, other: Storage) -> bool:
    """Whether two files have messages of a topic in the same time."""
    topics = [{c.topic for c in s.connections if c.msgcount} for s in (one, other)]
    return bool(topics[0] & topics[1]) and one.start < other.end and other.start < one.end
