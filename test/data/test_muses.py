# SPDX-License-Identifier: Apache-2.0
"""MUSES: projected rasters, conditions, and a test split whose labels are withheld."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.trees import PICTURED, make_muses, sample, samples

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.open import open_frames

SENSORS = ("lidar", "event")


@pytest.fixture(scope="module")
def muses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_muses(tmp_path_factory.mktemp("snow"))


def test_samples(muses: Path) -> None:
    frames = open_frames("muses", muses, "train", SENSORS)
    assert [record.name for record in frames.records] == [
        f"REC{i:04d}_frame_{100 + i:06d}" for i in (1, 2, 3, 4)
    ]
    assert {sensor: modality.encoding for sensor, modality in frames.modalities.items()} == {
        "lidar": "muses_raw", "event": "event_counts",
    }  # fmt: skip
    for found, record in zip(samples(frames), frames.records, strict=True):
        for sensor in SENSORS:
            stored = np.load(record.sensors[sensor])["arr_0"]
            assert stored.dtype == (np.float32 if sensor == "lidar" else np.uint8)
            expected = torch.from_numpy(stored.astype(np.float32)).permute(2, 0, 1)
            assert torch.equal(found["planes"][sensor], expected)
        assert set(found["label"].unique().tolist()) == {*PICTURED["muses"], 255}


def test_conditions_are_the_folders(muses: Path) -> None:
    records = open_frames("muses", muses, "train", ()).records
    assert [tuple(record.subsets.items()) for record in records] == [
        (("weather", weather), ("time", time))
        for weather, time in (("clear", "day"), ("fog", "night"), ("snow", "day"),
                              ("clear", "night"))
    ]  # fmt: skip


def test_labels_have_no_offset(tmp_path: Path) -> None:
    frames = open_frames("muses", make_muses(tmp_path), "val", ())
    label = np.zeros((54, 96), np.uint8)
    label[0, :3] = (0, 18, 255)
    cv2.imwrite(str(frames.records[0].label), label)
    assert sample(frames)["label"][0, :4].tolist() == [0, 18, 255, 0]
    cv2.imwrite(str(frames.records[0].label), label + 1)
    with pytest.raises(DataError, match=r"label values 19, expected 0..18 and 255"):
        frames[0]


def test_withheld_labels(muses: Path, tmp_path: Path) -> None:
    frames = open_frames("muses", muses, "test", SENSORS)
    assert frames.records[0].label is None
    assert frames[0].label is None
    assert "label" not in sample(frames)
    given = open_frames("muses", make_muses(tmp_path, test_labels=True), "test", SENSORS)
    assert "label" in sample(given)
    assert given.records[1].label is not None
    given.records[1].label.unlink()  # one of them is not withheld but lost
    with pytest.raises(DataError, match=r"gt_labelTrainIds.png: is missing"):
        open_frames("muses", tmp_path, "test", ())


def test_a_missing_image_is_named_by_what_is_left_of_its_frame(tmp_path: Path) -> None:
    root = make_muses(tmp_path)
    gone = open_frames("muses", root, "test", ()).records[0].image
    gone.unlink()
    open_frames("muses", root, "test", ())  # nothing is left of it here
    with pytest.raises(DataError, match=f"{gone.name}: is missing"):
        open_frames("muses", root, "test", ("lidar",))


def test_a_folder_of_other_labels_withholds_them_still(tmp_path: Path) -> None:
    root = make_muses(tmp_path)
    (root / "gt_semantic/test/clear/day").mkdir(parents=True)
    assert {r.label for r in open_frames("muses", root, "test", ()).records} == {None}


def test_training_labels_are_never_withheld(tmp_path: Path) -> None:
    root = make_muses(tmp_path)
    (root / "gt_semantic/val").rename(root / "gt_semantic/lost")
    with pytest.raises(DataError, match=r"REC0005_frame_000105_gt_labelTrainIds.png: is missing"):
        open_frames("muses", root, "val", ())


def test_an_unprojected_download(tmp_path: Path) -> None:
    root = make_muses(tmp_path, sources=("lidar",))
    with pytest.raises(DataError, match=r"event_camera: is missing; `mmsam muses-project` makes"):
        open_frames("muses", root, "train", SENSORS)
    path = open_frames("muses", root, "train", ("lidar",)).records[2].sensors["lidar"]
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.name}: is missing"):
        open_frames("muses", root, "train", ("lidar",))


def test_files_that_are_being_written_are_no_frames(tmp_path: Path) -> None:
    root = make_muses(tmp_path)
    (path, *_) = sorted((root / "projected_to_rgb/lidar/train").rglob("*.npz"))
    path.with_name(f".{path.name}.4242.part").write_bytes(b"half")
    before = len(open_frames("muses", root, "train", ()))
    assert len(open_frames("muses", root, "train", ("lidar",))) == before


def test_the_png_variant_has_the_same_values(tmp_path: Path) -> None:
    root = make_muses(tmp_path)
    before = open_frames("muses", root, "train", ("lidar",))
    path, expected = before.records[0].sensors["lidar"], sample(before)["planes"]["lidar"]
    counts = ((np.load(path)["arr_0"] + 100) * 150).round().astype(np.uint16)
    path.unlink()
    cv2.imwrite(str(path.with_suffix(".png")), counts[..., ::-1])
    after = sample(open_frames("muses", root, "train", ("lidar",)))["planes"]["lidar"]
    torch.testing.assert_close(after, expected, atol=1 / 150, rtol=0)


def test_rasters_of_double_precision_are_read(tmp_path: Path) -> None:
    frames = open_frames("muses", make_muses(tmp_path), "val", ("lidar",))
    path, expected = frames.records[0].sensors["lidar"], sample(frames)["planes"]["lidar"]
    np.savez(path, np.load(path)["arr_0"].astype(np.float64))
    assert torch.equal(sample(frames)["planes"]["lidar"], expected)


def test_broken_rasters_are_named(tmp_path: Path) -> None:
    frames = open_frames("muses", make_muses(tmp_path), "val", SENSORS)
    path = frames.records[0].sensors["lidar"]
    whole = path.read_bytes()
    for content in (whole[:-40], b"", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{path.name}: is broken"):
            frames[0]
    np.savez(path, raster=np.zeros((54, 96, 3), np.float32))
    with pytest.raises(DataError, match=rf"{path.name}: is broken.*arr_0"):
        frames[0]
    np.savez(path, np.zeros((54, 96, 3), np.float16))
    with pytest.raises(DataError, match=rf"{path.name}: .*dtype float16, expected .*float32"):
        frames[0]
    np.savez(path, np.zeros((54, 96, 3), np.uint8))
    with pytest.raises(DataError, match=rf"{path.name}: .*dtype is uint8, expected float32"):
        sample(frames)
    np.savez(path, np.full((54, 96, 3), np.nan, np.float32))
    with pytest.raises(DataError, match=rf"{path.name}: muses_raw image holds NaN"):
        sample(frames)
    np.savez(path, np.zeros((96, 54, 3), np.float32))
    with pytest.raises(
        DataError, match=rf"{path.name}: is 54x96, but .*_frame_camera.png is 96x54"
    ):
        frames[0]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("sunny/day/REC0009_frame_000109", "weather: unknown 'sunny'"),
        ("fog/nite/REC0009_frame_000109", "time: unknown 'nite'; did you mean 'night'"),
        ("fog/day/frame_000109", "expected REC####_frame_######"),
    ],
)
def test_unknown_words_are_errors(tmp_path: Path, place: str, message: str) -> None:
    image = make_muses(tmp_path) / "frame_camera/val" / f"{place}_frame_camera.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    image.touch()
    with pytest.raises(DataError, match=message):
        open_frames("muses", tmp_path, "val", ())
