# SPDX-License-Identifier: Apache-2.0
"""FMB (arXiv 2308.02097): <train|test>/{Visible,Infrared,Label}/NNNNN.png, and lists of names.

The lists of MM SAM-adapter take the validation frames out of `train/` and say which frames are easy
and hard. A tree whose files were moved into `val/` and `Visible/{easy,hard}/` is read as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import SPLITS, FrameSet, Record
from mmsam_ros.data.read import Reader, id_table
from mmsam_ros.sensors import CLASS_SETS

SOURCES = ("thermal",)
DIFFICULTIES = ("easy", "hard")


def scan(root: Path, split: str, sources: Sequence[str], lists: Path | None = None) -> FrameSet:
    """The frames of a split; their files are not opened yet."""
    folder = root / split
    if split == "val" and not folder.is_dir():
        if lists is None:
            raise DataError(
                f"{folder}: is missing; the validation frames lie in train/, give the folder of "
                "the lists that name them (val_easy_files.txt, val_hard_files.txt, …)"
            )
        folder = root / "train"
    visible, thermal, label = (_files(folder / top) for top in ("Visible", "Infrared", "Label"))
    if lists is None:
        subfolder = {name: path.parent.name for name, path in visible.items()}
        chosen = {n: word if word in DIFFICULTIES else "" for n, word in subfolder.items()}
    else:
        chosen = read_lists(lists)[split]
    records = [
        Record(
            Path(name).stem,
            visible.get(name, folder / "Visible" / name),
            {source: thermal.get(name, folder / "Infrared" / name) for source in sources},
            label.get(name, folder / "Label" / name),
            {"difficulty": difficulty} if difficulty else {},
        )
        for name, difficulty in chosen.items()
    ]
    classes = CLASS_SETS["fmb"]
    encodings = dict.fromkeys(sources, "mono8")
    reader = Reader(encodings, id_table(len(classes), offset=1))
    return FrameSet("fmb", split, tuple(records), classes, encodings, reader)


def read_lists(folder: Path) -> dict[str, dict[str, str]]:
    """Per split the file names and their difficulty, from <split>_<easy|hard>_files.txt.

    DataError names a list that is missing, a line that is no file name and a name in two places.
    """
    found: dict[str, Path] = {}
    splits: dict[str, dict[str, str]] = {}
    for split in SPLITS:
        splits[split] = {}
        for difficulty in DIFFICULTIES:
            path = folder / f"{split}_{difficulty}_files.txt"
            if not path.is_file():
                raise DataError(f"{path}: is missing")
            for name in path.read_text(encoding="utf-8").split():
                if not re.fullmatch(r"\d{5}\.png", name):
                    raise DataError(f"{path}: found {name!r}, expected names such as 00001.png")
                if name in found:
                    raise DataError(f"{path}: {name} is in {found[name]} already")
                found[name] = path
                splits[split][name] = difficulty
    return splits


def _files(folder: Path) -> dict[str, Path]:
    """Name -> file, in the folder itself or in its easy/ and hard/."""
    places = (folder, *(folder / word for word in DIFFICULTIES))
    return {path.name: path for place in places for path in place.glob("*.png")}
