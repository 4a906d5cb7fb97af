# SPDX-License-Identifier: Apache-2.0
"""Opens a split of any kind of data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mmsam_ros._util import check_word
from mmsam_ros.data import deliver, fmb, folder, muses
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import SPLITS, FrameSet
from mmsam_ros.data.read import missing_files

KINDS = {"deliver": deliver, "fmb": fmb, "muses": muses, "folder": folder}


def open_frames(
    kind: str, root: str | Path, split: str, sources: Sequence[str], lists: str | Path = ""
) -> FrameSet:
    """One split of a data set; every frame has all its files.

    Args:
        kind: `deliver`, `fmb`, `muses` or `folder`.
        root: the data set's top folder.
        split: `train`, `val` or `test`.
        sources: sensors besides the camera: of `depth`, `event`, `lidar`, `thermal`.
        lists: folder of FMB's easy/hard lists.

    Raises:
        DataError: an unknown word, or a file or folder that is missing; names it.
    """
    frames = scan_frames(kind, root, split, sources, lists)
    if not frames.records:
        raise DataError(f"{root}: found no frames of the split {split!r}, expected {kind}")
    if missing := missing_files(frames.records):
        raise DataError(f"{missing[0]}: is missing ({len(missing)} missing files in {split})")
    return frames


def scan_frames(
    kind: str, root: str | Path, split: str, sources: Sequence[str], lists: str | Path = ""
) -> FrameSet:
    """As `open_frames`, but files may be missing and there may be no frames."""
    module = KINDS[check_word("kind of data set", kind, KINDS, DataError)]
    check_word("split", split, SPLITS, DataError)
    for source in sources:
        check_word(f"sensors of {kind}", source, module.SOURCES, DataError)
    if not Path(root).is_dir():
        raise DataError(f"{root}: is no folder")
    frames = module.scan(Path(root), split, tuple(sources), Path(lists) if lists else None)
    records = tuple(sorted(frames.records, key=lambda record: record.name))
    return dataclasses.replace(frames, records=records)


def known_sources(kind: str, root: str | Path) -> tuple[str, ...]:
    """The sensors besides the camera that a data set has."""
    module = KINDS[check_word("kind of data set", kind, KINDS, DataError)]
    return tuple(folder.read_meta(Path(root))["encodings"]) if module is folder else module.SOURCES
