# SPDX-License-Identifier: Apache-2.0
"""Files of a data set by name, and text files, whatever system wrote them.

Names that begin with a dot are skipped (macOS leaves `._NAME` beside every file on other disks),
suffixes count in either case, and names are compared as composed Unicode (macOS stores "ü" as two
characters).
"""

import codecs
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mmsam_ros.data.errors import DataError, naming

Suffixes = Sequence[str]
IMAGES: Suffixes = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
ARRAYS: Suffixes = (".npz", ".npy")
_MARKS = {  # longer ones first: that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip


def entries(folder: Path) -> list[Path]:
    """What a folder holds, sorted, without hidden names; nothing where there is no such folder.

    DataError where it cannot be listed.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def match(folder: Path, pattern: str) -> Iterator[Path]:
    """The paths below a folder that match a pattern such as `*/train/*`, level by level."""
    first, _, rest = pattern.partition("/")
    found = [path for path in entries(folder) if fnmatchcase(path.name, first)]
    for path in found:
        if not rest:
            yield path
        elif path.is_dir():
            yield from match(path, rest)


def walk(folder: Path) -> set[str]:
    """Paths of all images below a folder, without suffix; links to folders are not followed."""
    found: set[str] = set()
    for path in entries(folder):
        if path.is_dir():
            if not path.is_symlink():
                found |= {f"{composed(path.name)}/{name}" for name in walk(path)}
        elif path.suffix.lower() in IMAGES:
            found.add(composed(path.stem))
    return found


def stems(
    folder: Path, pattern: str, ending: str = "", suffixes: Suffixes = IMAGES
) -> dict[str, Path]:
    """Files below a folder whose names match `pattern` and end with `ending` and a suffix.

    Returns:
        File by its path below the folder, without ending and suffix. DataError names two files
        that differ in nothing but the suffix.
    """
    found: dict[str, Path] = {}
    for path in match(folder, f"{pattern}{ending}.*"):
        if path.suffix.lower() not in suffixes:
            continue
        whole = composed(path.relative_to(folder).with_suffix("").as_posix())
        stem = whole.removesuffix(ending)
        if whole.endswith(ending) and found.setdefault(stem, path) != path:
            raise _both(found[stem], path)
    return found


class Files:
    """Finds files by name; every folder is listed once."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, list[Path]]] = {}

    def find(self, stem: Path, suffixes: Suffixes = IMAGES) -> Path:
        """The one file `stem` with one of the suffixes; where there is none, the path with the
        first suffix. DataError names two files.
        """
        beside = self._list(stem.parent).get(composed(stem.name), ())
        found = [p for suffix in suffixes for p in beside if p.suffix.lower() == suffix]
        if len(found) > 1:
            raise _both(found[0], found[1])
        return found[0] if found else stem.with_name(stem.name + suffixes[0])

    def _list(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._listed:
            by_stem: dict[str, list[Path]] = {}
            for path in entries(folder):
                by_stem.setdefault(composed(path.stem), []).append(path)
            self._listed[folder] = by_stem
        return self._listed[folder]


def _both(one: Path, other: Path) -> DataError:
    return DataError(f"{one} and {other.name} are both there, expected one of them")


def composed(name: str) -> str:
    """The name with each accented letter as one character."""
    return unicodedata.normalize("NFC", name)


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark, or in UTF-16 or UTF-32 with one."""
    with naming(path):
        content = path.read_bytes()
    encoding = next((e for mark, e in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {error}, expected text in UTF-8") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; DataError also for a key that is given twice."""
    text = read_text(path)
    with naming(path, ValueError, RecursionError):
        values = json.loads(text, object_pairs_hook=_unique)
        json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair is no text
    if not isinstance(values, dict):
        raise DataError(f"{path}: holds a {type(values).__name__}, expected a JSON object")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key {key!r} is given twice")
    return values
