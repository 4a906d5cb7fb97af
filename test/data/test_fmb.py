# SPDX-License-Identifier: Apache-2.0
"""FMB: splits by lists over the raw tree, a tree that was moved, and labels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.trees import make_fmb, sample, samples

from mmsam_ros.data.errors import DataError, DataWarning
from mmsam_ros.data.fmb import read_lists
from mmsam_ros.data.open import open_frames

COUNTS = {"train": 3, "val": 2, "test": 2}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fmb(tmp_path_factory.mktemp("raw"), per_split=COUNTS)


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fmb(tmp_path_factory.mktemp("moved"), moved=True, per_split=COUNTS)


def test_validation_frames_are_taken_out_of_train(raw: Path) -> None:
    opened = {
        split: open_frames("fmb", raw, split, ("thermal",), raw / "lists") for split in COUNTS
    }
    names = {split: [record.name for record in frames.records] for split, frames in opened.items()}
    assert names == {
        "train": ["00001", "00002", "00003"], "val": ["00004", "00005"],
        "test": ["00006", "00007"],
    }  # fmt: skip
    assert [r.subsets["difficulty"] for r in opened["train"].records] == ["easy", "hard", "easy"]
    assert opened["val"].records[0].image == raw / "train/Visible/00004.png"


@pytest.mark.parametrize("split", sorted(COUNTS))
@pytest.mark.parametrize("with_lists", [False, True])
def test_a_moved_tree_gives_the_same(raw: Path, moved: Path, split: str, with_lists: bool) -> None:
    one = open_frames("fmb", raw, split, ("thermal",), raw / "lists")
    two = open_frames("fmb", moved, split, ("thermal",), moved / "lists" if with_lists else "")
    for a, b, r, m in zip(samples(one), samples(two), one.records, two.records, strict=True):
        assert (r.name, r.subsets) == (m.name, m.subsets)
        assert torch.equal(a["rgb"], b["rgb"])
        assert torch.equal(a["planes"]["thermal"], b["planes"]["thermal"])
        assert torch.equal(a["label"], b["label"])


def test_without_lists(raw: Path) -> None:
    frames = open_frames("fmb", raw, "train", ())
    assert [record.name for record in frames.records] == [f"{i:05d}" for i in range(1, 6)]
    assert all(record.subsets == {} for record in frames.records)
    with pytest.raises(DataError, match=r"val: is missing; .* give the folder of the lists"):
        open_frames("fmb", raw, "val", ())


def test_labels_and_thermal(tmp_path: Path) -> None:
    root = make_fmb(tmp_path, per_split={"test": 1, "val": 1, "train": 2})
    frames = open_frames("fmb", root, "test", ("thermal",))
    label, thermal = np.ones((60, 80), np.uint8), np.zeros((60, 80), np.uint8)
    label[0, :4] = (0, 1, 14, 255)
    thermal[0, :3] = (0, 17, 255)
    cv2.imwrite(str(frames.records[0].label), label)
    path = str(frames.records[0].sensors["thermal"])
    for image in (thermal, np.repeat(thermal[..., None], 3, 2)):  # grey may be stored as RGB
        cv2.imwrite(path, image)
        found = sample(frames)
        assert found["label"][0, :5].tolist() == [255, 0, 13, 255, 0]
        assert found["planes"]["thermal"].shape == (1, 60, 80)
        assert found["planes"]["thermal"][0, 0, :3].tolist() == [0, 17, 255]
    thermal[0, :3] = (10, 17, 200)
    cv2.imwrite(path, np.dstack([thermal, thermal + 20, thermal + 4]))  # blue, green, red
    with pytest.warns(DataWarning, match="thermal images have channels that differ: their mean"):
        found = sample(frames)
    assert found["planes"]["thermal"][0, 0, :3].tolist() == [18, 25, 208]
    cv2.imwrite(path, thermal)
    cv2.imwrite(str(frames.records[0].label), label + 1)
    with pytest.raises(DataError, match=r"Label/00001.png: label values 15, expected 0..14 and"):
        frames[0]
    cv2.imwrite(str(frames.records[0].label), label[:50])
    with pytest.raises(DataError, match=r"Label/00001.png: is 80x50, but .*00001.png is 80x60"):
        frames[0]
    cv2.imwrite(str(frames.records[0].label), np.repeat(label[..., None], 3, 2))
    with pytest.raises(DataError, match=r"Label/00001.png: label is RGB, expected one channel"):
        frames[0]


def test_missing_files_are_named(tmp_path: Path) -> None:
    root = make_fmb(tmp_path)
    (root / "train/Infrared/00002.png").unlink()
    with pytest.raises(DataError, match=r"train/Infrared/00002.png: is missing \(1 missing"):
        open_frames("fmb", root, "train", ("thermal",), root / "lists")
    (root / "train/Visible/00005.png").unlink()
    with pytest.raises(DataError, match=r"train/Visible/00005.png: is missing"):
        open_frames("fmb", root, "val", (), root / "lists")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("val_hard_files.txt", "00001.png\n", "00001.png is in .*train_easy_files.txt already"),
        ("val_hard_files.txt", "1.jpg\n", "found '1.jpg', expected names such as 00001.png"),
        ("test_easy_files.txt", None, "test_easy_files.txt: is missing"),
    ],
)
def test_wrong_lists(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    path = make_fmb(tmp_path) / "lists" / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        open_frames("fmb", tmp_path, "train", (), tmp_path / "lists")


def test_a_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = make_fmb(tmp_path) / "lists/val_hard_files.txt"
    path.write_bytes(b"\xff\xfe0\x000")
    with pytest.raises(DataError, match=r"val_hard_files.txt: .* can't decode"):
        open_frames("fmb", tmp_path, "train", (), tmp_path / "lists")


def test_the_published_lists(shared: Path) -> None:
    """Disjoint (or reading them fails), and all 1500 frames."""
    lists = read_lists(shared / "reference/splits")
    assert {split: len(names) for split, names in lists.items()} == {
        "train": 1060, "val": 160, "test": 280,
    }  # fmt: skip
    assert {name for names in lists.values() for name in names} == {
        f"{i:05d}" for i in range(1, 1501)
    }
    hard = {s: sum(word == "hard" for word in names.values()) for s, names in lists.items()}
    assert hard == {"train": 308, "val": 80, "test": 97}
