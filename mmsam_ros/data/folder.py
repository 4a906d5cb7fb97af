# SPDX-License-Identifier: Apache-2.0
"""Your own data set: images/, a folder per auxiliary, labels/, meta.json and calib.json.

LiDAR is a raster in the camera's view, or points (.npy: x, y, z, intensity) that calib.json
projects. Thermal is in the camera's view, or calib.json registers it.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from mmsam_ros.data.benchmark import Benchmark, unused_images
from mmsam_ros.data.files import ARRAYS, IMAGES, Files, composed, walk
from mmsam_ros.data.folder_writer import Meta
from mmsam_ros.data.frames import FrameSet, Record
from mmsam_ros.data.read import Calibration

# the first one names a missing file
_SUFFIXES = {"lidar": (*ARRAYS, *IMAGES), "event": (*ARRAYS, *IMAGES),
             "thermal": (*IMAGES, *ARRAYS), "depth": (*IMAGES, *ARRAYS)}  # fmt: skip


def scan(root: Path, split: str, sensors: Sequence[str], lists: Path | None = None) -> FrameSet:
    """The frames of a split; their files are not opened yet. Test labels may all be absent."""
    meta = Meta.read(root)
    names = meta.splits.get(split, ())
    files = Files()

    def find(folder: str, name: str) -> Path:
        return files.find(root / folder / name, _SUFFIXES.get(folder, IMAGES))

    labels = {name: find("labels", name) for name in names}
    withheld = split == "test" and not any(path.is_file() for path in labels.values())
    records = tuple(
        Record(
            name,
            find("images", name),
            {sensor: find(sensor, name) for sensor in sensors},
            None if withheld else labels[name],
            {key: words[name] for key, words in meta.subsets.items() if name in words},
        )
        for name in names
    )
    modalities = {sensor: meta.modality(sensor) for sensor in sensors}
    path = root / "calib.json"
    calibration = Calibration.read(path) if os.path.lexists(path) else None
    if calibration is not None and "thermal" in sensors:
        every = (find("thermal", name) for some in meta.splits.values() for name in some)
        first = next(filter(Path.is_file, every), None)
        calibration = calibration.for_size_of(first) if first else calibration
    return FrameSet(
        "folder", split, records, meta.classes, modalities,
        calibration=calibration, any_of=meta.any_of or {},
    )  # fmt: skip


def _notes(root: Path, names: set[str]) -> list[str]:
    return unused_images(walk(root / "images"), set(map(composed, names)))


BENCHMARK = Benchmark(
    "folder", scan, sensors=lambda root: tuple(Meta.read(root).encodings), notes=_notes
)
