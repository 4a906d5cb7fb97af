# SPDX-License-Identifier: Apache-2.0
"""DeLiVER (arXiv 2303.01480): the raw download, and the tree that MM SAM-adapter's converter makes.

    raw   img/<weather>/<split>/<SEQ>/<FRAME>_rgb_front.png, likewise hha event lidar semantic
    flat  samples/images/<training|validation|test>/<weather>_<SEQ>_<FRAME>_rgb_front.png, likewise
          depth event lidar annotations

Both give the same frames. Depth is the `hha` folder, as in every published number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import FrameSet, Record
from mmsam_ros.data.read import Planes, Reader, Size, decode_label, id_table, read_image
from mmsam_ros.data.words import check_word
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
    records = []
    for image in root.glob(f"img/*/{split}/*/*_rgb_front.png"):
        weather, _, sequence, file = image.relative_to(root / "img").parts
        frame = file.removesuffix("_rgb_front.png")
        files = {
            top: root / top / weather / split / sequence / f"{frame}_{kind}_front.png"
            for top, kind in (("hha", "depth"), ("event", "event"), ("lidar", "lidar"),
                              ("semantic", "semantic"))
        }  # fmt: skip
        chosen = {source: files["hha" if source == "depth" else source] for source in sources}
        name = f"{weather}_{sequence}_{frame}"
        records.append(Record(name, image, chosen, files["semantic"], _subsets(image, name)))
    return records


def _flat(top: Path, split: str, sources: Sequence[str]) -> list[Record]:
    folder, records = _FLAT_SPLITS[split], []
    for image in (top / "images" / folder).glob("*_rgb_front.png"):
        name = image.name.removesuffix("_rgb_front.png")
        chosen = {
            source: top / source / folder / f"{name}_{source}_front.png" for source in sources
        }
        label = top / "annotations" / folder / f"{name}_semantic_front.png"
        records.append(Record(name, image, chosen, label, _subsets(image, name)))
    return records


def _subsets(image: Path, name: str) -> Mapping[str, str]:
    """Weather and case by the name's tokens: "rain" is a part of "training", too."""
    weather, *sequence, frame = name.split("_")
    if not (sequence and frame.isdigit()):
        raise DataError(f"{image}: name is {name!r}, expected <weather>_<sequence>_<digits>")
    check_word(f"{image}: weather", weather, WEATHERS)
    ordinary = re.fullmatch(r"point\d+", sequence[-1])
    case = "ordinary" if ordinary else check_word(f"{image}: case", sequence[-1], CASES)
    # hard is what the published list holds: the underexposed frames
    difficulty = "hard" if case == "underexposure" else "easy"
    product = f"{weather}/{case}"
    return {"weather": weather, "case": case, "product": product, "difficulty": difficulty}
