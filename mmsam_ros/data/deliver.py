# SPDX-License-Identifier: Apache-2.0
"""DeLiVER (arXiv 2303.01480): the raw download, and the tree that MM SAM-adapter's converter makes.

    raw   img/<weather>/<split>/<SEQ>/<FRAME>_rgb_front.png, likewise hha event lidar semantic
    flat  samples/images/<training|validation|test>/<weather>_<SEQ>_<FRAME>_rgb_front.png, likewise
          depth event lidar annotations

Both give the same frames. Depth is the `hha` folder, as in every published number. A frame that any
of the folders holds is one of the split's: where its image is missing, reading it says so.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmsam_ros._util import check_word
from mmsam_ros.data.benchmark import Benchmark, Protocol, published_table
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.files import match, stems
from mmsam_ros.data.frames import FrameSet, Record
from mmsam_ros.sensors import Modality, class_table

WEATHERS = ("cloud", "fog", "night", "rain", "sun")
CASES = ("motionblur", "overexposure", "underexposure", "lidarjitter", "eventlowres")
_FLAT_SPLITS = {"train": "training", "val": "validation", "test": "test"}


def scan(root: Path, split: str, sensors: Sequence[str], lists: Path | None = None) -> FrameSet:
    """The frames of a split; their files are not opened yet."""
    raw = (root / "img").is_dir()
    if raw:
        top, names, pattern = root, {"rgb": "img", "depth": "hha"}, f"*/{split}/*/*"
    else:
        top = root / "samples" if (root / "samples").is_dir() else root
        names, pattern = {"rgb": "images", "semantic": "annotations"}, f"{_FLAT_SPLITS[split]}/*"
        if not (top / "images").is_dir():
            raise DataError(f"{root}: found neither img/ nor samples/images/, expected DeLiVER")
    folders = {kind: top / names.get(kind, kind) for kind in ("rgb", "semantic", *sensors)}
    found = {kind: stems(top, pattern, f"_{kind}_front") for kind, top in folders.items()}
    places = set().union(*found.values())
    records = tuple(_record(folders, found, place) for place in places)
    return FrameSet(
        "deliver", split, records, CLASSES, dict.fromkeys(sensors, _PNG8), first_label=int(raw),
        red_labels=True, common=_COMMON,
    )  # fmt: skip


def _record(
    folders: Mapping[str, Path], found: Mapping[str, Mapping[str, Path]], place: str
) -> Record:
    """The frame at <weather>/<split>/<SEQ>/<FRAME> or <split>/<weather>_<SEQ>_<FRAME>."""
    files = {
        kind: found[kind].get(place, folder / f"{place}_{kind}_front.png")
        for kind, folder in folders.items()
    }
    image, label = files.pop("rgb"), files.pop("semantic")
    *above, last = place.split("/")
    name = f"{above[0]}_{above[2]}_{last}" if len(above) == 3 else last
    # by the name's tokens alone: "rain" is a part of "training", too
    weather, *sequence, frame = name.split("_")
    if not (sequence and frame.isdigit()):
        raise DataError(f"{image}: name is {name!r}, expected <weather>_<sequence>_<digits>")
    check_word(f"{image}: weather", weather, WEATHERS, DataError)
    case = sequence[-1] if sequence[-1] in CASES else "ordinary"
    # hard is what the published list holds: the underexposed frames
    difficulty, product = "hard" if case == "underexposure" else "easy", f"{weather}/{case}"
    subsets = {"weather": weather, "case": case, "product": product, "difficulty": difficulty}
    coarse = ("event",) if case == "eventlowres" else ()
    return Record(name, image, files, label, subsets, coarse)


def _notes(root: Path, names: set[str]) -> list[str]:
    notes = []
    if coloured := sum(1 for _ in match(root / "lidar", "*/*/*/*_color.png")):
        notes.append(f"{coloured} coloured LiDAR variants are not read")
    # a sequence ends with its case or, where that is ordinary, with its place
    ends = re.compile("|".join((r"point\d+", *CASES)))
    if odd := sorted(name for name in names if not ends.fullmatch(name.split("_")[-2])):
        notes.append(f"{len(odd)} frames of unknown cases count as ordinary, such as {odd[0]}")
    return notes


CLASSES = class_table(
    ("Building", 70, 70, 70), ("Fence", 100, 40, 40), ("Other", 55, 90, 80),
    ("Pedestrian", 220, 20, 60), ("Pole", 153, 153, 153), ("RoadLine", 157, 234, 50),
    ("Road", 128, 64, 128), ("SideWalk", 244, 35, 232), ("Vegetation", 107, 142, 35),
    ("Cars", 0, 0, 142), ("Wall", 102, 102, 156), ("TrafficSign", 220, 220, 0),
    ("Sky", 70, 130, 180), ("Ground", 81, 0, 81), ("Bridge", 150, 100, 100),
    ("RailTrack", 230, 150, 140), ("GroundRail", 180, 165, 180), ("TrafficLight", 250, 170, 30),
    ("Static", 110, 190, 160), ("Dynamic", 170, 120, 50), ("Water", 45, 60, 150),
    ("Terrain", 145, 170, 100), ("TwoWheeler", 0, 0, 230), ("Bus", 0, 60, 100),
    ("Truck", 0, 0, 70),
)  # fmt: skip
_COMMON = tuple(
    i for i, c in enumerate(CLASSES) if c.name in ("Building", "Road", "Vegetation", "Sky")
)
_PNG8 = Modality(("red", "green", "blue"), "png8", scale=(1 / 255, 1 / 255, 1 / 255))
_COLUMNS = ("all", "difficulty=easy", "difficulty=hard")

BENCHMARK = Benchmark(
    "deliver",
    scan,
    CLASSES,
    modalities=dict.fromkeys(("depth", "event", "lidar"), _PNG8),
    image_size="1042x1042",
    protocol=Protocol("resize", score_on_canvas=True),
    pooled_frames=2,
    counts={"train": {"all": 3983}, "val": {"all": 2005}, "test": {
        "all": 1897, "weather=cloud": 379, "weather=fog": 379, "weather=night": 379,
        "weather=rain": 380, "weather=sun": 380, "case=ordinary": 1198, "case=motionblur": 300,
        "case=overexposure": 100, "case=underexposure": 100, "case=lidarjitter": 99,
        "case=eventlowres": 100, "difficulty=easy": 1797, "difficulty=hard": 100,
    }},
    published=(
        *published_table("T4", "test", _COLUMNS, {
            ("depth",): {
                "CMNeXt": (53.87, 54.07, 49.66), "GeminiFusion": (54.98, 55.07, 53.00),
                "RoadFormer+": (55.95, 56.12, 52.39), "MM SAM-adapter": (57.35, 57.62, 53.35),
            },
            ("lidar",): {
                "CMNeXt": (51.32, 51.97, 39.29), "GeminiFusion": (50.57, 51.07, 40.93),
                "RoadFormer+": (54.56, 55.41, 40.26), "MM SAM-adapter": (57.14, 57.75, 45.46),
            },
            ("event",): {
                "CMNeXt": (50.81, 51.56, 37.08), "GeminiFusion": (51.71, 52.32, 40.27),
                "RoadFormer+": (54.10, 54.80, 41.98), "MM SAM-adapter": (55.70, 56.29, 44.67),
            },
        }),
        *published_table("T9", "test", _COLUMNS, {
            (): {"SAM": (53.32, 54.28, 35.57), "SAM adapter": (55.98, 57.07, 37.93)},
        }),
        *published_table("T7", "val", _COLUMNS, {
            ("depth",): {"MM SAM-adapter": (69.60,)},
            ("lidar",): {"MM SAM-adapter": (61.89,)},
            ("event",): {"MM SAM-adapter": (60.74,)},
        }),
    ),
    notes=_notes,
)  # fmt: skip
"""Tables T4, T7 and T9 of arXiv 2509.10408. val and test rank methods differently and differ by up
to 15 points: a number only ever stands beside one of its own split and sensors.
"""
