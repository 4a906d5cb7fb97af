# SPDX-License-Identifier: Apache-2.0
"""Your own data set: images/, a folder per auxiliary, labels/, meta.json and calib.json.

LiDAR is a raster in the camera's view, or points (.npy: x, y, z, intensity) that calib.json
projects. Thermal is in the camera's view, or calib.json registers it.
"""

from collections.abc import Sequence
from pathlib import Path

from mmsam_ros.data.benchmark import Benchmark, unused_images
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.folder_writer import Meta
from mmsam_ros.data.frames import FrameSet, Record
from mmsam_ros.data.read import Calibration

_SUFFIXES = {"images": (".png", ".jpg", ".jpeg"), "lidar": (".npz", ".npy", ".png"),
             "event": (".npz", ".png")}  # fmt: skip


def scan(root: Path, split: str, sensors: Sequence[str], lists: Path | None = None) -> FrameSet:
    """The frames of a split; their files are not opened yet. Test labels may all be absent."""
    meta = Meta.read(root)
    names = meta.splits.get(split, ())
    labels = {name: root / "labels" / f"{name}.png" for name in names}
    withheld = split == "test" and not any(path.is_file() for path in labels.values())
    records = tuple(
        Record(
            name,
            _find(root, "images", name),
            {sensor: _find(root, sensor, name) for sensor in sensors},
            None if withheld else labels[name],
            {key: words[name] for key, words in meta.subsets.items() if name in words},
        )
        for name in names
    )
    modalities = {sensor: meta.modality(sensor) for sensor in sensors}
    path = root / "calib.json"
    calibration = Calibration.read(path) if path.is_file() else None
    return FrameSet("folder", split, records, meta.classes, modalities, calibration=calibration)


def _find(root: Path, folder: str, name: str) -> Path:
    """The one file of this name; where there is none, the path that it would be expected at."""
    paths = [root / folder / f"{name}{suffix}" for suffix in _SUFFIXES.get(folder, (".png",))]
    found = [path for path in paths if path.is_file()]
    if len(found) > 1:
        raise DataError(f"{found[0]} and {found[1].name} are both there, expected one of them")
    return (found or paths)[0]


def _notes(root: Path, names: set[str]) -> list[str]:
    images = root / "images"
    files = (path.relative_to(images) for path in images.glob("**/*.*") if path.is_file())
    return unused_images({path.with_suffix("").as_posix() for path in files}, names)


BENCHMARK = Benchmark(
    "folder", scan, sensors=lambda root: tuple(Meta.read(root).encodings), notes=_notes
)
