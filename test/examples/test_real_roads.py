# SPDX-License-Identifier: Apache-2.0
"""What `real_roads.py` reads out of boxes and of labels of other networks."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest


@pytest.fixture
def roads(root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(root / "examples"))
    return importlib.import_module("real_roads")


def test_boxes_label_warm_people_and_the_middles_of_cars(roads: ModuleType) -> None:
    """A warm person of 4 by 16 pixels in a wider box, a car behind the box, a road label."""
    sets = np.full((60, 100), roads.ANY, np.uint16)
    sets[40:] = roads.bits(("road",))
    thermal = np.full(sets.shape, 90, np.uint8)
    thermal[20:36, 30:34] = 200
    boxes = [
        {"class": "person", "xyxy": [26, 19, 38, 37]},
        {"class": "car", "xyxy": [35, 10, 75, 30]},
    ]
    person, car = (roads.bits(roads.BOXES[name]) for name in ("person", "car"))
    found = roads.with_boxes(sets, boxes, thermal)
    assert (found[20:36, 30:34] == person).all()
    assert (found == person).sum() == 4 * 16
    assert (found[15:25, 44:66] == car).all()
    assert found[22, 72] == roads.ANY & ~roads.bits(("person", "rider")), "the car's rim is open"
    assert found[38, 32] == roads.ANY, "so is what is near a person"
    assert (found[45:] == roads.bits(("road",))).all()
    by_day = roads.with_boxes(sets, boxes, None)
    assert (by_day[25:31, 30:34] == person).all(), "without warmth the middle of the box"
    assert by_day[21, 31] == roads.ANY


def test_labels_that_contradict_each_other_say_nothing(roads: ModuleType, tmp_path: Path) -> None:
    for kind, row in (("road", [1, 1, 3, 0]), ("cityscapes", [0, 2, 0, 10])):
        (tmp_path / kind).mkdir()
        cv2.imwrite(str(tmp_path / kind / "a.png"), np.array([row], np.uint8))
    expected = (["road"], None, ["lane mark"], ["sky"])
    found = roads.pseudo_sets(tmp_path, "a")[0].tolist()
    assert found == [roads.ANY if names is None else roads.bits(names) for names in expected]


def test_the_nights(roads: ModuleType, shared: Path, tmp_path: Path) -> None:
    """Every labelled night frame has boxes, and no frame is in two parts."""
    roads.roadscene_night(shared / "real_roads", tmp_path)
    names = set(roads.read_json(tmp_path / "meta.json")["splits"]["train"])
    own = roads.read_json(roads.NIGHT_BOXES)["frames"]
    given = roads.read_json(shared / "real_roads/boxes/boxes.json")["frames"]
    assert own.keys() <= names <= own.keys() | given.keys()
    assert {file.stem for file in (tmp_path / "labels").iterdir()} == names
    for name, frame in own.items():
        height, width = cv2.imread(str(tmp_path / f"labels/{name}.png"), 0).shape
        for left, top, right, bottom in (box["xyxy"] for box in frame["boxes"]):
            assert 0 <= left < right <= width, name
            assert 0 <= top < bottom <= height, name
