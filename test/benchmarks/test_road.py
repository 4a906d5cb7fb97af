# SPDX-License-Identifier: Apache-2.0
"""How objects with boxes are counted, and what the bars of weights for real streets read."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

IDS = {"road": 0, "person": 8, "rider": 9, "car": 10, "truck": 11}


@pytest.fixture(params=["road_objects", "road"])
def module(
    root: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> ModuleType:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    return importlib.import_module(request.param)


objects = pytest.mark.parametrize("module", ["road_objects"], indirect=True)
scores = pytest.mark.parametrize("module", ["road"], indirect=True)


def boxes(path: Path, *rows: tuple[str, list[float]]) -> Path:
    """A boxes.json of one frame, 100 wide and 60 high."""
    found = [{"class": name, "xyxy": xyxy} for name, xyxy in rows]
    content = {"frames": {"FLIR_00001": {"size": [100, 60], "boxes": found}}}
    path.write_text(json.dumps(content))
    return path


@objects
def test_objects_in_boxes_are_counted(module: ModuleType, tmp_path: Path) -> None:
    """Two persons of 200 pixels, of which 80 and 40 are found (as person and as rider); a car of
    which nothing is; a bicycle, which is not counted. Off the persons by more than 8 pixels a
    block of 5 x 4 is called person.
    """
    path = boxes(
        tmp_path / "boxes.json", ("person", [10.2, 10, 20, 30.3]), ("person", [40, 10, 50, 30]),
        ("car", [60, 40, 70, 50]), ("bicycle", [0, 0, 9, 9]),
    )  # fmt: skip
    labels = np.zeros((60, 100), np.uint8)
    labels[10:18, 10:20], labels[10:14, 40:50], labels[50:54, 80:85] = 8, 9, 8
    labels[20, 57] = 8  # within 8 pixels of the second person
    counts = module.count(labels, IDS, module.read_boxes(path)["FLIR_00001"])
    around = 2 * (30 - 10 + 2 * 8) * (20 - 10 + 2 * 8)  # of both, which do not touch
    assert dict(zip(module.MEASURES, counts.tolist(), strict=True)) == {
        "person pixels": [120, 400], "person recall": [1, 2],
        "vehicle pixels": [0, 100], "vehicle recall": [0, 1],
        "false person pixels": [20, 6000 - around], "false vehicle pixels": [0, 0],
    }  # fmt: skip
    assert module.shares(counts[None])["person pixels"] == 30.0


@objects
def test_regions_of_vehicles_stand_for_boxes(module: ModuleType) -> None:
    label = np.full((60, 100), 255, np.uint8)
    label[5:25, 5:25], label[30:50, 40:60], label[0:3, 90:93] = 1, 1, 1  # the last is too small
    label[30:50, 70:90] = 0
    any_of = {"road": ("road",), "car or truck": ("car", "truck")}
    regions = module.regions_of(SimpleNamespace(label=label), any_of)
    labels = np.zeros((60, 100), np.uint8)
    labels[5:25, 5:15], labels[30:35, 70:90] = 11, 10  # the latter on the road
    found = module.shares(module.count(labels, IDS, regions)[None])
    assert found == {
        "vehicle pixels": 25.0, "vehicle recall": 50.0, "false vehicle pixels": 25.0,
    }  # fmt: skip


@objects
def test_near_frames_are_one_group(module: ModuleType) -> None:
    names = ["FLIR_03813", "FLIR_03952", "FLIR_05697", "FLIR_05759", "FLIR_06099"]
    assert module.neighbours(names) == [0, 1, 2, 2, 3]
    assert module.neighbours(["0000000000", "0000000004", "0000000076"]) == [0, 0, 0]


@objects
def test_gains_have_intervals_over_groups(module: ModuleType) -> None:
    """Groups of equal size: a gain of 0 in one and 100 % in the other is any of 0, 50 and 100; the
    same in both has no spread.
    """
    before, after = np.zeros((2, 3, len(module.MEASURES), 2), np.int64)
    before[:, 0, 1] = after[:, 0, 1] = 10, 10, 20
    after[2, 0, 0] = 20
    before[:, 1, 1] = after[:, 1, 1] = 1, 1, 2
    after[:, 1, 0] = 1, 1, 2
    assert module.gain(before, after, [0, 0, 1]) == {
        "person pixels": (50.0, 0.0, 100.0), "person recall": (100.0, 100.0, 100.0),
    }  # fmt: skip


@scores
def test_bars_and_table(module: ModuleType) -> None:
    def row(
        name: str, sensors: str, measure: str, value: float, **more: object
    ) -> dict[str, object]:
        about = {"weights": "a", "set": name, "sensors": sensors}
        return {**about, "measure": measure, "value": value, **more}

    rows = [
        row(module.CAMVID, "camera", "mIoU", 46.0), row(module.IDD, "camera", "mIoU", 55.0),
        row(module.NIGHT, "gain by thermal", "person recall", 20.0, interval=[-1.0, 40.0]),
        row(module.NIGHT, "camera+thermal", "false person pixels", 0.4),
        row("synthetic s", "camera", "mIoU", 38.0, intensity="as made"),
        row("synthetic s", "camera+lidar", "mIoU", 60.0, intensity="as made"),
        row("synthetic s", "camera+lidar", "mIoU", 59.0, intensity="x 2"),
        row("synthetic s", "camera+lidar", "mIoU", 37.0, intensity="0"),
    ]  # fmt: skip
    found = {bar["name"]: (bar["value"], bar["holds"]) for bar in module.bars(rows)}
    assert found == {
        "mIoU on CamVid 0001TP": (46.0, True),
        "mIoU on IDD": (55.0, False),
        "gain of person recall by thermal at night, lower end of the interval": (-1.0, False),
        "false person pixels at night, camera and thermal": (0.4, True),
        "gain of vehicle pixels by LiDAR on KITTI": (None, None),
        "mIoU on synthetic s": (60.0, True),
        "most lost by another intensity, synthetic s": (23.0, False),
        "least over the camera alone, synthetic s": (-1.0, False),
    }
    other = {**rows[0], "weights": "b", "value": 22.0}
    lines = module.table([*rows, other]).splitlines()
    assert lines[0] == "| set | sensors | % | a | b |"
    assert lines[2] == "| CamVid 0001TP | camera | mIoU | 46.0 | 22.0 |"
    assert lines[4].endswith("| person recall | +20.0 (-1.0 to +40.0) |  |")
    assert lines[8].endswith("| mIoU, intensity x 2 | 59.0 |  |")
