# SPDX-License-Identifier: Apache-2.0
"""Files as they are stored: images, rasters, points, labels and JSON, and calib.json of a folder.

docs/own_data.md describes calib.json. Every DataError names its file.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util import from_mapping
from mmsam_ros.data.errors import DataError, naming
from mmsam_ros.sensors import (
    FIELDS,
    NO_LABEL,
    CameraModel,
    LidarPoints,
    Registration,
    SensorError,
    SensorImage,
    check_pose,
    check_principal_point,
    check_size,
    decode_image,
    decode_raster,
    to_8_bits,
)

Array = NDArray[Any]
SensorData = LidarPoints | SensorImage


def stems(folder: Path, pattern: str, ending: str) -> set[str]:
    """Paths below a folder of the files that match `pattern` and `ending`, without the ending."""
    found = folder.glob(f"{pattern}{ending}")
    return {path.relative_to(folder).as_posix().removesuffix(ending) for path in found}


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    with naming(path, ValueError):
        values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise DataError(f"{path}: holds a {type(values).__name__}, expected a JSON object")
    return values


def read_image(path: Path) -> Array:
    """A PNG or JPEG as it is stored: (H, W) or (H, W, C) with RGB order, 8 or 16 bit."""
    with naming(path):
        content = path.read_bytes()
    try:
        image = decode_image(content, cv2.IMREAD_UNCHANGED)
    except SensorError as error:
        raise DataError(f"{path}: is broken, expected a whole PNG or JPEG image") from error
    if image.ndim == 3:
        order = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
        image = cv2.cvtColor(image, order)
    return image


def read_array(path: Path) -> Array:
    """The array `arr_0` of an .npz file, or the one of an .npy file."""
    with naming(path), path.open("rb") as file:
        try:
            loaded = np.load(file)
            return loaded if isinstance(loaded, np.ndarray) else np.asarray(loaded["arr_0"])
        except Exception as error:  # a dozen types, of numpy, zipfile, zlib and tokenize
            raise DataError(f"{path}: is broken, expected an array ({error})") from error


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An RGB image (H, W, 3) uint8; alpha is dropped, a single channel is replicated, 16 bits
    become 8.
    """
    with naming(path, SensorError):
        image = to_8_bits(_three_channels(read_image(path)))
    return np.ascontiguousarray(image)


def _three_channels(image: Array) -> Array:
    return np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image[..., :3]


def read_label(path: Path, classes: int, first: int = 0, red: bool = False) -> NDArray[np.uint8]:
    """Training ids (H, W) of a label image: values less `first`; 255 for no label.

    With `first` 1, a 0 is no label, too. `red`: of a colour image the red channel is read.
    DataError for values beyond the number of classes.
    """
    image = read_image(path)
    if red and image.ndim == 3:
        image = image[..., 0]
    if image.ndim != 2 or image.dtype != np.uint8:
        raise DataError(
            f"{path}: label is {image.dtype} {image.shape}, expected uint8 (H, W): ids, not colours"
        )
    unknown = (image >= classes + first) & (image != NO_LABEL)
    if unknown.any():
        values = ", ".join(map(str, np.unique(image[unknown])[:8]))
        expected = f"0..{classes + first - 1} and {NO_LABEL}"
        raise DataError(f"{path}: label values {values}, expected {expected}")
    return np.where(image == NO_LABEL, image, image - np.uint8(first))  # 0 - 1 is 255


@dataclass(frozen=True)
class _Camera:
    width: int
    height: int
    K: Any
    D: Any
    model: str


@dataclass(frozen=True)
class _Lidar:
    T_camera_lidar: Any


@dataclass(frozen=True)
class _Thermal:
    """Either the homography, or all the others."""

    homography: Any = None
    width: Any = None
    height: Any = None
    K: Any = None
    R_camera_thermal: Any = None

    def build(self, K_camera: Any) -> tuple[Registration, tuple[int, int] | None]:
        found = [name for name, value in vars(self).items() if value is not None]
        if found == ["homography"]:
            return Registration.from_homography(self.homography), None
        if found != ["width", "height", "K", "R_camera_thermal"]:
            raise DataError(
                f"thermal: found {', '.join(found) or 'nothing'}, expected homography, or width, "
                "height, K and R_camera_thermal"
            )
        check_size("thermal", self.width, self.height)
        registration = Registration.from_rotation(K_camera, self.R_camera_thermal, self.K)
        check_principal_point("thermal.K", self.K, (self.width, self.height))
        return registration, (self.height, self.width)


@dataclass(frozen=True)
class _Calib:
    """calib.json as it is written."""

    camera: _Camera
    lidar: _Lidar | None = None
    thermal: _Thermal | None = None


@dataclass(frozen=True, eq=False)
class Calibration:
    """calib.json: the camera, and where LiDAR and thermal are relative to it (None: not needed)."""

    path: Path
    camera: CameraModel
    T_camera_lidar: NDArray[np.float64] | None = None
    registration: Registration | None = None
    thermal_size: tuple[int, int] | None = None  # (height, width) of the registration; None: any

    @classmethod
    def read(cls, path: Path) -> Self:
        """A calib.json; DataError names what is wrong."""
        return cls.from_values(read_json(path), path)

    @classmethod
    def from_values(cls, values: Any, path: Path) -> Self:
        """What the file at `path` holds, numbers in lists or arrays; DataError as `read`."""
        with naming(path, TypeError, ValueError, OverflowError):
            calib = from_mapping(_Calib, values, path.stem)
            given, lidar, thermal = calib.camera, calib.lidar, calib.thermal
            camera = CameraModel.from_info(
                width=given.width, height=given.height, k=given.K, d=given.D,
                distortion_model=given.model,
            )  # fmt: skip
            pose = check_pose("lidar.T_camera_lidar", lidar.T_camera_lidar) if lidar else None
            registration, size = thermal.build(given.K) if thermal else (None, None)
            return cls(path, camera, pose, registration, size)


def read_sensor(
    sensor: str, path: Path, encoding: str, calibration: Calibration | None
) -> SensorData:
    """What a sensor measured, with its place in the camera's view; DataError where it does not fit.

    `path` holds LiDAR points (N, 4 or more) as .npy, an image, or a raster as .npz or .npy. Points
    need the calibration; thermal images are registered where it says how.

    An 8-bit colour raster may have an alpha or a single channel, a grey image three equal ones, and
    a `muses_raw` raster may be the 16-bit PNG that the official tool writes on request.
    """
    stored = read_array(path) if path.suffix in (".npz", ".npy") else read_image(path)
    with naming(path, SensorError, IndexError):  # an array without axes or channels
        if sensor == "lidar" and path.suffix == ".npy" and stored.ndim == 2:
            return _points(stored, calibration)
        if encoding == "muses_raw" and path.suffix == ".png":
            stored = decode_raster(stored, "muses_png16")
        elif encoding == "png8":
            stored = _three_channels(stored)
        elif len(FIELDS[encoding]) == 1 and stored.ndim == 3:
            if (stored[..., :3] != stored[..., :1]).any():
                raise SensorError(f"{encoding} image has colours, expected a grey one")
            stored = stored[..., 0]
        image = SensorImage(stored.astype(np.float32) if stored.dtype == np.float64 else stored)
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
