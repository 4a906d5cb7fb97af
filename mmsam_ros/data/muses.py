# SPDX-License-Identifier: Apache-2.0
"""MUSES (arXiv 2401.12761) with `projected_to_rgb/`, which `mmsam muses-project` makes.

frame_camera/<split>/<weather>/<time>/REC####_frame_######_frame_camera.png
projected_to_rgb/{lidar,event_camera}/…/REC####_frame_######_{lidar,event_camera}.npz
gt_semantic/…/REC####_frame_######_gt_labelTrainIds.png
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mmsam_ros._util import check_word
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import FrameSet, Record
from mmsam_ros.data.read import Reader, id_table
from mmsam_ros.sensors import CLASS_SETS

SOURCES = ("lidar", "event")
WEATHERS = ("clear", "fog", "rain", "snow")
TIMES = ("day", "night")
_FOLDERS = {"lidar": "lidar", "event": "event_camera"}
_ENCODINGS = {"lidar": "muses_raw", "event": "event_counts"}


def scan(root: Path, split: str, sources: Sequence[str], lists: Path | None = None) -> FrameSet:
    """The frames of a split; their files are not opened yet. Test labels may be withheld.

    A frame that any of the folders holds is one of the split's: where its image is missing, reading
    it says so.
    """
    for source in sources:
        folder = root / "projected_to_rgb" / _FOLDERS[source]
        if not folder.is_dir():
            raise DataError(f"{folder}: is missing; `mmsam muses-project` makes it")
    truth, cameras = root / "gt_semantic" / split, root / "frame_camera" / split
    names = _names(cameras, "frame_camera") | (labelled := _names(truth, "gt_labelTrainIds"))
    for source in sources:
        word = _FOLDERS[source]
        for suffix in ("npz", "png"):
            names |= _names(root / "projected_to_rgb" / word / split, word, suffix)
    records = []
    for weather, time, name in names:
        image = cameras / weather / time / f"{name}_frame_camera.png"
        if not re.fullmatch(r"REC\d{4}_frame_\d{6}", name):
            raise DataError(f"{image}: name is {name!r}, expected REC####_frame_######")
        check_word(f"{image}: weather", weather, WEATHERS, DataError)
        check_word(f"{image}: time", time, TIMES, DataError)
        place = Path(split, weather, time)
        chosen = {source: _projected(root, source, place, name) for source in sources}
        label: Path | None = truth / weather / time / f"{name}_gt_labelTrainIds.png"
        if split == "test" and not labelled:
            label = None
        records.append(Record(name, image, chosen, label, {"weather": weather, "time": time}))
    classes = CLASS_SETS["muses"]
    encodings = {source: _ENCODINGS[source] for source in sources}
    reader = Reader(encodings, id_table(len(classes)))
    return FrameSet("muses", split, tuple(records), classes, encodings, reader)


def _names(folder: Path, word: str, suffix: str = "png") -> set[tuple[str, str, str]]:
    """(weather, time, name) of the files <weather>/<time>/<name>_<word>.<suffix>."""
    return {
        (path.parts[-3], path.parts[-2], path.stem.removesuffix(f"_{word}"))
        for path in folder.glob(f"*/*/*_{word}.{suffix}")
    }


def _projected(root: Path, source: str, place: Path, name: str) -> Path:
    folder = _FOLDERS[source]
    path = root / "projected_to_rgb" / folder / place / f"{name}_{folder}.npz"
    png = path.with_suffix(".png")
    return png if source == "lidar" and png.is_file() and not path.is_file() else path
