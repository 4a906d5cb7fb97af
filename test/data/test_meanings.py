# SPDX-License-Identifier: Apache-2.0
"""Labels of a data set whose classes are not the network's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.trees import make_folder

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import FrameSet
from mmsam_ros.data.meanings import LabelCodes, Scoring, meanings
from mmsam_ros.data.open import open_frames
from mmsam_ros.sensors import class_table

NETWORK = class_table(
    *((name, 0, 0, 0) for name in ("road", "person", "rider", "bicycle", "lane mark", "sky"))
)


def frames(any_of: dict[str, tuple[str, ...]], *names: str) -> FrameSet:
    table = class_table(*((name, 0, 0, 0) for name in names))
    return FrameSet("folder", "val", (), table, {}, any_of=any_of)


def test_a_class_means_those_of_any_of_or_the_one_of_its_name() -> None:
    data = frames({"Street": ("lane mark", "road")}, "sky", "Street", "rider")
    assert meanings(data, NETWORK) == ((5,), (0, 4), (2,))


def test_what_the_network_does_not_have_is_named() -> None:
    with pytest.raises(DataError, match=r"class 1 'Street' means 'raod'.*did you mean 'road'"):
        meanings(frames({"Street": ("raod",)}, "sky", "Street"), NETWORK)
    with pytest.raises(DataError, match=r"class 0 'Sky' means 'Sky', which.*did you mean 'sky'"):
        meanings(frames({}, "Sky"), NETWORK)


def test_data_sets_share_codes() -> None:
    first = frames({"Street": ("road", "lane mark")}, "sky", "Street")
    second = frames(
        {"way": ("lane mark", "road"), "living": ("person", "rider")}, "living", "way", "sky"
    )
    codes = LabelCodes.of((first, second), NETWORK)
    assert codes.sets == ((0, 4), (1, 2))
    assert codes.tables[0][[0, 1, 2, 255]].tolist() == [5, 6, 255, 255]
    assert codes.tables[1][[0, 1, 2, 3, 255]].tolist() == [7, 6, 5, 255, 255]


def test_codes_of_the_networks_own_classes_are_the_ids() -> None:
    codes = LabelCodes.of((frames({}, *(info.name for info in NETWORK)),), NETWORK)
    assert not codes.sets
    assert codes.tables[0].tolist() == [*range(6)] + [255] * 250


def test_more_codes_than_a_byte_holds() -> None:
    network = class_table(*((f"c{i}", 0, 0, 0) for i in range(200)))
    any_of = {f"d{i}": (f"c{i}", f"c{i + 1}") for i in range(56)}
    with pytest.raises(DataError, match="256 classes and sets of them, expected at most 255"):
        LabelCodes.of((frames(any_of, *any_of),), network)


def test_predictions_are_counted_by_what_the_true_label_may_mean() -> None:
    data = frames(
        {"living": ("person", "rider"), "cycle": ("rider", "bicycle"), "way": ("road", "lane mark"),
         "stripe": ("lane mark",)},
        "stripe", "living", "cycle", "way",
    )  # fmt: skip
    scoring = Scoring.of(data, NETWORK)
    # a stripe is a part of the way and counts as it
    assert scoring.names == ("living", "cycle", "way")
    assert scoring.rest  # the sky is none of them
    road, person, rider, bicycle, mark, sky = range(6)
    cases = [  # predicted, true training id, counted as, true scored id
        (person, 1, 0, 0), (rider, 1, 0, 0), (rider, 2, 1, 1), (bicycle, 2, 1, 1),
        (rider, 3, 0, 2),  # wrong: of the first class that it may be
        (mark, 3, 2, 2), (road, 3, 2, 2), (mark, 0, 2, 2), (road, 0, 2, 2), (mark, 1, 2, 0),
        (bicycle, 1, 1, 0), (sky, 1, 3, 0), (sky, 255, None, 255), (road, 255, None, 255),
    ]  # fmt: skip
    for predicted, true, counted, scored in cases:
        found, truth = scoring(torch.tensor([[predicted]]), torch.tensor([[true]]).byte())
        assert truth.item() == scored
        assert counted in (None, found.item()), (predicted, true)


def test_of_equal_classes_the_first_counts() -> None:
    scoring = Scoring.of(frames({"bus": ("road",), "lorry": ("road",)}, "bus", "lorry"), NETWORK)
    assert scoring.names == ("bus",)
    assert scoring.truth[:2].tolist() == [0, 0]


def test_the_networks_own_classes_are_counted_as_they_are() -> None:
    scoring = Scoring.of(frames({}, *(info.name for info in NETWORK)), NETWORK)
    assert (scoring.names, scoring.rest) == (tuple(info.name for info in NETWORK), False)
    label = torch.from_numpy(np.random.default_rng(0).integers(0, 6, (9, 9)).astype(np.uint8))
    label[3] = 255
    prediction = torch.randint(0, 6, (9, 9), dtype=torch.uint8)
    counted, truth = scoring(prediction, label)
    assert torch.equal(counted, prediction)
    assert torch.equal(truth, label)


@pytest.mark.parametrize(
    ("any_of", "message"),
    [
        ({"raod": ["a"]}, r"meta.json: .*any_of: unknown 'raod'; did you mean 'road'"),
        ({"road": []}, r"any_of.road: found \[\], expected one or more"),
        ({"road": ["a", "a"]}, r"any_of.road: found \['a', 'a'\], expected .* each once"),
        ({"road": "a"}, r"any_of.road: found 'a', expected a list"),
        ({"road": [3]}, r"any_of.road\[0\]: found 3, expected str"),
        (["road"], r"any_of: found \['road'\], expected keys with values"),
    ],
)
def test_any_of_is_strict(tmp_path: Path, any_of: object, message: str) -> None:
    root = make_folder(tmp_path)
    meta = json.loads((root / "meta.json").read_text())
    (root / "meta.json").write_text(json.dumps({**meta, "any_of": any_of}))
    with pytest.raises(DataError, match=message):
        open_frames("folder", root, "train", ())


def test_any_of_is_read(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    meta = json.loads((root / "meta.json").read_text())
    (root / "meta.json").write_text(json.dumps({**meta, "any_of": {"road": ["a", "b"]}}))
    assert open_frames("folder", root, "train", ()).any_of == {"road": ("a", "b")}
