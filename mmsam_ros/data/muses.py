# SPDX-License-Identifier: Apache-2.0
"""MUSES (arXiv 2401.12761) with `projected_to_rgb/`, which `mmsam muses-project` makes.

frame_camera/<split>/<weather>/<time>/REC####_frame_######_frame_camera.png
projected_to_rgb/{lidar,event_camera}/…/REC####_frame_######_{lidar,event_camera}.npz
gt_semantic/…/REC####_frame_######_gt_labelTrainIds.png
"""

import re
from collections.abc import Sequence
from pathlib import Path

from mmsam_ros._util import check_word
from mmsam_ros.data.benchmark import Benchmark, Protocol, published_table
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.files import IMAGES, stems
from mmsam_ros.data.frames import FrameSet, Record
from mmsam_ros.data.muses_projection import PUBLISHED, describe_projection
from mmsam_ros.sensors import Modality, class_table

WEATHERS = ("clear", "fog", "rain", "snow")
TIMES = ("day", "night")
_FOLDERS = {"lidar": "lidar", "event": "event_camera"}
_PLACE, _CAMERA = "*/*/*", "_frame_camera"  # <weather>/<time>/<name>, and how images end


def scan(root: Path, split: str, sensors: Sequence[str], lists: Path | None = None) -> FrameSet:
    """The frames of a split; their files are not opened yet. Test labels may be withheld.

    A frame that any of the folders holds is one of the split's: where its image is missing, reading
    it says so.
    """
    cameras, truth = root / "frame_camera" / split, root / "gt_semantic" / split
    labels, images = stems(truth, _PLACE, "_gt_labelTrainIds"), stems(cameras, _PLACE, _CAMERA)
    projected: dict[str, dict[str, Path]] = {}  # by sensor; npz goes before png
    for sensor in sensors:
        folder = root / "projected_to_rgb" / _FOLDERS[sensor]
        if not folder.is_dir():
            raise DataError(f"{folder}: is missing; `mmsam muses-project` makes it")
        other, array = (
            stems(folder / split, _PLACE, f"_{folder.name}", suffixes)
            for suffixes in (IMAGES, [".npz"])
        )
        projected[sensor] = other | array
    records = []
    for place in set().union(labels, images, *projected.values()):
        weather, time, name = place.split("/")
        image = images.get(place, cameras / f"{place}{_CAMERA}.png")
        if not re.fullmatch(r"REC\d{4}_frame_\d{6}", name):
            raise DataError(f"{image}: name is {name!r}, expected REC####_frame_######")
        check_word(f"{image}: weather", weather, WEATHERS, DataError)
        check_word(f"{image}: time", time, TIMES, DataError)
        files = {}
        for sensor in sensors:
            top = _FOLDERS[sensor]
            missing = root / "projected_to_rgb" / top / split / f"{place}_{top}.npz"
            files[sensor] = projected[sensor].get(place, missing)
        withheld = split == "test" and not labels
        label = labels.get(place, truth / f"{place}_gt_labelTrainIds.png")
        subsets = {"weather": weather, "time": time}
        records.append(Record(name, image, files, None if withheld else label, subsets))
    modalities = {sensor: _MODALITIES[sensor] for sensor in sensors}
    rasters = describe_projection(root / "projected_to_rgb") if sensors else ""
    return FrameSet("muses", split, tuple(records), CLASSES, modalities, rasters=rasters)


def _notes(root: Path, _: set[str]) -> list[str]:
    folder = root / "projected_to_rgb"
    return [describe_projection(folder)] if folder.is_dir() else []


CLASSES = class_table(  # those of Cityscapes
    ("road", 128, 64, 128), ("sidewalk", 244, 35, 232), ("building", 70, 70, 70),
    ("wall", 102, 102, 156), ("fence", 190, 153, 153), ("pole", 153, 153, 153),
    ("traffic light", 250, 170, 30), ("traffic sign", 220, 220, 0), ("vegetation", 107, 142, 35),
    ("terrain", 152, 251, 152), ("sky", 70, 130, 180), ("person", 220, 20, 60),
    ("rider", 255, 0, 0), ("car", 0, 0, 142), ("truck", 0, 0, 70), ("bus", 0, 60, 100),
    ("train", 0, 80, 100), ("motorcycle", 0, 0, 230), ("bicycle", 119, 11, 32),
)  # fmt: skip
_MODALITIES = {
    "lidar": Modality(
        ("range", "intensity", "height"), "muses_raw", mean=(1.4628459, 1.8271197, 0.07808967),
        std=(7.55678107, 9.85001751, 0.67012253), point_size=2,
    ),
    "event": Modality(
        ("positive", "negative", "zero"), "event_counts", mean=(0.08768561, 0.08779435, 0.0),
        std=(0.4479273728, 0.4006636355, 1.0), point_size=2,
    ),
}  # fmt: skip
_COLUMNS = ("all", *(f"time={time}" for time in TIMES), *(f"weather={word}" for word in WEATHERS))

BENCHMARK = Benchmark(
    "muses",
    scan,
    CLASSES,
    modalities=_MODALITIES,
    image_size="1920x1080",
    mode="slide",
    stride=(640, 640),
    protocol=Protocol("slide"),
    pooled_frames=2,
    rasters=PUBLISHED.describe(),
    counts={"train": {"all": 1500}, "val": {"all": 250}, "test": {
        "all": 750, "weather=clear": 225, "weather=fog": 175, "weather=rain": 175,
        "weather=snow": 175, "time=day": 450, "time=night": 300,
    }},
    published=(
        *published_table("T6", "test", _COLUMNS, {
            ("lidar",): {
                "CMNeXt": (72.36, 75.42, 64.27, 72.81, 59.98, 72.48, 71.92),
                "GeminiFusion": (74.22, 75.90, 67.67, 74.79, 62.95, 73.30, 74.16),
                "RoadFormer+": (80.38, 82.56, 74.51, 79.39, 69.64, 80.69, 79.49),
                "MM SAM-adapter": (81.07, 83.34, 74.97, 80.82, 74.12, 80.00, 80.85),
            },
            ("event",): {
                "CMNeXt": (70.49, 74.02, 60.72, 71.24, 60.91, 68.78, 70.54),
                "GeminiFusion": (68.62, 72.04, 58.19, 70.40, 60.53, 65.27, 68.87),
                "RoadFormer+": (77.70, 80.62, 69.02, 78.44, 69.29, 76.40, 77.70),
                "MM SAM-adapter": (79.92, 83.39, 72.38, 81.52, 68.97, 78.92, 78.72),
            },
        }),
        *published_table("leaderboard, anonymous", "test", _COLUMNS, {(): {"GtA": (82.39,)}}),
    ),
    notes=_notes,
)  # fmt: skip
"""Table T6 of arXiv 2509.10408."""
