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
from mmsam_ros.data.benchmark import Benchmark, Protocol, published_rows
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import FrameSet, Record
from mmsam_ros.data.read import Reader, id_table
from mmsam_ros.sensors import Modality, class_table

WEATHERS = ("clear", "fog", "rain", "snow")
TIMES = ("day", "night")
_FOLDERS = {"lidar": "lidar", "event": "event_camera"}
_MODALITIES = {
    "lidar": Modality(
        ("range", "intensity", "height"),
        "muses_raw",
        mean=(1.4628459, 1.8271197, 0.07808967),
        std=(7.55678107, 9.85001751, 0.67012253),
        point_size=2,
    ),
    "event": Modality(
        ("positive", "negative", "zero"),
        "event_counts",
        mean=(0.08768561, 0.08779435, 0.0),
        std=(0.4479273728, 0.4006636355, 1.0),
        point_size=2,
    ),
}

CLASSES = class_table(  # those of Cityscapes
    ("road", 128, 64, 128),
    ("sidewalk", 244, 35, 232),
    ("building", 70, 70, 70),
    ("wall", 102, 102, 156),
    ("fence", 190, 153, 153),
    ("pole", 153, 153, 153),
    ("traffic light", 250, 170, 30),
    ("traffic sign", 220, 220, 0),
    ("vegetation", 107, 142, 35),
    ("terrain", 152, 251, 152),
    ("sky", 70, 130, 180),
    ("person", 220, 20, 60),
    ("rider", 255, 0, 0),
    ("car", 0, 0, 142),
    ("truck", 0, 0, 70),
    ("bus", 0, 60, 100),
    ("train", 0, 80, 100),
    ("motorcycle", 0, 0, 230),
    ("bicycle", 119, 11, 32),
)


def scan(root: Path, split: str, sensors: Sequence[str], lists: Path | None = None) -> FrameSet:
    """The frames of a split; their files are not opened yet. Test labels may be withheld.

    A frame that any of the folders holds is one of the split's: where its image is missing, reading
    it says so.
    """
    for sensor in sensors:
        folder = root / "projected_to_rgb" / _FOLDERS[sensor]
        if not folder.is_dir():
            raise DataError(f"{folder}: is missing; `mmsam muses-project` makes it")
    truth, cameras = root / "gt_semantic" / split, root / "frame_camera" / split
    names = _names(cameras, "frame_camera") | (labelled := _names(truth, "gt_labelTrainIds"))
    for sensor in sensors:
        word = _FOLDERS[sensor]
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
        chosen = {sensor: _projected(root, sensor, place, name) for sensor in sensors}
        label: Path | None = truth / weather / time / f"{name}_gt_labelTrainIds.png"
        if split == "test" and not labelled:
            label = None
        records.append(Record(name, image, chosen, label, {"weather": weather, "time": time}))
    modalities = {sensor: _MODALITIES[sensor] for sensor in sensors}
    reader = Reader(modalities, id_table(len(CLASSES)))
    return FrameSet("muses", split, tuple(records), CLASSES, modalities, reader)


def _names(folder: Path, word: str, suffix: str = "png") -> set[tuple[str, str, str]]:
    """(weather, time, name) of the files <weather>/<time>/<name>_<word>.<suffix>."""
    return {
        (path.parts[-3], path.parts[-2], path.stem.removesuffix(f"_{word}"))
        for path in folder.glob(f"*/*/*_{word}.{suffix}")
    }


def _projected(root: Path, sensor: str, place: Path, name: str) -> Path:
    folder = _FOLDERS[sensor]
    path = root / "projected_to_rgb" / folder / place / f"{name}_{folder}.npz"
    png = path.with_suffix(".png")
    return png if sensor == "lidar" and png.is_file() and not path.is_file() else path


_COLUMNS = (
    "all", "time=day", "time=night", "weather=clear", "weather=fog", "weather=rain", "weather=snow",
)  # fmt: skip
BENCHMARK = Benchmark(
    "muses",
    scan,
    modalities=_MODALITIES,
    classes=CLASSES,
    mode="slide",
    stride=(640, 640),
    protocol=Protocol("slide"),
    image_size="1920x1080",
    counts={"train": {"all": 1500}, "val": {"all": 250}, "test": {
        "all": 750, "weather=clear": 225, "weather=fog": 175, "weather=rain": 175,
        "weather=snow": 175, "time=day": 450, "time=night": 300,
    }},
    published=(
        *published_rows("test", ("lidar",), _COLUMNS, "T6", {
        "CMNeXt": (72.36, 75.42, 64.27, 72.81, 59.98, 72.48, 71.92),
        "GeminiFusion": (74.22, 75.90, 67.67, 74.79, 62.95, 73.30, 74.16),
        "RoadFormer+": (80.38, 82.56, 74.51, 79.39, 69.64, 80.69, 79.49),
        "MM SAM-adapter": (81.07, 83.34, 74.97, 80.82, 74.12, 80.00, 80.85),
    }),
        *published_rows("test", ("event",), _COLUMNS, "T6", {
        "CMNeXt": (70.49, 74.02, 60.72, 71.24, 60.91, 68.78, 70.54),
        "GeminiFusion": (68.62, 72.04, 58.19, 70.40, 60.53, 65.27, 68.87),
        "RoadFormer+": (77.70, 80.62, 69.02, 78.44, 69.29, 76.40, 77.70),
        "MM SAM-adapter": (79.92, 83.39, 72.38, 81.52, 68.97, 78.92, 78.72),
    }),
        *published_rows("test", (), _COLUMNS, "leaderboard, anonymous", {"GtA": (82.39,)}),
    ),
)  # fmt: skip
"""Table T6 of arXiv 2509.10408."""
