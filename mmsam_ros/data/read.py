# SPDX-License-Identifier: Apache-2.0
"""What sensors measured, as it is stored: images, rasters and points; and calib.json of a folder.

docs/own_data.md describes calib.json. Every DataError names its file.
"""

import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util import from_mapping
from mmsam_ros.data.errors import DataError, DataWarning, naming
from mmsam_ros.data.files import ARRAYS, read_json
from mmsam_ros.data.images import Turns, read_image, three_channels
from mmsam_ros.sensors import (
    FIELDS,
    CameraModel,
    LidarPoints,
    Registration,
    SensorError,
    SensorImage,
    check_pose,
    check_size,
    check_view,
    decode_raster,
    made_of_points,
    stored_alike,
)
from mmsam_ros.sensors.pixels import channel_spread, to_single

Array = NDArray[Any]
SensorData = LidarPoints | SensorImage
_ROUNDING = 0.02  # metres; steps of 16-bit PNG are 1/150


def read_array(path: Path) -> Array:
    """The array `arr_0` of an .npz file, or the one of an .npy file."""
    with naming(path), path.open("rb") as file:
        try:
            loaded = np.load(file)
            return loaded if isinstance(loaded, np.ndarray) else np.asarray(loaded["arr_0"])
        except Exception as error:  # a dozen types, of numpy, zipfile, zlib and tokenize
            raise DataError(f"{path}: is broken, expected an array ({error})") from error


@dataclass(frozen=True)
class _Camera:
    """Width and height alone will do where nothing but thermal images by homography need it."""

    width: int
    height: int
    K: Any = None
    D: Any = None
    model: Any = None

    def build(self, whole: bool) -> CameraModel | None:
        """The camera's model; None where only a size is given, and no `whole` model needed."""
        missing = [key for key in ("K", "D", "model") if getattr(self, key) is None]
        if len(missing) == 3 and not whole:
            check_size("camera", self.width, self.height)
            return None
        if missing:
            raise DataError(f"camera: key {missing[0]!r} is missing")
        return CameraModel.from_info(
            width=self.width, height=self.height, k=self.K, d=self.D, distortion_model=self.model
        )


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
        check_view("thermal.K", self.K, (self.width, self.height))
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
    size: tuple[int, int]  # (height, width) of the camera image
    camera: CameraModel | None  # None where only the size is given, as a homography needs no more
    T_camera_lidar: NDArray[np.float64] | None = None
    registration: Registration | None = None
    thermal_size: tuple[int, int] | None = None  # (height, width) of the registration; None: any
    thermal_file: Path | None = None  # whose size that is, where calib.json has none

    def for_size_of(self, thermal: Path) -> Self:
        """For thermal images of one size, that of a file where calib.json has none: a homography
        is for one.
        """
        if self.registration is None or self.thermal_size:
            return self
        with suppress(DataError):  # who reads the file is told
            form = thermal.suffix.lower()
            image = read_array(thermal) if form in ARRAYS else read_image(thermal)
            if image.ndim >= 2:
                size = image.shape[0], image.shape[1]
                return replace(self, thermal_size=size, thermal_file=thermal)
        return self

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
            by_rotation = thermal is not None and thermal.homography is None
            camera = given.build(whole=lidar is not None or by_rotation)
            pose = check_pose("lidar.T_camera_lidar", lidar.T_camera_lidar) if lidar else None
            registration, size = thermal.build(given.K) if thermal else (None, None)
            return cls(path, (given.height, given.width), camera, pose, registration, size)


def read_sensor(
    sensor: str, path: Path, encoding: str, calibration: Calibration | None, uneven: bool = False,
    turns: Turns | None = None,
) -> SensorData:  # fmt: skip
    """What a sensor measured, with its place in the camera's view; DataError where it does not fit.

    `path` holds LiDAR points (N, 4 or more) as .npy, an image, or a raster as .npz or .npy. Points
    need the calibration; thermal images are registered where it says how.

    An 8-bit colour raster may have a single channel, a grey image three, and a `muses_raw` raster
    may be the 16-bit PNG that the official tool writes on request. Where a grey image's channels
    differ by as little as JPEG makes of them, or `uneven` allows more, their mean is read, and a
    DataWarning says so.
    """
    form = path.suffix.lower()
    stored = read_array(path) if form in ARRAYS else read_image(path, turns)
    with naming(path, SensorError, IndexError):  # an array without axes or channels
        if sensor == "lidar" and form == ".npy" and stored.ndim == 2:
            return _points(stored, calibration)
        if stored_alike(encoding, "muses_raw") and form not in ARRAYS:
            stored = decode_raster(stored, "muses_png16")
        elif encoding == "png8":
            stored = three_channels(stored)
        elif len(FIELDS[encoding]) == 1 and stored.ndim == 3:
            single = to_single(stored, encoding, uneven)
            if channel_spread(stored):
                # the text is the same for every file, so that Python shows it once
                warnings.warn(
                    f"{sensor} images have channels that differ: their mean is read (mmsam data "
                    "check says of which files)",
                    DataWarning,
                    stacklevel=2,
                )
            stored = single
        _check_channels(stored, encoding)
        image = SensorImage(stored.astype(np.float32) if stored.dtype == np.float64 else stored)
        if sensor != "thermal" or calibration is None or calibration.registration is None:
            return image
        (height, width), expected = image.data.shape[:2], calibration.thermal_size
        if expected and (height, width) != expected:
            of_file = f", as {calibration.thermal_file} is" if calibration.thermal_file else ""
            raise SensorError(
                f"is {width}x{height}, but the calibration's thermal camera is "
                f"{expected[1]}x{expected[0]}{of_file}"
            )
        return SensorImage(image.data, calibration.registration)


def _check_channels(raster: Array, encoding: str) -> None:
    """SensorError where a raster's channels cannot be what their names say: of LiDAR no height is
    more than the range, and the third channel of event counts is 0.
    """
    if raster.ndim != 3 or raster.shape[2] != 3 or raster.dtype.kind not in "fu":
        return  # who decodes it says so
    if encoding == "muses_png16" and raster.dtype == np.uint16:
        raster = decode_raster(raster, encoding)
    found, first, third = "", raster[..., 0], raster[..., 2]
    if made_of_points(encoding):
        wrong = np.count_nonzero(first < np.abs(third) - _ROUNDING)
        if wrong and 2 * wrong > np.count_nonzero(raster.any(axis=2)):
            found = f"{wrong} pixels have a height beyond their range"
    elif encoding == "event_counts" and third.any():
        found = f"the third channel has values to {third.max()}, not 0"
    if found:
        raise SensorError(
            f"{encoding} image: {found}, expected the channels {', '.join(FIELDS[encoding])}; look "
            "at their order (OpenCV writes and reads images as BGR)"
        )


def _points(points: Array, calibration: Calibration | None) -> LidarPoints:
    if calibration is None or calibration.T_camera_lidar is None:
        raise SensorError("points need lidar.T_camera_lidar in calib.json")
    if points.shape[1] < 4 or points.dtype.kind not in "fiu":
        found = f"points are {points.dtype} {points.shape}"
        raise SensorError(f"{found}, expected numbers (N, 4) or more columns")
    points = points.astype(np.float32, copy=False)
    return LidarPoints(points[:, :3], points[:, 3], calibration.T_camera_lidar)
