# SPDX-License-Identifier: Apache-2.0
"""Atomic writes: a file or a folder is complete or absent."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mmsam_ros._util.errors import MmsamError


def flush(path: Path) -> None:
    """Wait until a file's content is on the disk, and stays there if the power is cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to. If the block ends without an error, it is flushed to disk
    and replaces `path`. Folders are created. An OSError names a file, `path` at least.
    """
    if not path.name or path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.touch()  # an OSError here names the path; that of a library may not
    try:
        yield part
        flush(part)
        part.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder of the same name elsewhere to make and fill. If the block ends without an error, it
    becomes `path`; else nothing is left of it. MmsamError if `path` is there.
    """
    if os.path.lexists(path):
        raise MmsamError(f"{path} exists, expected a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name}.part-", dir=path.parent) as part:
        yield Path(part, path.name)  # as the files in it may be named
        Path(part, path.name).rename(path)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file; text as UTF-8, with escapes for what is not (bytes of a path)."""
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    with atomic_path(path) as part:
        part.write_bytes(data)
