# SPDX-License-Identifier: Apache-2.0
"""A data set of one's own: images/, a folder per auxiliary, labels/, meta.json and calib.json.

LiDAR is a raster in the camera's view, or points (.npy: x, y, z, intensity) that calib.json
projects. Thermal is in the camera's view, or calib.json registers it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmsam_ros._util import check_word
from mmsam_ros.data.benchmark import Benchmark, unused_images
from mmsam_ros.data.errors import DataError, naming
from mmsam_ros.data.folder_format import Calibration, Meta
from mmsam_ros.data.frames import FrameSet, Reader, Record, SensorData
from mmsam_ros.data.read import Array, id_table, read_array, read_sensor_image
from mmsam_ros.sensors import LidarPoints, SensorError, SensorImage

_SUFFIXES = {"images": (".png", ".jpg", ".jpeg"), "lidar": (".npz", ".npy", ".png"),
             "event": (".npz", ".png")}  # fmt: skip


def scan(root: Path, split: str, sensors: Sequence[str], lists: Path | None = None) -> FrameSet:
    """The frames of a split; their files are not opened yet. Test labels may all be absent."""
    meta = Meta.read(root)
    for sensor in sensors:
        check_word(f"{root / 'meta.json'}: encodings", sensor, meta.encodings, DataError)
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
    camera, point_image = None, None
    if calibration is not None:
        camera = calibration.camera
        if calibration.T_camera_lidar is not None:
            point_image = (camera.height, camera.width)
    reader = FolderReader(modalities, id_table(len(meta.classes)), camera, calibration)
    return FrameSet("folder", split, records, meta.classes, modalities, reader, point_image)


def _find(root: Path, folder: str, name: str) -> Path:
    """The one file of this name; where there is none, the path that it would be expected at."""
    paths = [root / folder / f"{name}{suffix}" for suffix in _SUFFIXES.get(folder, (".png",))]
    found = [path for path in paths if path.is_file()]
    if len(found) > 1:
        raise DataError(f"{found[0]} and {found[1].name} are both there, expected one of them")
    return (found or paths)[0]


@dataclass(frozen=True)
class FolderReader(Reader):
    """Points and thermal images as the sensors gave them, with the folder's calibration."""

    calibration: Calibration | None = None

    def sensor(self, sensor: str, path: Path) -> SensorData:
        return read_sensor(sensor, path, self.modalities[sensor].encoding, self.calibration)


def read_sensor(
    sensor: str, path: Path, encoding: str, calibration: Calibration | None
) -> SensorData:
    """What a sensor measured, with its place in the camera's view.

    Args:
        sensor: name.
        path: LiDAR points (N, 4 or more) as .npy; else an image, or a raster as .npz or .npy.
        encoding: of an image or raster.
        calibration: needed for points; registers thermal images where it has them.

    Raises:
        DataError: the file is broken, or does not fit the calibration.
    """
    with naming(path, SensorError):
        if sensor == "lidar" and path.suffix == ".npy" and (points := read_array(path)).ndim == 2:
            return _points(points, calibration)
        image = read_sensor_image(path, encoding)
        if sensor != "thermal" or calibration is None or calibration.registration is None:
            return image
        (height, width), expected = image.data.shape[:2], calibration.thermal_size
        if expected and (height, width) != expected:
            raise SensorError(
                f"is {width}x{height}, but the calibration's thermal camera is "
                f"{expected[1]}x{expected[0]}"
            )
        return SensorImage(image.data, calibration.registration)


def _points(points: Array, calibration: Calibration | None) -> LidarPoints:
    if calibration is None or calibration.T_camera_lidar is None:
        raise SensorError("points need lidar.T_camera_lidar in calib.json")
    if points.shape[1] < 4 or points.dtype.kind not in "fiu":
        found = f"points are {points.dtype} {points.shape}"
        raise SensorError(f"{found}, expected numbers (N, 4) or more columns")
    points = points.astype(np.float32, copy=False)
    return LidarPoints(points[:, :3], points[:, 3], calibration.T_camera_lidar)


def _notes(root: Path, names: set[str]) -> list[str]:
    images = root / "images"
    files = (path.relative_to(images) for path in images.glob("**/*.*") if path.is_file())
    return unused_images({path.with_suffix("").as_posix() for path in files}, names)


BENCHMARK = Benchmark(
    "folder", scan, sensors=lambda root: tuple(Meta.read(root).encodings), notes=_notes
)
