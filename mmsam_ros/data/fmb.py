# SPDX-License-Identifier: Apache-2.0
"""FMB (arXiv 2308.02097): <train|test>/{Visible,Infrared,Label}/NNNNN.png, and lists of names.

The lists of MM SAM-adapter take the validation frames out of `train/` and say which frames are easy
and hard. A tree whose files were moved into `val/` and `Visible/{easy,hard}/` is read as well.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from mmsam_ros.data import SPLITS
from mmsam_ros.data.benchmark import Benchmark, Protocol, published_table, unused_images
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.files import match, read_text, stems
from mmsam_ros.data.frames import FrameSet, Record
from mmsam_ros.sensors import Modality, class_table

DIFFICULTIES = ("easy", "hard")


def scan(root: Path, split: str, sensors: Sequence[str], lists: Path | None = None) -> FrameSet:
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
        chosen = {name: path.parent.name for name, path in visible.items()}
    else:
        chosen = read_lists(lists)[split]
    records = tuple(
        Record(
            name,
            visible.get(name, folder / f"Visible/{name}.png"),
            {sensor: thermal.get(name, folder / f"Infrared/{name}.png") for sensor in sensors},
            label.get(name, folder / f"Label/{name}.png"),
            {"difficulty": word} if word in DIFFICULTIES else {},
        )
        for name, word in chosen.items()
    )
    modalities = dict.fromkeys(sensors, _THERMAL)
    return FrameSet(
        "fmb",
        split,
        records,
        CLASSES,
        modalities,
        first_label=1,
        common=_COMMON,
        uneven=("thermal",),
    )


def read_lists(folder: Path) -> dict[str, dict[str, str]]:
    """Per split the names of the frames and their difficulty, from <split>_<easy|hard>_files.txt.

    DataError names a list that is missing, a line that is no file name and a name in two places.
    """
    found: dict[str, Path] = {}
    splits: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    for split, names in splits.items():
        for difficulty in DIFFICULTIES:
            path = folder / f"{split}_{difficulty}_files.txt"
            for line in read_text(path).split():
                if not re.fullmatch(r"\d{5}\.png", line):
                    raise DataError(f"{path}: found {line!r}, expected names such as 00001.png")
                name = line.removesuffix(".png")
                if name in found:
                    raise DataError(f"{path}: {line} is in {found[name]} already")
                found[name], names[name] = path, difficulty
    return splits


def _files(folder: Path) -> dict[str, Path]:
    """Name -> file, in the folder itself or in its easy/ and hard/."""
    found: dict[str, Path] = {}
    for place in (folder, *(folder / word for word in DIFFICULTIES)):
        found |= stems(place, "*")
    return found


def _notes(root: Path, names: set[str]) -> list[str]:
    places = [path for path in match(root, "*/Visible") if path.is_dir()]
    return unused_images({name for place in places for name in _files(place)}, names)


CLASSES = class_table(
    ("Road", 179, 228, 228), ("Sidewalk", 181, 57, 133), ("Building", 67, 162, 177),
    ("Traffic Light", 200, 178, 50), ("Traffic Sign", 132, 45, 199), ("Vegetation", 66, 172, 84),
    ("Sky", 179, 73, 79), ("Person", 76, 99, 166), ("Car", 66, 121, 253), ("Truck", 137, 165, 91),
    ("Bus", 155, 97, 152), ("Motorcycle", 105, 153, 140), ("Bicycle", 222, 215, 158),
    ("Pole", 135, 113, 90),
)  # fmt: skip
_COMMON = tuple(
    i for i, c in enumerate(CLASSES) if c.name in ("Road", "Building", "Vegetation", "Sky")
)
_THERMAL = Modality(("value", "value", "value"), "mono8", scale=(1 / 255, 1 / 255, 1 / 255))
_COLUMNS = ("all", "difficulty=easy", "difficulty=hard")

BENCHMARK = Benchmark(
    "fmb",
    scan,
    CLASSES,
    modalities={"thermal": _THERMAL},
    image_size="800x600",
    network_size=(800, 800),
    protocol=Protocol("pad", pad_raw=True),
    pooled_frames=4,
    counts={
        "train": {"all": 1060, "difficulty=easy": 752, "difficulty=hard": 308},
        "val": {"all": 160, "difficulty=easy": 80, "difficulty=hard": 80},
        "test": {"all": 280, "difficulty=easy": 183, "difficulty=hard": 97},
    },
    published=(
        *published_table("T5", "test", _COLUMNS, {
            ("thermal",): {
                "CMNeXt": (61.66, 64.81, 56.85), "GeminiFusion": (64.75, 68.05, 61.03),
                "RoadFormer+": (64.57, 66.31, 61.79), "MM SAM-adapter": (66.10, 68.45, 62.59),
            },
        }),
        *published_table("its paper; epoch chosen on the test set", "test", _COLUMNS, {
            ("thermal",): {"StitchFusion-B3": (64.85,), "SHIFNet": (67.8,)},
        }),
    ),
    notes=_notes,
)  # fmt: skip
"""Table T5 of arXiv 2509.10408."""
