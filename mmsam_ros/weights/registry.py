# SPDX-License-Identifier: Apache-2.0
"""Weights by name: where they come from, their licence and what their bytes are.

The package's names stand in models/registry.yaml, those of `mmsam weights register` in the user's
data folder. `fetch` gets a file into the user's cache, which needs no trust in where it comes from:
size and SHA-256 are compared before it has its name.
"""

import fcntl
import hashlib
import os
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, ClassVar
from urllib.parse import urlsplit

import yaml

from mmsam_ros._util import (
    Checked,
    MmsamError,
    flush,
    from_mapping,
    near_match,
    require,
    write_atomic,
)
from mmsam_ros._util.documents import load_yaml
from mmsam_ros.weights.spec import WeightsError

REGISTRY = "registry.yaml"
DEFAULT = "tiny_synthetic.safetensors"  # of models/; of node, launch file, demo and `predict`
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")  # no dot and no slash: it becomes a file's name
_SUFFIXES = (".safetensors", ".pth", ".pt")
_LOCAL = ("localhost", "127.0.0.1", "::1")
_STEP, _TIMEOUT = 1 << 20, 30.0  # bytes read at a time; seconds without any

Report = Callable[[int, int], Any]  # of bytes that are there, and all


@dataclass(frozen=True)
class Entry(Checked):
    """One file.

    Attributes:
        source: https or file URL (http for this machine alone), or a file beside the registry.
        licence: of the weights, as an SPDX identifier where there is one.
        size: bytes.
        sha256: of all bytes, in small hex digits.
    """

    error: ClassVar[type[MmsamError]] = WeightsError

    source: str
    licence: str
    size: int
    sha256: str

    def check(self) -> None:
        """WeightsError unless each value can be one."""
        self.require(bool(self.licence.strip()), "licence", "a licence, or 'unknown'")
        self.require(0 < self.size < 2**63, "size", "a number of bytes")
        known = re.fullmatch("[0-9a-f]{64}", self.sha256)
        self.require(bool(known), "sha256", "64 small hex digits")
        plain = self.source == Path(self.source).name
        self.require(plain or _is_allowed(self.source), "source", "an https or file URL, or the "
                     "name of a file beside the registry")  # fmt: skip
        self.require(self.suffix in _SUFFIXES, "source", f"a file of type {', '.join(_SUFFIXES)}")

    @property
    def suffix(self) -> str:
        """Suffix of the file, such as `.safetensors`."""
        return Path(urlsplit(self.source).path).suffix

    @property
    def is_beside(self) -> bool:
        """Whether the file comes with its registry."""
        return not urlsplit(self.source).scheme


def _is_allowed(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:  # such as a port that is no number
        return False
    if parts.scheme == "file":
        return host in (None, "", "localhost")
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOCAL))


def user_folder(variable: str, default: str) -> Path:
    """The package's folder below an XDG base folder, which may not be relative.

    WeightsError for a user without a home, as a container's may be.
    """
    base, home = os.environ.get(variable, ""), os.path.expanduser("~")
    if not (os.path.isabs(base) or os.path.isabs(home)):
        raise WeightsError(
            f"user {os.getuid()} has no home folder, in which names of weights and downloads are "
            f"kept; set HOME or {variable} to a folder that can be written"
        )
    return (Path(base) if os.path.isabs(base) else Path(home, default)) / "mmsam_ros"


def user_registry() -> Path:
    """The file that `register` writes."""
    return user_folder("XDG_DATA_HOME", ".local/share") / REGISTRY


def read_registry(path: Path) -> dict[str, Entry]:
    """Entries by name; none if there is no such file. WeightsError for what is no registry."""
    try:
        table = load_yaml(path.read_text("utf-8")) if path.is_file() else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path}: not a YAML file ({reason})") from error
    table = {} if table is None else table
    if not isinstance(table, Mapping):
        raise WeightsError(f"{path}: found {type(table).__name__}, expected names with values")
    for name in table:
        require(isinstance(name, str), str(path), name, "a name", WeightsError)
        check_name(name, str(path))
    return {name: from_mapping(Entry, row, f"{path}: {name}") for name, row in table.items()}


