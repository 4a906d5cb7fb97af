# SPDX-License-Identifier: Apache-2.0
"""DeLiVER (arXiv 2303.01480): the raw download, and the tree that MM SAM-adapter's converter makes.

    raw   img/<weather>/<split>/<SEQ>/<FRAME>_rgb_front.png, likewise hha event lidar semantic
    flat  samples/images/<training|validation|test>/<weather>_<SEQ>_<FRAME>_rgb_front.png, likewise
          depth event lidar annotations

Both give the same frames. Depth is the `hha` folder, as in every published number. A frame that any
of the folders holds is one of the split's: where its image is missing, reading it says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util import check_word
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import FrameSet, Record
from mmsam_ros.data.read import Planes, Reader, Size, decode_label, id_table, read_image
from mmsam_ros.sensors import CLASS_SETS

SOURCES = ("depth", "event", "lidar")
WEATHERS = ("cloud", "fog", "night", "rain", "sun")
CASES = ("motionblur", "overexposure", "underexposure", "lidarjitter", "eventlowres")
_FLAT_SPLITS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class DeliverReader(Reader):
    """Events of the case eventlowres are coarser than RGB; a raw label's id is its red channel."""

    def source(self, source: str, record: Record, size: Size) -> Planes:
        planes = super().source(source, record, size)
        if source == "event" and record.subsets["case"] == "eventlowres":
            enlarged = cv2.resize(planes, size[::-1], interpolation=cv2.INTER_NEAREST)
            return np.asarray(enlarged, np.float32)
        return planes

    def label(self, path: Path) -> NDArray[np.uint8]:
        image = read_image(path)
        return decode_label(path, image if image.ndim == 2 else image[..., 0], self.ids)


def scan(root: Path, split: str, sources: Sequence[str], lists: Path | None = None) -> FrameSet:
    """The frames of a split; their files are not opened yet."""
    if (root / "img").is_dir():
        records, offset = _raw(root, split, sources), 1
    else:
        top = root / "samples" if (root / "samples").is_dir() else root
        if not (top / "images").is_dir():
            raise DataError(f"{root}: found neither img/ nor samples/images/, expected DeLiVER")
        records, offset = _flat(top, split, sources), 0
    classes = CLASS_SETS["deliver"]
    encodings = dict.fromkeys(sources, "png8")
    reader = DeliverReader(encodings, id_table(len(classes), offset))
    return FrameSet("deliver", split, tuple(records), classes, encodings, reader)


def _raw(root: Path, split: str, sources: Sequence[str]) -> list[Record]:
    kinds = {"img": "rgb", "semantic": "semantic"}
    kinds |= {"hha" if source == "depth" else source: source for source in sources}
    places = {
        (*path.relative_to(root / top).parent.parts, path.name.removesuffix(f"_{kind}_front.png"))
        for top, kind in kinds.items()
        for path in root.glob(f"{top}/*/{split}/*/*_{kind}_front.png")
    }
    records = []
    for weather, _, sequence, frame in places:
        files = {
            kind: root / top / weather / split / sequence / f"{frame}_{kind}_front.png"
            for top, kind in kinds.items()
        }
        image, label, name = files["rgb"], files["semantic"], f"{weather}_{sequence}_{frame}"
        chosen = {source: files[source] for source in sources}
        records.append(Record(name, image, chosen, label, _subsets(image, name)))
    return records


def _flat(top: Path, split: str, sources: Sequence[str]) -> list[Record]:
    kinds = {"rgb": "images", "semantic": "annotations"} | {source: source for source in sources}
    folders = {kind: top / folder / _FLAT_SPLITS[split] for kind, folder in kinds.items()}
    names = {
        path.name.removesuffix(f"_{kind}_front.png")
        for kind, folder in folders.items()
        for path in folder.glob(f"*_{kind}_front.png")
    }
    records = []
    for name in names:
        files = {kind: folder / f"{name}_{kind}_front.png" for kind, folder in folders.items()}
        image, label, chosen = files["rgb"], files["semantic"], {s: files[s] for s in sources}
        records.append(Record(name, image, chosen, label, _subsets(image, name)))
    return records


def unknown_case(name: str) -> bool:
    """Whether a frame's sequence ends neither with its place, as ordinary ones do, nor a case."""
    word = name.split("_")[-2]
    return word not in CASES and not re.fullmatch(r"point\d+", word)


def _subsets(image: Path, name: str) -> Mapping[str, str]:
    """Weather and case by the name's tokens: "rain" is a part of "training", too."""
    weather, *sequence, frame = name.split("_")
    if not (sequence and frame.isdigit()):
        raise DataError(f"{image}: name is {name!r}, expected <weather>_<sequence>_<digits>")
    check_word(f"{image}: weather", weather, WEATHERS, DataError)
    case = sequence[-1] if sequence[-1] in CASES else "ordinary"
    # hard is what the published list holds: the underexposed frames
    difficulty = "hard" if case == "underexposure" else "easy"
    product = f"{weather}/{case}"
    return {"weather": weather, "case": case, "product": product, "difficulty": difficulty}
