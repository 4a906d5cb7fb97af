# SPDX-License-Identifier: Apache-2.0
"""A recording as a whole: rosbag2 folders and files, ROS 1 bags. Needs no ROS.

Every file is opened as what its content says, and metadata.yaml is checked against the files. One
topic, message or file that cannot be read does not spoil the others.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from heapq import merge
from operator import itemgetter
from pathlib import Path
from types import TracebackType

from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
    Qos,
)
from rosbags.rosbag2.reader import zstd
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.metadata import NAME, Metadata, bag_files, locate, read_metadata
from mmsam_ros.ros.storage import MCAP_MAGIC, Storage
from mmsam_ros.ros.storage_mcap import McapFile
from mmsam_ros.ros.storage_ros1 import ENCODING as ROS1
from mmsam_ros.ros.storage_ros1 import Ros1Converter, Ros1File
from mmsam_ros.ros.storage_sqlite import SqliteFile

_ZSTD = b"\x28\xb5\x2f\xfd"  # no serialised message begins so
_CDR_HEADER = 4  # bytes
_IDL_RULE = "=" * 80 + "\n"  # between the definitions of several types


class Recording:
    """An open recording; RosError if nothing in it can be read.

    Attributes:
        connections: One for each topic and type, with the number of its messages.
        unreadable: Why a connection has no messages that ROS 2 reads, by its id.
        notes: What was found and set right when it was opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[Connection] = []
        self.unreadable: dict[int, str] = {}
        self.notes: list[str] = []
        self._faults: dict[str, None] = {}
        self._lost: Counter[tuple[str, str]] = Counter()  # messages by topic and reason
        self._stores: dict[str, Typestore] = {}
        self._converters: dict[int, Ros1Converter] = {}
        self._metadata: Metadata | None = None
        self._closing = ExitStack()
        try:
            self._storages = self._open()
            if not self._storages:
                raise RosError("; ".join(self._faults))
            self._merge_connections()
        except OSError as error:
            self.close()
            raise RosError(f"{path}: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise
        used = [s for s in self._storages if any(c.msgcount for c in s.connections)]
        self.start_time = min((s.start for s in used), default=0)  # ns
        self.end_time = max((s.end for s in used), default=0)  # one after the latest message
        self.message_count = sum(c.msgcount for c in self.connections)
        self._check_metadata()

    def __enter__(self) -> "Recording":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        self._closing.close()

    @property
    def topics(self) -> set[str]:
        """Names of all topics."""
        return {connection.topic for connection in self.connections}

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

    def deserialize(self, data: bytes, msgtype: str) -> object:
        """A message; RosError if it does not have its type."""
        if msgtype not in self._stores:
            self._stores[msgtype] = self._store(msgtype)
        try:
            return self._stores[msgtype].deserialize_cdr(data, msgtype)
        except (SerdeError, LookupError) as error:
            raise RosError(f"{self.path}: a {msgtype} cannot be read: {error}") from error

    def _of_storage(
        self, storage: Storage, chosen: set[int], start: int | None, stop: int | None
    ) -> Iterator[tuple[int, Connection | None, bytes]]:
        """Its messages after an empty entry at its beginning, so that it waits for its time."""
        yield storage.start, None, b""
        of = {c.id: self._of_file[id(storage), c.id] for c in storage.connections}
        ids = {number for number, connection in of.items() if connection.id in chosen}
        if ids:
            for number, time, data in storage.messages(ids, start, stop):
                yield time, of[number], data

    def _store(self, msgtype: str) -> Typestore:
        """Types as the recording defines them, else as Jazzy does."""
        jazzy, why = get_typestore(Stores.ROS2_JAZZY), "the recording does not define it"
        for connection in self.connections:
            if connection.msgtype != msgtype or connection.id in self._converters:
                continue
            if connection.msgdef.format == MessageDefinitionFormat.NONE:
                continue
            store = get_typestore(Stores.EMPTY)
            try:
                _register(store, connection)
                store.get_msgdef(msgtype)
            except Exception as error:  # rosbags has no common base, and asserts
                why = " ".join(str(error).split())[:200]
                continue
            return store
        if msgtype not in jazzy.types:
            raise RosError(f"{self.path}: the type {msgtype} is not known: {why}")
        return jazzy

    def _scratch(self) -> Path:
        return Path(self._closing.enter_context(tempfile.TemporaryDirectory(prefix="mmsam_bag_")))

    def _open(self) -> list[Storage]:
        """All files of the recording that can be opened."""
        if not self.path.exists():
            raise RosError(f"{self.path}: no such file or folder")
        if self.path.name == NAME:
            self.path = self.path.parent
        if self.path.is_file():
            return self._open_all([self.path])
        present = bag_files(self.path)
        if not present:
            inner = sorted(str(path.parent) for path in self.path.glob(f"*/{NAME}"))
            hint = f"; give one of the recordings in it: {', '.join(inner)}" if inner else ""
            raise RosError(f"{self.path}: a folder without files of a bag{hint}")
        files, missing = self._listed(present)
        storages = self._open_all(files)
        storages += self._unlisted([path for path in present if path not in files], storages)
        held = sum(c.msgcount for s in storages for c in s.connections)
        counted = self._metadata and self._metadata.messages
        if missing and not (counted and held >= counted):
            self._fault(f"{', '.join(missing)}: listed in {NAME}, and not there")
        return storages

    def _listed(self, present: list[Path]) -> tuple[list[Path], list[str]]:
        """(files by metadata.yaml, names that are missing); all files that there are without it."""
        try:
            if not (self.path / NAME).exists():
                raise RosError(f"no {NAME}")
            self._metadata = read_metadata(self.path / NAME)
            if not self._metadata.files:
                raise RosError(f"{NAME} lists no files")
        except RosError as error:
            self.notes.append(f"{error}: all files of the folder are read")
            return present, []
        return locate(self.path, self._metadata.files)

    def _unlisted(self, paths: Iterable[Path], listed: list[Storage]) -> list[Storage]:
        """Files that metadata.yaml does not list, but for copies of what is listed."""
        taken: list[Storage] = []
        for storage in self._open_all(paths):
            name = storage.path.name
            if any(_overlap(storage, other) for other in [*listed, *taken]):
                self.notes.append(
                    f"{name} is not listed in {NAME} and left out: it has topics and times of the "
                    "listed files"
                )
            else:
                self.notes.append(f"{name} is not listed in {NAME} and read as well")
                taken.append(storage)
        return taken

    def _open_all(self, paths: Iterable[Path]) -> list[Storage]:
        """The files that can be opened."""
        storages = []
        for path in paths:
            try:
                storages.append(_open_storage(path, self._scratch))
            except (RosError, OSError) as error:
                self._fault(str(error))
            else:
                self._closing.callback(storages[-1].close)
        return storages

    def _fault(self, text: str) -> None:
        self._faults[text] = None

    def _merge_connections(self) -> None:
        """One connection for all of a topic, type and encoding, with the QoS of each."""
        parts: dict[tuple[str, str, str], list[tuple[Storage, Connection]]] = {}
        for storage in self._storages:
            for connection in storage.connections:
                key = connection.topic, connection.msgtype, _encoding(connection)
                parts.setdefault(key, []).append((storage, connection))
        self._of_file: dict[tuple[int, int], Connection] = {}  # by storage and its connection
        for number, ((topic, msgtype, encoding), of_files) in enumerate(parts.items(), 1):
            merged = Connection(
                number,
                topic,
                msgtype,
                next((c.msgdef for _, c in of_files if c.msgdef.data), _NOT_DEFINED),
                "",
                sum(c.msgcount for _, c in of_files),
                ConnectionExtRosbag2(encoding, self._offers(topic, of_files)),
                None,
            )
            merged = self._as_ros2(merged)
            self.connections.append(merged)
            for storage, connection in of_files:
                self._of_file[id(storage), connection.id] = merged

    def _offers(self, topic: str, of_files: list[tuple[Storage, Connection]]) -> list[Qos]:
        """QoS of a topic's publishers. Every file names all of them: those of one file count."""
        offers: dict[int, list[Qos]] = {}
        for storage, connection in of_files:
            if isinstance(connection.ext, ConnectionExtRosbag2):
                offers.setdefault(id(storage), []).extend(connection.ext.offered_qos_profiles)
        recorded = max(offers.values(), key=len, default=[])
        return recorded or (self._metadata.offers.get(topic, []) if self._metadata else [])

    def _as_ros2(self, connection: Connection) -> Connection:
        """The connection with the type that its messages have once they are read."""
        encoding = _encoding(connection)
        if encoding == ROS1:
            try:
                converter = self._converters[connection.id] = Ros1Converter(connection)
            except RosError as error:
                self.unreadable[connection.id] = str(error)
            else:
                return connection._replace(msgtype=converter.msgtype)
        elif encoding != "cdr":
            self.unreadable[connection.id] = f"its messages are {encoding or 'of no encoding'}"
        elif not re.fullmatch(r"\w+/\w+/\w+", connection.msgtype):
            found = repr(connection.msgtype) if connection.msgtype else "no type"
            self.unreadable[connection.id] = f"found {found}, expected package/msg/Name"
        return connection

    def _check_metadata(self) -> None:
        claims = self._metadata
        if claims is None or not self.message_count:
            return
        wrong = []
        if claims.messages not in (None, self.message_count):
            wrong.append(f"{claims.messages} messages, the files have {self.message_count}")
        length = self.end_time - 1 - self.start_time
        if claims.start not in (None, self.start_time):
            wrong.append(f"the start {claims.start} ns, the files begin at {self.start_time} ns")
        if claims.duration not in (None, length):
            wrong.append(f"a duration of {claims.duration} ns, the files have {length} ns")
        if wrong:
            self.notes.append(f"{NAME} says {'; '.join(wrong)}: the files are believed")


_NOT_DEFINED = MessageDefinition(MessageDefinitionFormat.NONE, "")


def _open_storage(path: Path, scratch: Callable[[], Path]) -> Storage:
    """Open a file; RosError if nothing can be read. `scratch()` makes an empty folder for what has
    to be unpacked.
    """
    with path.open("rb") as file:
        magic = file.read(16)
    if not magic:
        raise RosError(f"{path}: not a readable recording: the file is empty")
    if magic.startswith(_ZSTD):
        return _open_packed(path, scratch)
    if magic.startswith(MCAP_MAGIC):
        return McapFile(path)
    if magic.startswith(b"SQLite format 3\0"):
        return SqliteFile(path, scratch)
    if magic.startswith(b"#ROSBAG"):
        return Ros1File(path)
    raise RosError(
        f"{path}: not a readable recording: expected MCAP, a rosbag2 database or a ROS 1 bag, "
        f"found a file that begins with {magic!r}"
    )


def _open_packed(path: Path, scratch: Callable[[], Path]) -> Storage:
    """Open a compressed file as far as it can be decompressed."""
    target, fault = scratch() / path.stem, ""
    with path.open("rb") as packed, zstd.open(packed, "rb") as source, target.open("wb") as out:
        try:
            while block := source.read(1 << 20):
                out.write(block)
        except (zstd.ZstdError, EOFError) as error:
            fault = f"{path.name}: it is cut or damaged after {out.tell()} unpacked bytes ({error})"
    storage = _open_storage(target, scratch)
    if fault:
        storage.faults[fault] = None
    return storage


def _encoding(connection: Connection) -> str:
    ext = connection.ext
    return ext.serialization_format if isinstance(ext, ConnectionExtRosbag2) else ""


def _overlap(one: Storage, other: Storage) -> bool:
    """Whether two files have messages of a topic in the same time."""
    topics = [{c.topic for c in s.connections if c.msgcount} for s in (one, other)]
    return bool(topics[0] & topics[1]) and one.start < other.end and other.start < one.end


def _register(store: Typestore, connection: Connection) -> None:
    """Add a connection's types."""
    text = connection.msgdef.data
    if connection.msgdef.format == MessageDefinitionFormat.MSG:
        store.register(get_types_from_msg(text, connection.msgtype))
        return
    parts = text.split(_IDL_RULE)
    for part in parts[1:] or parts:  # several begin with a line "IDL: name"
        store.register(get_types_from_idl(part.partition("\n")[2] if len(parts) > 1 else part))