def check_name(name: str, where: str = "name") -> None:
    """WeightsError unless it can be the name of an entry."""
    if not _NAME.fullmatch(name):
        raise WeightsError(f"{where}: found {name!r}, expected at most 64 small letters, digits, "
                           "- and _")  # fmt: skip


def all_entries() -> dict[str, tuple[Entry, Path]]:
    """Entry and place of its file by name; the package's names come first and stay as they are."""
    paths = [package_file(f"models/{REGISTRY}")]
    with suppress(WeightsError):  # a user without a home still has the package's
        paths.append(user_registry())
    found: dict[str, tuple[Entry, Path]] = {}
    for path in filter(None, paths):
        for name, entry in read_registry(path).items():
            file = path.with_name(entry.source) if entry.is_beside else _cached(name, entry)
            found.setdefault(name, (entry, file))
    return found


def _cached(name: str, entry: Entry) -> Path:
    """Where a download is kept."""
    return user_folder("XDG_CACHE_HOME", ".cache") / "weights" / f"{name}{entry.suffix}"


def weights_file(given: str | Path) -> Path:
    """The file that is meant by a path, or by a name of the registry.

    WeightsError if it is a name whose file is not there, or has another size.
    """
    path = Path(os.path.expanduser(given))  # Path's own needs a home
    if path.is_file() or not _NAME.fullmatch(str(given)):
        return path
    entries = all_entries()
    if str(given) not in entries:
        raise WeightsError(
            f"weights: {given}: no such file, and no name of the registry"
            f"{near_match(str(given), entries)}"
        )
    entry, file = entries[str(given)]
    if not file.is_file():
        raise WeightsError(
            f"weights: {given} has not been fetched; run: mmsam weights fetch {given}"
        )
    _check_size(file, entry)
    return file


def register(file: Path, name: str, licence: str, source: str | None = None) -> Entry:
    """Add a file to the user's registry, with the size and SHA-256 that it has now.

    `source`: where others get it; without one it is this file. WeightsError for a name that means
    other bytes already.
    """
    check_name(name)
    if not file.is_file():
        raise WeightsError(f"{file}: no such file")
    values = {"source": source or file.resolve().as_uri(), "licence": licence,
              "size": file.stat().st_size, "sha256": file_sha256(file)}  # fmt: skip
    entry = from_mapping(Entry, values, name)
    if entry.is_beside:
        raise WeightsError(f"{name}.source: found {source!r}, expected an https or file URL")
    path = user_registry()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{REGISTRY}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may add an entry at the same time
        known = all_entries().get(name)
        if known and known[0].sha256 != entry.sha256:
            raise WeightsError(f"{name}: is the name of other weights already ({known[0].source})")
        own = read_registry(path) | {name: entry}
        text = yaml.safe_dump({n: asdict(e) for n, e in own.items()}, allow_unicode=True)
        write_atomic(path, f"# written by: mmsam weights register\n{text}")
    return entry


def fetch(name: str, report: Report = lambda done, total: None) -> Path:
    """The file of a name, verified; downloaded if it is not there. What is left of an interrupted
    download is continued.

    WeightsError for an unknown name, a source that cannot be read, or other bytes than those of the
    registry, which are removed.
    """
    entries = all_entries()
    if name not in entries:
        raise WeightsError(f"{name}: no name of the registry{near_match(name, entries)}")
    entry, file = entries[name]
    if file.is_file():
        return _verified(file, entry)
    if entry.is_beside:
        raise WeightsError(f"{file}: no such file; it is a part of the package: install it again")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f".{file.name}.part").open("ab") as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise WeightsError(f"{name}: another process fetches it") from error
        path = Path(part.name)
        if not file.is_file():  # else another process has been faster
            _download(name, entry, file, part, report)
            flush(_verified(path, entry))  # what is read later is not hashed again
            path.replace(file)
        path.unlink(missing_ok=True)
    return _verified(file, entry)


