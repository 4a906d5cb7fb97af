# SPDX-License-Identifier: Apache-2.0
"""Files of one frame as they are stored: images, rasters, points and labels."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import LabelledFrame, Record
from mmsam_ros.sensors import (
    FIELDS,
    NO_LABEL,
    CameraModel,
    Frame,
    LidarPoints,
    Modality,
    SensorError,
    SensorImage,
    decode_image,
    decode_raster,
)

Array = NDArray[Any]
SensorData = LidarPoints | SensorImage


@dataclass(frozen=True)
class Reader:
    """Reads a record; the data sets override what differs.

    Attributes:
        modalities: of the sensors besides the camera.
        ids: training id of each stored label value (256), -1 where a value has none.
    """

    modalities: Mapping[str, Modality]
    ids: NDArray[np.int16]

    def __call__(self, record: Record) -> LabelledFrame:
        """The frame; DataError names a file that is missing, broken or does not fit."""
        rgb = read_rgb(record.image)
        sensors: dict[str, SensorData] = {}
        for sensor, path in record.sensors.items():
            sensors[sensor] = data = self.sensor(sensor, record)
            if isinstance(data, SensorImage) and data.registration.homography is None:
                self.check_size(sensor, path, data.data, record, rgb)
        label = None if record.label is None else self.label(record.label)
        if record.label is not None and label is not None:
            _same_size(record.label, label, record, rgb)
        try:
            frame = Frame(rgb, sensors, self.camera if _needs_camera(sensors) else None)
        except SensorError as error:
            raise DataError(f"{record.image}: {error}") from error
        return LabelledFrame(record, frame, label)

    @property
    def camera(self) -> CameraModel | None:
        """The camera's model, where the data set has one."""
        return None

    def sensor(self, sensor: str, record: Record) -> SensorData:
        """What a sensor measured, as its file holds it."""
        return read_sensor_image(record.sensors[sensor], self.modalities[sensor].encoding)

    def check_size(self, sensor: str, path: Path, image: Array, record: Record, rgb: Array) -> None:
        """DataError unless an image in the camera's view has the camera image's size."""
        _same_size(path, image, record, rgb)

    def label(self, path: Path) -> NDArray[np.uint8]:
        """Training ids (H, W), 255 where there is none."""
        return decode_label(path, read_image(path), self.ids)


def _needs_camera(sensors: Mapping[str, SensorData]) -> bool:
    return any(
        isinstance(data, LidarPoints) or data.registration.homography is not None
        for data in sensors.values()
    )


def id_table(count: int, offset: int = 0) -> NDArray[np.int16]:
    """Training id of each stored value: value - offset for `count` classes; 255 is no label, and
    with an offset 0 as well; -1 for values that mean nothing.
    """
    table = np.full(256, -1, np.int16)
    table[offset : offset + count] = np.arange(count)
    table[[NO_LABEL, *range(offset)]] = NO_LABEL
    return table


def read_image(path: Path) -> Array:
    """A PNG or JPEG as it is stored: (H, W) or (H, W, C) with RGB order, 8 or 16 bit."""
    try:
        image = decode_image(_bytes(path), cv2.IMREAD_UNCHANGED)
    except SensorError as error:
        raise DataError(f"{path}: is broken, expected a whole PNG or JPEG image") from error
    if image.ndim == 3:
        order = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
        image = cv2.cvtColor(image, order)
    return image


def read_array(path: Path) -> Array:
    """The array `arr_0` of an .npz file, or the one of an .npy file."""
    try:
        loaded = np.load(path)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return np.asarray(loaded["arr_0"])
    except FileNotFoundError as error:
        raise DataError(f"{path}: is missing") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: is broken, expected an array ({error})") from error


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An RGB image (H, W, 3); alpha is dropped, a single channel is replicated."""
    image = _three_channels(read_image(path))
    if image.dtype != np.uint8:
        raise DataError(f"{path}: RGB image is {image.dtype}, expected uint8")
    return np.ascontiguousarray(image)


def read_sensor_image(path: Path, encoding: str) -> SensorImage:
    """A stored image or raster, with the dtype and shape of its encoding.

    An 8-bit colour raster may have an alpha or a single channel, a grey image three equal ones, and
    a `muses_raw` raster may be the 16-bit PNG that the official tool writes on request.
    """
    image = read_array(path) if path.suffix in (".npz", ".npy") else read_image(path)
    try:
        if encoding == "muses_raw" and path.suffix == ".png":
            image = decode_raster(image, "muses_png16")
        elif encoding == "png8":
            image = _three_channels(image)
        elif len(FIELDS[encoding]) == 1 and image.ndim == 3:
            if (image[..., :3] != image[..., :1]).any():
                raise DataError(f"{path}: {encoding} image has colours, expected a grey one")
            image = image[..., 0]
        return SensorImage(image)
    except SensorError as error:
        raise DataError(f"{path}: {error}") from error


def decode_label(path: Path, image: Array, ids: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Stored values (H, W) uint8 to training ids; DataError for values that `ids` does not know."""
    if image.ndim != 2 or image.dtype != np.uint8:
        raise DataError(
            f"{path}: label is {image.dtype} {image.shape}, expected uint8 (H, W): ids, not colours"
        )
    label = ids[image]
    if (label < 0).any():
        unknown = ", ".join(map(str, np.unique(image[label < 0])[:8]))
        raise DataError(f"{path}: label values {unknown}, expected {_ranges(ids)}")
    return label.astype(np.uint8)


def missing_files(records: Iterable[Record]) -> list[Path]:
    """The records' files that are not there."""
    paths = (p for r in records for p in (r.image, *r.sensors.values(), r.label))
    return [path for path in paths if path is not None and not path.is_file()]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: is missing") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _three_channels(image: Array) -> Array:
    return np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image[..., :3]


def _same_size(path: Path, array: Array, record: Record, rgb: Array) -> None:
    if array.shape[:2] != rgb.shape[:2]:
        (h, w), (height, width) = array.shape[:2], rgb.shape[:2]
        raise DataError(f"{path}: is {w}x{h}, but {record.image} is {width}x{height}")


def _ranges(ids: NDArray[np.int16]) -> str:
    known = np.flatnonzero(ids >= 0)
    return f"{known[0]}..{known[-2]} and {NO_LABEL}"
