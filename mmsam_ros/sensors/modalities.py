# SPDX-License-Identifier: Apache-2.0
"""Modalities: what the network reads of one sensor."""

import math
from dataclasses import dataclass
from typing import ClassVar

from mmsam_ros._util import Checked, MmsamError, ranged
from mmsam_ros.sensors.encodings import ENCODINGS, FIELDS, Limits, check_limits
from mmsam_ros.sensors.errors import SensorError

Triple = tuple[float, float, float]
CAMERA, RGB = "camera", "rgb"
AUXILIARY_SENSORS = tuple(sensor for sensor in ENCODINGS if sensor != CAMERA)
MAX_POINT_SIZE = 31  # pixels


@dataclass(frozen=True)
class Modality(Checked):
    """How the three channels of a modality are computed: (plane * scale - mean) / std.

    An auxiliary has the name of its sensor; the camera's is `rgb`.

    Attributes:
        fields: of the encoding, one per channel; thermal has its only one three times.
        encoding: of the sensor's data, see `ENCODINGS`.
        scale: factor on the plane's value, per channel.
        mean, std: of the scaled value, per channel.
        point_size: side of the square that a projected LiDAR point covers, in pixels of the planes.
        limits: counts of a 16-bit thermal image that map to 0 and 255; for `mono16` alone.
    """

    error: ClassVar[type[MmsamError]] = SensorError
    where: ClassVar[str] = "modality"

    fields: tuple[str, str, str]
    encoding: str
    scale: Triple = (1.0, 1.0, 1.0)
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = ranged((1.0, 1.0, 1.0), 1e-6)
    point_size: int = ranged(1, 1, MAX_POINT_SIZE)
    limits: Limits | None = None

    def check(self) -> None:
        self.require(self.encoding in FIELDS, "encoding", f"one of {', '.join(FIELDS)}")
        known = FIELDS[self.encoding]
        self.require(set(self.fields) <= set(known), "fields", f"some of {known}")
        for name in ("scale", "mean", "std"):
            self.require(all(map(math.isfinite, getattr(self, name))), name, "finite values")
        self.require(0 not in self.scale, "scale", "factors other than 0")
        check_limits(f"{self.where}.limits", self.encoding, self.limits)

    @property
    def channels(self) -> list[int]:
        """The plane of each channel, as the encoding numbers them."""
        return [FIELDS[self.encoding].index(field) for field in self.fields]

    @property
    def empty(self) -> Triple:
        """The normalised value of a plane without data (raw zero)."""
        a, b, c = ((0.0 - m) / s for m, s in zip(self.mean, self.std, strict=True))
        return (a, b, c)


# How far apart the values of a field lie; a plane without data stays 0.
_SPREAD = {"range": 20.0, "intensity": 50.0, "height": 1.0, "positive": 1.0, "negative": 1.0,
           "zero": 1.0}  # fmt: skip


def plain_modality(encoding: str, limits: Limits | None = None, point_size: int = 2) -> Modality:
    """The modality of a sensor without known statistics: three fields, or one repeated.

    `point_size` holds for encodings that are made of points.
    """
    first, second, third = (3 * FIELDS[encoding])[:3]
    std = (_SPREAD.get(first, 255.0), _SPREAD.get(second, 255.0), _SPREAD.get(third, 255.0))
    size = point_size if made_of_points(encoding) else 1
    return Modality((first, second, third), encoding, std=std, point_size=size, limits=limits)


def made_of_points(encoding: str) -> bool:
    """Whether a raster of this encoding can be made of a point cloud."""
    return FIELDS[encoding] == FIELDS["muses_raw"]