def _verified(file: Path, entry: Entry) -> Path:
    """The file; one of the cache that has other bytes is removed."""
    try:
        verify(file, entry)
    except WeightsError as error:
        if entry.is_beside:
            raise
        file.unlink()
        raise WeightsError(f"{error}; it has been removed") from error
    return file


def verify(file: Path, entry: Entry) -> None:
    """WeightsError unless it has the bytes of the entry."""
    _check_size(file, entry)
    found = file_sha256(file)
    if found != entry.sha256:
        raise WeightsError(f"{file}: SHA-256 is {found}, expected {entry.sha256} as in the "
                           "registry")  # fmt: skip


def _check_size(file: Path, entry: Entry) -> None:
    size = file.stat().st_size
    if size != entry.size:
        raise WeightsError(f"{file}: has {size} bytes, expected {entry.size} as in the registry")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Only to where a source may be."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not _is_allowed(newurl) or urlsplit(newurl).scheme == "file":
            raise WeightsError(f"{req.full_url}: leads to {newurl}, expected an https URL")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(name: str, entry: Entry, file: Path, part: BinaryIO, report: Report) -> None:
    """Append to a part of the file what is missing, but never more than a byte too much."""
    have = part.tell()
    if have > entry.size:
        have = part.truncate(0)
    free = shutil.disk_usage(file.parent).free
    if free < entry.size - have:
        raise WeightsError(
            f"{file.parent}: {free} bytes are free, expected {entry.size - have} for {name}"
        )
    is_local = urlsplit(entry.source).hostname in _LOCAL
    own = [urllib.request.ProxyHandler({})] if is_local else []  # else those of the environment
    opener = urllib.request.build_opener(_Redirects, *own)
    request = urllib.request.Request(entry.source, headers={"Range": f"bytes={have}-"})
    if have == entry.size:
        return
    try:
        with opener.open(request, timeout=_TIMEOUT) as response:
            if not str(response.headers.get("Content-Range")).startswith(f"bytes {have}-"):
                have = part.truncate(0)  # the whole file is sent
            while have <= entry.size and (block := response.read(_STEP)):
                part.write(block[: entry.size + 1 - have])
                have += len(block)
                report(have, entry.size)
    except WeightsError:
        raise
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        # ValueError: of what urllib cannot read as a URL, where a server leads to as well
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        if getattr(error, "code", None) == 416:  # what is there is more than there is to have
            have = part.truncate(0)
        raise WeightsError(
            f"{name}: {entry.source} cannot be read ({reason}). {have} of {entry.size} bytes are "
            f"there; fetch again to continue. Without a network, copy the file to {file}"
        ) from error
    finally:
        part.flush()
    if have < entry.size:
        raise WeightsError(
            f"{name}: {entry.source} ended after {have} of {entry.size} bytes; fetch again to "
            "continue"
        )


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_file(name: str) -> Path | None:
    """A file or folder such as `config/train`, by its place in the package's share folder; None
    where the package came without.
    """
    shares = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    installed = [Path(prefix) / "share" / "mmsam_ros" for prefix in shares if prefix]
    places = (place / name for place in (Path(__file__).parents[2], *installed))
    return next((place for place in places if place.exists()), None)


def default_weights() -> Path:
    """The package's weights that are taken where none are named, for evaluation.

    WeightsError where the package came without them.
    """
    path = package_file(f"models/{DEFAULT}")
    if path is None:
        raise WeightsError(
            f"weights: none named, and {DEFAULT} is not among the package's models; make some "
            "with 'mmsam weights convert'"
        )
    return path
