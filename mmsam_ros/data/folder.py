# SPDX-License-Identifier: Apache-2.0
"""A data set of one's own: images/, a folder per auxiliary, labels/, meta.json and calib.json.

LiDAR is a raster in the camera's view, or points (.npy: x, y, z, intensity) that calib.json
projects. Thermal is in the camera's view, or calib.json registers it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util import Checked, MmsamError, check_word, from_mapping, ranged
from mmsam_ros.data import SPLITS
from mmsam_ros.data.benchmark import Benchmark, unused_images
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.folder_writer import FORMAT
from mmsam_ros.data.frames import FrameSet, Record
from mmsam_ros.data.read import Array, Reader, SensorData, id_table, read_array, read_sensor_image
from mmsam_ros.sensors import (
    AUXILIARY_SENSORS,
    ENCODINGS,
    CameraModel,
    ClassInfo,
    LidarPoints,
    Modality,
    Registration,
    SensorError,
    SensorImage,
    check_pixels,
    check_pose,
    plain_modality,
    topic_names,
)
from mmsam_ros.sensors.modalities import MAX_POINT_SIZE, check_limits

T = TypeVar("T")
Size = tuple[int, int]
_SUFFIXES = {"images": (".png", ".jpg", ".jpeg"), "lidar": (".npz", ".npy", ".png"),
             "event": (".npz", ".png")}  # fmt: skip


@dataclass(frozen=True)
class Meta(Checked):
    """meta.json.

    Attributes:
        format: of this file.
        classes: table of the training ids 0, 1, 2, …
        encodings: how the data of each sensor besides the camera is stored (`sensors.ENCODINGS`).
        splits: names of the frames of train, val and test.
        limits: counts of a 16-bit thermal image that map to 0 and 255, for `mono16`.
        subsets: what evaluation groups by: {"weather": {frame name: "fog"}}.
        point_size: side of the square that a projected LiDAR point covers, in pixels of the image.
    """

    error: ClassVar[type[MmsamError]] = DataError

    format: str
    classes: tuple[ClassInfo, ...]
    encodings: Mapping[str, str]
    splits: Mapping[str, tuple[str, ...]]
    limits: tuple[float, float] | None = None
    subsets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    point_size: int = ranged(2, 1, MAX_POINT_SIZE)

    def check(self) -> None:
        self.require(self.format == FORMAT, "format", repr(FORMAT))
        topic_names(self.classes)  # SensorError where two collide
        ids = [info.id for info in self.classes]
        if ids != list(range(len(ids))) or not ids:
            raise DataError(f"class ids are {ids}, expected 0, 1, 2, …")
        for sensor, encoding in self.encodings.items():
            check_word("encodings", sensor, AUXILIARY_SENSORS, DataError)
            check_word(f"encodings.{sensor}", encoding, ENCODINGS[sensor], DataError)
        check_limits("limits", self.encodings.get("thermal", ""), self.limits)
        split_of: dict[str, str] = {}
        for split, names in self.splits.items():
            check_word("splits", split, SPLITS, DataError)
            for name in names:
                if (other := split_of.setdefault(name, split)) != split or names.count(name) > 1:
                    raise DataError(f"{name!r} is in {other} and in {split}")
        for key, words in self.subsets.items():
            for name in words:
                check_word(f"subsets.{key}", name, split_of, DataError)

    @classmethod
    def read(cls, root: Path) -> Meta:
        """The file below `root`; DataError names what is wrong."""
        values = _json(path := root / "meta.json")
        if isinstance(values, dict):
            if "growth" in values:  # the name of the key in earlier files
                values["point_size"] = values.pop("growth")
            if isinstance(classes := values.get("classes"), list):
                values["classes"] = sorted(classes, key=_class_id)
        return _build(Meta, values, path)

    def modality(self, sensor: str) -> Modality:
        """How the network reads a sensor; points have their size in pixels of the image."""
        encoding = self.encodings[sensor]
        limits = self.limits if encoding == "mono16" else None
        return plain_modality(encoding, limits, self.point_size)


@dataclass(frozen=True)
class _Camera:
    width: int
    height: int
    K: Any
    D: Any
    model: str

    def build(self) -> CameraModel:
        return CameraModel.from_info(
            width=self.width, height=self.height, k=self.K, d=self.D, distortion_model=self.model,
            r=np.eye(3), p=np.zeros(12), binning_x=1, binning_y=1, roi=(0, 0, 0, 0),
            rectified=False,
        )  # fmt: skip


@dataclass(frozen=True)
class _Lidar:
    T_camera_lidar: Any


@dataclass(frozen=True)
class _Thermal(Checked):
    """Either the homography, or all the others."""

    error: ClassVar[type[MmsamError]] = DataError

    homography: Any = None
    width: int | None = None
    height: int | None = None
    K: Any = None
    R_camera_thermal: Any = None

    def check(self) -> None:
        found = [f.name for f in fields(self) if getattr(self, f.name) is not None]
        if found not in (["homography"], ["width", "height", "K", "R_camera_thermal"]):
            raise DataError(
                f"thermal: found {', '.join(found) or 'nothing'}, expected homography, or width, "
                "height, K and R_camera_thermal"
            )

    @property
    def size(self) -> Size | None:
        """(height, width) that the registration holds for; None: any."""
        if self.homography is not None:
            return None
        check_pixels("thermal.width", self.width)
        check_pixels("thermal.height", self.height)
        return (int(self.height or 0), int(self.width or 0))


@dataclass(frozen=True)
class _Calib:
    """calib.json as it is written."""

    camera: _Camera
    lidar: _Lidar | None = None
    thermal: _Thermal | None = None


@dataclass(frozen=True, eq=False)
class Calibration:
    """The camera, and how LiDAR and thermal lie to it (None: not needed).

    thermal_size: (height, width) that the registration holds for, None for any.
    """

    camera: CameraModel
    T_camera_lidar: NDArray[np.float64] | None = None
    registration: Registration | None = None
    thermal_size: Size | None = None

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """A calib.json; DataError names what is wrong."""
        calib = _build(_Calib, _json(path), path)
        lidar, thermal = calib.lidar, calib.thermal
        registration = None
        try:
            if thermal is not None and thermal.homography is not None:
                registration = Registration.from_homography(thermal.homography)
            elif thermal is not None:
                registration = Registration.from_rotation(
                    calib.camera.K, thermal.R_camera_thermal, thermal.K
                )
            pose = check_pose("lidar.T_camera_lidar", lidar.T_camera_lidar) if lidar else None
            size = thermal.size if thermal else None
            return cls(calib.camera.build(), pose, registration, size)
        except (MmsamError, TypeError, ValueError) as error:
            raise DataError(f"{path}: {error}") from error


@dataclass(frozen=True)
class FolderReader(Reader):
    """Points and thermal images as the sensors gave them, with the folder's calibration."""

    calibration: Calibration | None = None

    @property
    def camera(self) -> CameraModel | None:
        return self.calibration.camera if self.calibration else None

    def sensor(self, sensor: str, record: Record) -> SensorData:
        path, encoding = record.sensors[sensor], self.modalities[sensor].encoding
        return read_sensor(sensor, path, encoding, self.calibration)


