# SPDX-License-Identifier: Apache-2.0
"""meta.json and calib.json of the `folder` layout; docs/own_data.md describes them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util import Checked, MmsamError, check_word, from_mapping, ranged
from mmsam_ros.data import SPLITS
from mmsam_ros.data.errors import DataError, naming
from mmsam_ros.data.read import read_json
from mmsam_ros.sensors import (
    AUXILIARY_SENSORS,
    ENCODINGS,
    CameraModel,
    ClassInfo,
    Modality,
    Registration,
    check_pixels,
    check_pose,
    plain_modality,
    topic_names,
)
from mmsam_ros.sensors.modalities import MAX_POINT_SIZE, check_limits

T = TypeVar("T")
Size = tuple[int, int]
FORMAT = "mmsam-folder/1"


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
        ordered = tuple(sorted(self.classes, key=lambda info: info.id))
        ids = [info.id for info in ordered]
        if ids != list(range(len(ids))) or not ids:
            raise DataError(f"class ids are {ids}, expected 0, 1, 2, …")
        object.__setattr__(self, "classes", ordered)
        for sensor, encoding in self.encodings.items():
            check_word("encodings", sensor, AUXILIARY_SENSORS, DataError)
            check_word(f"encodings.{sensor}", encoding, ENCODINGS[sensor], DataError)
        check_limits("limits", self.encodings.get("thermal", ""), self.limits)
        split_of: dict[str, str] = {}
        for split, names in self.splits.items():
            check_word("splits", split, SPLITS, DataError)
            for name in names:
                if name in split_of:
                    raise DataError(f"{name!r} is in {split_of[name]} and in {split}")
                split_of[name] = split
        for key, words in self.subsets.items():
            for name in words:
                check_word(f"subsets.{key}", name, split_of, DataError)

    @classmethod
    def read(cls, root: Path) -> Self:
        """The file below `root`; DataError names what is wrong."""
        values = read_json(path := root / "meta.json")
        if "growth" in values:  # the key's name in earlier files
            values["point_size"] = values.pop("growth")
        return _build(cls, values, path)

    def modality(self, sensor: str) -> Modality:
        """How the network reads a sensor; points have their size in pixels of the image."""
        encoding = self.encodings[sensor]
        limits = self.limits if encoding == "mono16" else None
        return plain_modality(encoding, limits, self.point_size)

    def to_json(self) -> dict[str, Any]:
        """What the file holds."""
        return {key: value for key, value in asdict(self).items() if value is not None}


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

    def build(self, K_camera: Any) -> tuple[Registration, Size | None]:
        found = [name for name, value in vars(self).items() if value is not None]
        if found == ["homography"]:
            return Registration.from_homography(self.homography), None
        if found != ["width", "height", "K", "R_camera_thermal"]:
            raise DataError(
                f"thermal: found {', '.join(found) or 'nothing'}, expected homography, or width, "
                "height, K and R_camera_thermal"
            )
        check_pixels("thermal.width", self.width)
        check_pixels("thermal.height", self.height)
        registration = Registration.from_rotation(K_camera, self.R_camera_thermal, self.K)
        return registration, (self.height, self.width)


@dataclass(frozen=True)
class _Calib:
    """calib.json as it is written."""

    camera: _Camera
    lidar: _Lidar | None = None
    thermal: _Thermal | None = None


@dataclass(frozen=True, eq=False)
class Calibration:
    """calib.json: the camera, and how LiDAR and thermal lie to it (None: not needed).

    thermal_size: (height, width) that the registration holds for, None for any.
    """

    camera: CameraModel
    T_camera_lidar: NDArray[np.float64] | None = None
    registration: Registration | None = None
    thermal_size: Size | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """A calib.json; DataError names what is wrong."""
        return cls.from_values(read_json(path), path)

    @classmethod
    def from_values(cls, values: Any, path: Path) -> Self:
        """What the file at `path` holds, numbers in lists or arrays; DataError as `read`."""
        calib = _build(_Calib, values, path)
        given, lidar, thermal = calib.camera, calib.lidar, calib.thermal
        with naming(path, TypeError, ValueError):
            camera = CameraModel.from_info(
                width=given.width, height=given.height, k=given.K, d=given.D,
                distortion_model=given.model, r=np.eye(3), p=np.zeros(12), binning_x=1,
                binning_y=1, roi=(0, 0, 0, 0), rectified=False,
            )  # fmt: skip
            pose = check_pose("lidar.T_camera_lidar", lidar.T_camera_lidar) if lidar else None
            registration, size = thermal.build(given.K) if thermal else (None, None)
            return cls(camera, pose, registration, size)


def _build(cls: type[T], values: Any, path: Path) -> T:
    with naming(path, TypeError, ValueError):
        return from_mapping(cls, values, path.stem)
