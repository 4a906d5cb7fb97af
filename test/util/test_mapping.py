# SPDX-License-Identifier: Apache-2.0
"""Configurations check their fields, and errors name the path of the key."""

from __future__ import annotations

import dataclasses
import math
import pickle
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest

from mmsam_ros._util import Checked, MmsamError, from_mapping, ranged
from mmsam_ros._util.mapping import allowed


class WheelError(MmsamError):
    pass


@dataclass(frozen=True)
class Wheel(Checked):
    error: ClassVar[type[MmsamError]] = WheelError

    radius: float = ranged(dataclasses.MISSING, 0.1)
    slip: float = ranged(0.0, 0, 1, below=True)
    spokes: tuple[int, ...] = ranged((3, 4), 1, 9)
    tyre: Literal["summer", "winter"] | None = None
    side: Literal["left", "right"] = "left"
    marks: tuple[Literal["left", "right"], ...] = ()


@dataclass(frozen=True)
class Car(Checked):
    front: Wheel
    rear: Wheel = Wheel(0.3)
    name: str = ""

    def check(self) -> None:
        self.require(self.front.radius <= self.rear.radius, "front.radius", "at most the rear's")


def test_plain_values_become_a_configuration() -> None:
    values = {"front": {"radius": 0.2, "spokes": [5], "tyre": "winter", "marks": ["left"]}}
    car = from_mapping(Car, values)
    assert car == Car(Wheel(0.2, spokes=(5,), tyre="winter", marks=("left",)))
    assert from_mapping(Car, dataclasses.asdict(car)) == car
    assert pickle.loads(pickle.dumps(car)) == car


@pytest.mark.parametrize(
    ("front", "message"),
    [
        ({"radius": 0}, "front.radius: found 0.0, expected at least 0.1"),
        ({"radius": math.inf}, "front.radius: found inf, expected at least 0.1"),
        ({"radius": math.nan}, "front.radius: found nan, expected at least 0.1"),
        ({"radius": "big"}, "front.radius: found 'big', expected float"),
        ({"radius": True}, "front.radius: found True, expected float"),
        ({"radius": 1, "slip": 1}, "front.slip: found 1.0, expected at least 0 and below 1"),
        ({"radius": 1, "spokes": [3, 10]}, "front.spokes: found (3, 10), expected 1 to 9"),
        ({"radius": 1, "spokes": 3}, "front.spokes: found 3, expected a list"),
        ({"radius": 1, "tyre": "wintr"}, "front.tyre: found 'wintr'; did you mean 'winter'?"),
        ({"radius": 1, "side": None}, "front.side: found None, expected one of left, right"),
        ({"radius": 1, "marks": [None]}, "front.marks[0]: found None, expected one of left"),
        ({"radius": None}, "front.radius: found None, expected float"),
        ({"radius": 1, "tyre": 3}, "front.tyre: found 3; known: summer, winter"),
        ({"radius": 1, "marks": ["left", "up"]}, "front.marks: found 'up'; known: left, right"),
        ({"radius": 1, "colour": 1}, "front: unknown key 'colour'; known: marks, radius, side"),
        ({"slip": 0.5}, "front: key 'radius' is missing"),
        (3, "front: found 3, expected keys with values"),
        ({"radius": 1, "tyre": 16**5000}, "front.tyre: found int that is too long or deep to be"),
        ({"radius": 1, "spokes": [16**5000]}, "front.spokes: found tuple that is too long"),
        ({"radius": 1, 16**5000: 1}, "front: unknown key int that is too long"),
    ],
)
def test_wrong_values_are_named_by_their_path(front: Any, message: str) -> None:
    for where in ("", "garage"):
        with pytest.raises(WheelError) as error:
            from_mapping(Car, {"front": front}, where)
        assert str(error.value).startswith(f"garage.{message}" if where else message)


def test_checks_across_parts_name_the_path_too() -> None:
    for where, path in (("", "front.radius"), ("garage.cars", "garage.cars.front.radius")):
        with pytest.raises(MmsamError, match=f"^{path}: found 0.9, expected at most the rear's"):
            from_mapping(Car, {"front": {"radius": 0.9}}, where)


def test_what_is_allowed_is_told() -> None:
    texts = {field.name: allowed(Wheel, field) for field in dataclasses.fields(Wheel)}
    assert texts == {
        "radius": "at least 0.1", "slip": "at least 0 and below 1", "spokes": "1 to 9",
        "tyre": "summer, winter", "side": "left, right", "marks": "left, right",
    }  # fmt: skip