def read_sensor(
    sensor: str, path: Path, encoding: str, calibration: Calibration | None
) -> SensorData:
    """What a sensor measured, with its place in the camera's view.

    Args:
        sensor: name.
        path: points (N, 4 or more) as .npy; else an image, or a raster as .npz or .npy.
        encoding: of an image or raster.
        calibration: needed for points; registers thermal images where it has them.

    Raises:
        DataError: the file is broken, or does not fit the calibration.
    """
    try:
        if path.suffix == ".npy" and (points := read_array(path)).ndim == 2:
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
    except SensorError as error:
        raise DataError(f"{path}: {error}") from error


def _points(points: Array, calibration: Calibration | None) -> LidarPoints:
    if calibration is None or calibration.T_camera_lidar is None:
        raise SensorError("points need lidar.T_camera_lidar in calib.json")
    if points.shape[1] < 4 or points.dtype.kind not in "fiu":
        found = f"points are {points.dtype} {points.shape}"
        raise SensorError(f"{found}, expected numbers (N, 4) or more columns")
    points = points.astype(np.float32, copy=False)
    return LidarPoints(points[:, :3], points[:, 3], calibration.T_camera_lidar)


def scan(root: Path, split: str, sensors: Sequence[str], lists: Path | None = None) -> FrameSet:
    """The frames of a split; their files are not opened yet. Test labels may all be absent."""
    meta = Meta.read(root)
    for sensor in sensors:
        check_word(f"{root / 'meta.json'}: encodings", sensor, meta.encodings, DataError)
    names = meta.splits.get(split, ())
    labels = {name: root / "labels" / f"{name}.png" for name in names}
    withheld = split == "test" and not any(path.is_file() for path in labels.values())
    records = [
        Record(
            name,
            _find(root, "images", name),
            {sensor: _find(root, sensor, name) for sensor in sensors},
            None if withheld else labels[name],
            {key: words[name] for key, words in meta.subsets.items() if name in words},
        )
        for name in names
    ]
    modalities = {sensor: meta.modality(sensor) for sensor in sensors}
    path = root / "calib.json"
    calibration = Calibration.read(path) if path.is_file() else None
    reader = FolderReader(modalities, id_table(len(meta.classes)), calibration)
    point_image = None
    if calibration is not None and calibration.T_camera_lidar is not None:
        point_image = (calibration.camera.height, calibration.camera.width)
    return FrameSet("folder", split, tuple(records), meta.classes, modalities, reader, point_image)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error


def _class_id(row: Any) -> int:
    found = row.get("id") if isinstance(row, dict) else None
    return found if isinstance(found, int) else -1


def _build(cls: type[T], values: Any, path: Path) -> T:
    try:
        return from_mapping(cls, values, path.stem)
    except (MmsamError, TypeError) as error:
        raise DataError(f"{path}: {error}") from error


def _find(root: Path, folder: str, name: str) -> Path:
    """The one file of this name; where there is none, the path that it would be expected at."""
    paths = [root / folder / f"{name}{suffix}" for suffix in _SUFFIXES.get(folder, (".png",))]
    found = [path for path in paths if path.is_file()]
    if len(found) > 1:
        raise DataError(f"{found[0]} and {found[1].name} are both there, expected one of them")
    return (found or paths)[0]


def _notes(root: Path, names: set[str]) -> list[str]:
    return unused_images((root / "images").glob("**/*.*"), names, root / "images")


BENCHMARK = Benchmark(
    "folder", scan, sensors=lambda root: tuple(Meta.read(root).encodings), notes=_notes
)
