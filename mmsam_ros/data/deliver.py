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

import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util import check_word
from mmsam_ros.data.benchmark import Benchmark, Protocol, published_rows
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import FrameSet, Record
from mmsam_ros.data.read import Array, Reader, decode_label, id_table, read_image
from mmsam_ros.sensors import Modality, class_table

WEATHERS = ("cloud", "fog", "night", "rain", "sun")
CASES = ("motionblur", "overexposure", "underexposure", "lidarjitter", "eventlowres")
_FLAT_SPLITS = {"train": "training", "val": "validation", "test": "test"}

CLASSES = class_table(
    ("Building", 70, 70, 70),
    ("Fence", 100, 40, 40),
    ("Other", 55, 90, 80),
    ("Pedestrian", 220, 20, 60),
    ("Pole", 153, 153, 153),
    ("RoadLine", 157, 234, 50),
    ("Road", 128, 64, 128),
    ("SideWalk", 244, 35, 232),
    ("Vegetation", 107, 142, 35),
    ("Cars", 0, 0, 142),
    ("Wall", 102, 102, 156),
    ("TrafficSign", 220, 220, 0),
    ("Sky", 70, 130, 180),
    ("Ground", 81, 0, 81),
    ("Bridge", 150, 100, 100),
    ("RailTrack", 230, 150, 140),
    ("GroundRail", 180, 165, 180),
    ("TrafficLight", 250, 170, 30),
    ("Static", 110, 190, 160),
    ("Dynamic", 170, 120, 50),
    ("Water", 45, 60, 150),
    ("Terrain", 145, 170, 100),
    ("TwoWheeler", 0, 0, 230),
    ("Bus", 0, 60, 100),
    ("Truck", 0, 0, 70),
)


@dataclass(frozen=True)
class DeliverReader(Reader):
    """Events of the case eventlowres are coarser than RGB; a raw label's id is its red channel."""

    def check_size(self, sensor: str, path: Path, image: Array, record: Record, rgb: Array) -> None:
        if sensor != "event" or record.subsets["case"] != "eventlowres":
            super().check_size(sensor, path, image, record, rgb)

    def label(self, path: Path) -> NDArray[np.uint8]:
        image = read_image(path)
        return decode_label(path, image if image.ndim == 2 else image[..., 0], self.ids)


def scan(root: Path, split: str, sensors: Sequence[str], lists: Path | None = None) -> FrameSet:
    """The frames of a split; their files are not opened yet."""
    if (root / "img").is_dir():
        records, offset = _raw(root, split, sensors), 1
    else:
        top = root / "samples" if (root / "samples").is_dir() else root
        if not (top / "images").is_dir():
            raise DataError(f"{root}: found neither img/ nor samples/images/, expected DeLiVER")
        records, offset = _flat(top, split, sensors), 0
    modalities = dict.fromkeys(sensors, _PNG8)
    reader = DeliverReader(modalities, id_table(len(CLASSES), offset))
    return FrameSet("deliver", split, tuple(records), CLASSES, modalities, reader)


def _raw(root: Path, split: str, sensors: Sequence[str]) -> list[Record]:
    kinds = {"img": "rgb", "semantic": "semantic"}
    kinds |= {"hha" if sensor == "depth" else sensor: sensor for sensor in sensors}
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
        chosen = {sensor: files[sensor] for sensor in sensors}
        records.append(Record(name, image, chosen, label, _subsets(image, name)))
    return records


def _flat(top: Path, split: str, sensors: Sequence[str]) -> list[Record]:
    kinds = {"rgb": "images", "semantic": "annotations"} | {sensor: sensor for sensor in sensors}
    folders = {kind: top / folder / _FLAT_SPLITS[split] for kind, folder in kinds.items()}
    names = {
        path.name.removesuffix(f"_{kind}_front.png")
        for kind, folder in folders.items()
        for path in folder.glob(f"*_{kind}_front.png")
    }
    records = []
    for name in names:
        files = {kind: folder / f"{name}_{kind}_front.png" for kind, folder in folders.items()}
        image, label, chosen = files["rgb"], files["semantic"], {s: files[s] for s in sensors}
        records.append(Record(name, image, chosen, label, _subsets(image, name)))
    return records


def _unknown_case(name: str) -> bool:
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


def _notes(root: Path, names: set[str]) -> list[str]:
    notes = []
    if coloured := sum(1 for _ in root.glob("lidar/**/*_color.png")):
        notes.append(f"{coloured} coloured LiDAR variants are not read")
    if odd := sorted(filter(_unknown_case, names)):
        notes.append(f"{len(odd)} frames of unknown cases count as ordinary, such as {odd[0]}")
    return notes


_BYTE = 1 / 255
_PNG8 = Modality(("red", "green", "blue"), "png8", scale=(_BYTE, _BYTE, _BYTE))
_COLUMNS = ("all", "difficulty=easy", "difficulty=hard")
BENCHMARK = Benchmark(
    "deliver",
    scan,
    modalities=dict.fromkeys(("depth", "event", "lidar"), _PNG8),
    classes=CLASSES,
    protocol=Protocol("resize", score_on_canvas=True),
    image_size="1042x1042",
    counts={"train": {"all": 3983}, "val": {"all": 2005}, "test": {
        "all": 1897, "weather=cloud": 379, "weather=fog": 379, "weather=night": 379,
        "weather=rain": 380, "weather=sun": 380, "case=ordinary": 1198, "case=motionblur": 300,
        "case=overexposure": 100, "case=underexposure": 100, "case=lidarjitter": 99,
        "case=eventlowres": 100, "difficulty=easy": 1797, "difficulty=hard": 100,
    }},
    published=(
        *published_rows("test", ("depth",), _COLUMNS, "T4", {
        "CMNeXt": (53.87, 54.07, 49.66), "GeminiFusion": (54.98, 55.07, 53.00),
        "RoadFormer+": (55.95, 56.12, 52.39), "MM SAM-adapter": (57.35, 57.62, 53.35),
    }),
        *published_rows("test", ("lidar",), _COLUMNS, "T4", {
        "CMNeXt": (51.32, 51.97, 39.29), "GeminiFusion": (50.57, 51.07, 40.93),
        "RoadFormer+": (54.56, 55.41, 40.26), "MM SAM-adapter": (57.14, 57.75, 45.46),
    }),
        *published_rows("test", ("event",), _COLUMNS, "T4", {
        "CMNeXt": (50.81, 51.56, 37.08), "GeminiFusion": (51.71, 52.32, 40.27),
        "RoadFormer+": (54.10, 54.80, 41.98), "MM SAM-adapter": (55.70, 56.29, 44.67),
    }),
        *published_rows("test", (), _COLUMNS, "T9", {
        "SAM": (53.32, 54.28, 35.57), "SAM adapter": (55.98, 57.07, 37.93),
    }),
        *published_rows("val", ("depth",), _COLUMNS, "T7", {"MM SAM-adapter": (69.60,)}),
        *published_rows("val", ("lidar",), _COLUMNS, "T7", {"MM SAM-adapter": (61.89,)}),
        *published_rows("val", ("event",), _COLUMNS, "T7", {"MM SAM-adapter": (60.74,)}),
    ),
    notes=_notes,
)  # fmt: skip
"""Tables T4, T7 and T9 of arXiv 2509.10408. val and test rank methods differently and differ by up
to 15 points: a number only ever stands beside one of its own split and sensors.
"""
