# SPDX-License-Identifier: Apache-2.0
"""A data set of one's own: images/, a folder per auxiliary, labels/, meta.json and calib.json.

LiDAR is a raster in the camera's view, or points (.npy: x, y, z, intensity) that calib.json
projects. Thermal is in the camera's view, or calib.json registers it; `frame_gain` is applied here,
to the whole frame, so that such an image has 0..255 already.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util import check_word
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import SPLITS, FrameSet, Measured, Record, Sample
from mmsam_ros.data.read import Planes, Reader, Size, id_table, read_array, read_raster
from mmsam_ros.data.words import check_keys
from mmsam_ros.sensors import (
    ENCODINGS,
    CameraModel,
    ClassInfo,
    LidarPoints,
    Registration,
    SensorError,
    SensorImage,
    check_pixels,
    check_pose,
    rasterise,
    register,
    scale_thermal,
    shows_nothing,
    topic_names,
)

FORMAT = "mmsam-folder/1"
MAX_GROWTH = 31  # pixels
SOURCES = tuple(source for source in ENCODINGS if source != "camera")
_SUFFIXES = {"images": (".png", ".jpg", ".jpeg"), "lidar": (".npz", ".npy", ".png"),
             "event": (".npz", ".png")}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Calibration:
    """calib.json: the camera, and how LiDAR and thermal lie to it (None: not needed).

    thermal_size: (height, width) that the registration holds for, None for any.
    """

    camera: CameraModel
    T_camera_lidar: NDArray[np.float64] | None = None
    registration: Registration | None = None
    thermal_size: Size | None = None


@dataclass(frozen=True)
class FolderReader(Reader):
    """Projects points and registers thermal images.

    Attributes:
        calibration: None where the folder has no calib.json.
        growth: side of the square that a projected point covers, in pixels.
    """

    calibration: Calibration | None = None
    growth: int = 2

    def source(self, source: str, record: Record, size: Size) -> Planes:
        path = record.sources[source]
        try:
            if path.suffix == ".npy":
                return self._points(path, size)
            planes = super().source(source, record, size)
            return self._thermal(path, planes, size) if source == "thermal" else planes
        except SensorError as error:
            raise DataError(f"{path}: {error}") from error

    def measure(self, record: Record) -> Sample:
        """Points and thermal images as the sensors gave them, for a record that could be read."""
        measured: dict[str, Measured] = {}
        if self.calibration is None:
            return Sample()
        for source, path in record.sources.items():
            if path.suffix == ".npy":
                measured[source] = self._cloud(path)
            elif source == "thermal" and self.calibration.registration is not None:
                planes = read_raster(path, self.encodings[source])
                counts = np.uint8 if self.encodings[source] == "mono8" else np.uint16
                image = planes[..., 0].astype(counts)
                measured[source] = SensorImage(image, self.calibration.registration)
        return Sample(measured=measured, camera=self.calibration.camera) if measured else Sample()

    def _cloud(self, path: Path) -> LidarPoints:
        if self.calibration is None or self.calibration.T_camera_lidar is None:
            raise DataError(f"{path}: points need lidar.T_camera_lidar in calib.json")
        points = read_array(path)
        if points.ndim != 2 or points.shape[1] < 4 or points.dtype.kind not in "fiu":
            found = f"are {points.dtype} {points.shape}"
            raise DataError(f"{path}: points {found}, expected numbers (N, 4) or more")
        points = points.astype(np.float32, copy=False)
        return LidarPoints(points[:, :3], points[:, 3], self.calibration.T_camera_lidar)

    def _points(self, path: Path, size: Size) -> Planes:
        cloud = self._cloud(path)
        camera, T = self._camera(path, size), cloud.T_camera_lidar
        return rasterise(cloud.xyz, cloud.intensity, camera, T, growth=self.growth)

    def _thermal(self, path: Path, planes: Planes, size: Size) -> Planes:
        if self.encodings["thermal"] == "frame_gain":
            planes = scale_thermal(planes[..., 0].astype(np.uint16), "frame_gain", None)[..., None]
        if self.calibration is None or self.calibration.registration is None:
            return planes
        expected = self.calibration.thermal_size
        if expected and planes.shape[:2] != expected:
            raise DataError(
                f"{path}: is {planes.shape[1]}x{planes.shape[0]}, but calib.json's thermal camera "
                f"is {expected[1]}x{expected[0]}"
            )
        self._camera(path, size)
        if shows_nothing(planes, self.calibration.registration):
            return np.zeros((*size, 1), np.float32)
        return register(planes, self.calibration.registration, size, size)[0]

    def _camera(self, path: Path, size: Size) -> CameraModel:
        assert self.calibration is not None
        camera = self.calibration.camera
        if (camera.height, camera.width) != size:
            raise DataError(
                f"{path}: its image is {size[1]}x{size[0]}, but calib.json's camera is "
                f"{camera.width}x{camera.height}"
            )
        return camera


def read_meta(root: Path) -> Mapping[str, Any]:
    """meta.json, with its keys and words checked; classes still are plain values."""
    path = root / "meta.json"
    meta = check_keys(
        str(path), _json(path), ("format", "classes", "encodings", "splits"),
        ("limits", "subsets", "growth"),
    )  # fmt: skip
    if meta["format"] != FORMAT:
        raise DataError(f"{path}: format is {meta['format']!r}, expected {FORMAT!r}")
    check_keys(f"{path}: encodings", meta["encodings"], (), SOURCES)
    for source, encoding in meta["encodings"].items():
        check_word(f"{path}: encodings.{source}", encoding, ENCODINGS[source], DataError)
    split_of: dict[str, str] = {}
    for split, names in check_keys(f"{path}: splits", meta["splits"], (), SPLITS).items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{path}: splits.{split} is {names!r}, expected a list of names")
        for name in names:
            if name in split_of:
                raise DataError(f"{path}: {name!r} is in {split_of[name]} and in {split}")
            split_of[name] = split
    subsets = meta.get("subsets", {})
    for key, words in check_keys(f"{path}: subsets", subsets, (), subsets).items():
        check_keys(f"{path}: subsets.{key}", words, (), split_of)
    thermal, limits = meta["encodings"].get("thermal", "mono8"), meta.get("limits")
    try:
        pixel = np.ones((1, 1), np.uint8 if thermal == "mono8" else np.uint16)
        scale_thermal(pixel, thermal, limits)
    except (SensorError, TypeError, ValueError) as error:
        raise DataError(f"{path}: limits is {limits!r}: {error}") from error
    growth = meta.get("growth", 1)
    if type(growth) is not int or not 1 <= growth <= MAX_GROWTH:
        raise DataError(
            f"{path}: growth is {growth!r}, expected a whole number of 1 to {MAX_GROWTH}"
        )
    return meta


def scan(root: Path, split: str, sources: Sequence[str], lists: Path | None = None) -> FrameSet:
    """The frames of a split; their files are not opened yet. Test labels may all be absent."""
    meta = read_meta(root)
    for source in sources:
        check_word(f"{root / 'meta.json'}: encodings", source, meta["encodings"], DataError)
    classes = _classes(root / "meta.json", meta["classes"])
    subsets = meta.get("subsets", {})
    names = meta["splits"].get(split, ())
    labels = {name: root / "labels" / f"{name}.png" for name in names}
    withheld = split == "test" and not any(path.is_file() for path in labels.values())
    records = [
        Record(
            name,
            _find(root, "images", name),
            {source: _find(root, source, name) for source in sources},
            None if withheld else labels[name],
            {key: words[name] for key, words in subsets.items() if name in words},
        )
        for name in names
    ]
    encodings = {source: meta["encodings"][source] for source in sources}
    calibration, growth = read_calibration(root / "calib.json"), meta.get("growth", 2)
    reader = FolderReader(encodings, id_table(len(classes)), calibration, growth)
    side, size = 0, (0, 0)
    if calibration is not None and calibration.T_camera_lidar is not None:
        side, size = growth, (calibration.camera.height, calibration.camera.width)
    limits = None
    if "thermal" in sources and "limits" in meta:
        limits = (float(meta["limits"][0]), float(meta["limits"][1]))
    return FrameSet(
        "folder", split, tuple(records), classes, encodings, reader, limits,
        growth=side, camera_size=size, measure=reader.measure,
    )  # fmt: skip


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error


def _classes(path: Path, values: Sequence[Any]) -> tuple[ClassInfo, ...]:
    try:
        rows = [check_keys(f"{path}: classes", row, ("id", "name", "rgb")) for row in values]
        classes = [ClassInfo(row["id"], row["name"], tuple(row["rgb"])) for row in rows]
        topic_names(classes)
    except (SensorError, TypeError) as error:
        raise DataError(f"{path}: classes: {error}") from error
    classes.sort(key=lambda info: info.id)
    if [info.id for info in classes] != list(range(len(classes))) or not classes:
        raise DataError(f"{path}: class ids are {[c.id for c in classes]}, expected 0, 1, 2, …")
    return tuple(classes)


def read_calibration(path: Path) -> Calibration | None:
    """calib.json; None where there is none."""
    if not path.is_file():
        return None
    calib = check_keys(str(path), _json(path), ("camera",), ("lidar", "thermal"))
    check_keys(f"{path}: camera", calib["camera"], ("width", "height", "K", "D", "model"))
    if "lidar" in calib:
        check_keys(f"{path}: lidar", calib["lidar"], ("T_camera_lidar",))
    if "homography" in (thermal := calib.get("thermal", {})):
        check_keys(f"{path}: thermal", thermal, ("homography",))
    elif "thermal" in calib:
        check_keys(f"{path}: thermal", thermal, ("width", "height", "K", "R_camera_thermal"))
    try:
        return _build_calibration(calib["camera"], calib.get("lidar", {}), thermal)
    except (SensorError, TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error


def _build_calibration(
    camera: Mapping[str, Any], lidar: Mapping[str, Any], thermal: Mapping[str, Any]
) -> Calibration:
    model = CameraModel.from_info(
        width=camera["width"], height=camera["height"], k=camera["K"], d=camera["D"],
        distortion_model=camera["model"], r=np.eye(3), p=np.zeros(12), binning_x=1, binning_y=1,
        roi=(0, 0, 0, 0), rectified=False,
    )  # fmt: skip
    registration, thermal_size = None, None
    if "homography" in thermal:
        registration = Registration.from_homography(thermal["homography"])
    elif thermal:
        R = thermal["R_camera_thermal"]
        registration = Registration.from_rotation(camera["K"], R, thermal["K"])
        for side in ("width", "height"):
            check_pixels(f"thermal.{side}", thermal[side])
        thermal_size = (thermal["height"], thermal["width"])
    pose = check_pose("lidar.T_camera_lidar", lidar["T_camera_lidar"]) if lidar else None
    return Calibration(model, pose, registration, thermal_size)


def _find(root: Path, folder: str, name: str) -> Path:
    """The one file of this name; where there is none, the path that it would be expected at."""
    paths = [root / folder / f"{name}{suffix}" for suffix in _SUFFIXES.get(folder, (".png",))]
    found = [path for path in paths if path.is_file()]
    if len(found) > 1:
        raise DataError(f"{found[0]} and {found[1].name} are both there, expected one of them")
    return (found or paths)[0]
