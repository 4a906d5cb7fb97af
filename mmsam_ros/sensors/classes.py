# SPDX-License-Identifier: Apache-2.0
"""Semantic classes: training ids (255: no label), names, colours and overlay topic names."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors.errors import SensorError

NO_LABEL = 255


@dataclass(frozen=True)
class ClassInfo:
    """One class: training id (0..254), name as its data set writes it, and RGB colour (0..255).

    Raises SensorError for an id or a colour that is no whole number in range, and for a name that
    gives no ROS topic token (it needs a letter first, after everything but ASCII letters and digits
    is stripped).
    """

    id: int
    name: str
    rgb: tuple[int, int, int]

    def __post_init__(self) -> None:
        if type(self.id) is not int or not 0 <= self.id < NO_LABEL:
            raise SensorError(f"class {self.name!r}: id is {self.id!r}, expected 0..{NO_LABEL - 1}")
        if len(self.rgb) != 3 or not all(type(v) is int and 0 <= v <= 255 for v in self.rgb):
            raise SensorError(
                f"class {self.name!r}: rgb is {self.rgb}, expected three whole numbers in 0..255"
            )
        if not isinstance(self.name, str) or not self.topic[:1].isalpha():
            raise SensorError(
                f"class {self.id}: name is {self.name!r}, expected one that starts with a letter"
            )

    @property
    def topic(self) -> str:
        """The name in snake case: "Traffic Light", "TrafficLight" -> "traffic_light"."""
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", self.name)
        return re.sub(r"[^0-9A-Za-z]+", "_", words).strip("_").lower()


def topic_names(classes: Iterable[ClassInfo]) -> tuple[str, ...]:
    """Overlay topic token of every class, in order; SensorError names both where two collide."""
    owners: dict[str, ClassInfo] = {}
    for info in classes:
        other = owners.setdefault(info.topic, info)
        if other is not info:
            raise SensorError(
                f"classes {other.id} {other.name!r} and {info.id} {info.name!r} "
                f"both give the topic {info.topic!r}, expected distinct names"
            )
    return tuple(owners)


def palette(classes: Iterable[ClassInfo]) -> NDArray[np.uint8]:
    """Colour table (256, 3) uint8 RGB, indexed by label; ids that no class has are black."""
    table = np.zeros((256, 3), np.uint8)
    for info in classes:
        table[info.id] = info.rgb
    return table


def class_table(*rows: tuple[str, int, int, int]) -> tuple[ClassInfo, ...]:
    """Classes with the ids 0, 1, 2, … of rows (name, r, g, b)."""
    return tuple(ClassInfo(i, name, (r, g, b)) for i, (name, r, g, b) in enumerate(rows))


SYNTHETIC_CLASSES = class_table(
    ("road", 128, 64, 128), ("sidewalk", 244, 35, 232), ("building", 70, 70, 70),
    ("vegetation", 107, 142, 35), ("terrain", 152, 251, 152), ("sky", 70, 130, 180),
    ("pole", 153, 153, 153), ("traffic sign", 220, 220, 0), ("person", 220, 20, 60),
    ("rider", 255, 0, 0), ("car", 0, 0, 142), ("truck", 0, 0, 70), ("bicycle", 119, 11, 32),
    ("lane mark", 255, 255, 255),
)  # fmt: skip
