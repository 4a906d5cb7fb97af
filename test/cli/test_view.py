# SPDX-License-Identifier: Apache-2.0
"""`mmsam view --save` writes what Rerun reads; without Rerun it says how to install it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.drives import label_bag
from support.trees import make_folder

from mmsam_ros.cli.main import main
from mmsam_ros.cli.view import _recorded_classes, _stretched
from mmsam_ros.sensors import SYNTHETIC_CLASSES, ClassInfo

EVERY_MESSAGE = {"/camera/image": 5, "/lidar/points": 10, "/thermal/image": 9,
                 "/mmsam/semantic": 5, "/mmsam/confidence": 5,
                 "/mmsam/points/labelled": 5}  # fmt: skip
GREY = ("/thermal/image", "/mmsam/confidence")


@pytest.fixture(scope="module")
def rerun() -> Any:
    return pytest.importorskip("rerun", reason="the extra view is not installed")


def test_without_rerun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert main(["view", str(tmp_path), "--save", str(tmp_path / "x.rrd")]) == 2
    assert "pip install rerun-sdk" in capsys.readouterr().err
    assert main(["view", str(tmp_path / "nothing")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_a_topic_classes_of_something_else() -> None:
    own = json.dumps({"classes": [{"id": 0, "name": "road", "rgb": [1, 2, 3]}]})
    others = ["hello", "9" * 5000, "[" * 10**5, "3", "{}", '{"classes": [{"id": 0}]}']
    connection = SimpleNamespace(topic="/a/classes", msgcount=1, msgtype="")
    for sent, found in (
        (others, SYNTHETIC_CLASSES),
        ([*others, own], [ClassInfo(0, "road", (1, 2, 3))]),
    ):
        reader = SimpleNamespace(
            connections=[connection],
            messages=lambda _, sent=sent: [(connection, 0, text) for text in sent],
            deserialize=lambda text, _: SimpleNamespace(data=text),
        )
        assert list(_recorded_classes(reader)) == list(found)


@pytest.mark.filterwarnings("error")
def test_what_was_not_measured_is_black() -> None:
    """As of a depth image beyond its range, whose other pixels keep their grey."""
    depths = np.linspace(1, 50, 60, dtype=np.float32).reshape(6, 10)
    shown = _stretched(depths)
    assert shown.min() == 0
    assert shown.max() == 255
    for unknown in (np.nan, np.inf, -np.inf):
        holes = np.pad(depths, (0, 1), constant_values=unknown)
        assert (_stretched(holes)[:6, :10] == shown).all()
        assert (_stretched(holes)[6] == 0).all()
        assert (_stretched(np.full((2, 2), unknown)) == 0).all()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_labelled_bag(rerun: Any, drive: Path, weights: Path, tmp_path: Path) -> None:
    out, outputs = tmp_path / "labelled", "--outputs=confidence,labelled_points"
    assert label_bag(drive, out, weights, outputs, "--all-topics") == 0
    assert main(["view", str(out), "--save", str(tmp_path / "bag.rrd")]) == 0
    chunks = read_back(tmp_path / "bag.rrd")
    for entity, count in EVERY_MESSAGE.items():
        assert rows(chunks, entity) == count, entity
    for entity in GREY:
        models = {
            f["color_model"]
            for c in chunks[entity]
            for (f,) in c.column("Image:format").to_pylist()
        }
        assert models == {rerun.ColorModel.L.value}, entity
    text = str([chunk.to_pydict() for chunk in chunks["/"]])
    for info in SYNTHETIC_CLASSES:
        assert info.name in text
    assert "no label" in text


def test_a_data_set(rerun: Any, tmp_path: Path) -> None:
    make_folder(tmp_path / "data")
    assert main(["view", str(tmp_path / "data"), "--split", "train",
                 "--save", str(tmp_path / "data.rrd")]) == 0  # fmt: skip
    chunks = read_back(tmp_path / "data.rrd")
    assert rows(chunks, "/camera/image") == rows(chunks, "/camera/label") > 0


def test_nothing_to_show(rerun: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["view", str(tmp_path / "empty"), "--save", str(tmp_path / "x.rrd")]) == 2
    assert "a folder without files of a bag" in capsys.readouterr().err
    assert not (tmp_path / "x.rrd").exists()


def read_back(path: Path) -> dict[str, list[Any]]:
    """Chunks by entity, as Rerun's own reader gives them."""
    reader = pytest.importorskip("rerun.chunk", reason="this Rerun has no reader of files")
    found: dict[str, list[Any]] = {}
    for chunk in reader.RrdReader(path).stream():
        found.setdefault(chunk.entity_path, []).append(chunk.to_record_batch())
    return found


def rows(chunks: dict[str, list[Any]], entity: str) -> int:
    assert all({"stamp", "received"} <= set(c.schema.names) or "frame" in c.schema.names
               for c in chunks[entity])  # fmt: skip
    return sum(chunk.num_rows for chunk in chunks[entity])
