# SPDX-License-Identifier: Apache-2.0
"""The writer of the folder layout: what it writes is read back, what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmsam_ros.data.check import check_dataset
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.folder_writer import FolderWriter
from mmsam_ros.data.open import open_frames
from mmsam_ros.sensors import ClassInfo

CLASSES = (ClassInfo(0, "road", (128, 64, 128)), ClassInfo(1, "car", (0, 0, 142)))
ENCODINGS = {
    "lidar": "muses_raw", "thermal": "mono16", "event": "event_counts", "depth": "png8",
}  # fmt: skip
H, W = 6, 8


def frame(rng: np.random.Generator) -> dict[str, Any]:
    """Arrays of one frame, by argument of `FolderWriter.add`."""
    sensors = {
        "lidar": (rng.uniform(1, 9, (H, W, 3)) * (9, 1, 1)).astype(np.float32),
        "thermal": rng.integers(27000, 31000, (H, W)).astype(np.uint16),
        "event": (rng.integers(0, 9, (H, W, 3)) * (1, 1, 0)).astype(np.uint8),
        "depth": rng.integers(0, 255, (H, W, 3)).astype(np.uint8),
    }
    rgb = rng.integers(0, 255, (H, W, 3)).astype(np.uint8)
    return {"rgb": rgb, "labels": rng.integers(0, 2, (H, W)).astype(np.uint8), "sensors": sensors}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    writer = FolderWriter(tmp_path, CLASSES, ENCODINGS, limits=(26000, 31500))
    frames = {(split, f"{split}_{i}"): frame(rng) for split in ("train", "val") for i in range(2)}
    for (split, name), arrays in frames.items():
        writer.add(split, name, **arrays, subsets={"weather": "fog"})
    writer.add("test", "withheld", **frame(rng) | {"labels": None})
    assert not (tmp_path / "meta.json").exists()  # no data set before it is whole
    writer.finish()
    for split in ("train", "val"):
        found = open_frames("folder", tmp_path, split, tuple(ENCODINGS))
        assert found.classes == CLASSES
        assert found.modalities["thermal"].limits == (26000, 31500)
        for record, item in zip(found.records, found, strict=False):
            given = frames[split, record.name]
            assert record.subsets == {"weather": "fog"}
            np.testing.assert_array_equal(item.frame.rgb, given["rgb"])
            np.testing.assert_array_equal(item.label, given["labels"])
            for sensor, array in given["sensors"].items():
                np.testing.assert_array_equal(item.frame.sensors[sensor].data, array)
    assert open_frames("folder", tmp_path, "test", ()).records[0].label is None
    assert check_dataset("folder", tmp_path, tuple(ENCODINGS)).faults == []


def test_points_and_their_calibration(tmp_path: Path) -> None:
    T = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    K = np.array([[W, 0, W / 2], [0, W, H / 2], [0, 0, 1]])
    camera = {"width": W, "height": H, "K": K, "D": [], "model": "plumb_bob"}
    calibration = {"camera": camera, "lidar": {"T_camera_lidar": T}}
    writer = FolderWriter(tmp_path, CLASSES, {"lidar": "muses_raw"}, calibration, point_size=1)
    points = np.array([[10.0, 0, 0, 7], [5, -1, 0, 9]])  # ahead, and to the right of it
    arrays = frame(np.random.default_rng(1)) | {"sensors": {"lidar": points}}
    writer.add("val", "one", **arrays)
    writer.finish()
    frames = open_frames("folder", tmp_path, "val", ("lidar",))
    lidar = frames.sample(frames[0])["planes"]["lidar"]
    assert lidar[0].count_nonzero() == 2
    assert lidar[:2, 3, 4].tolist() == [10, 7]
    assert lidar[1, 3, 5] == 9


def test_frames_of_other_processes_are_listed(tmp_path: Path) -> None:
    first, second = (FolderWriter(tmp_path, CLASSES, {}) for _ in range(2))
    first.add("val", "one", **frame(np.random.default_rng(2)) | {"sensors": {}})
    second.list_frame("val", "one")
    second.finish()
    assert [r.name for r in open_frames("folder", tmp_path, "val", ()).records] == ["one"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "dev"}, "split: unknown 'dev'"),
        ({"labels": np.zeros((H, W + 1), np.uint8)}, r"labels are \(6, 9\), expected \(6, 8\)"),
        ({"labels": np.zeros((H, W), np.int64)}, "dtype is int64, expected uint8"),
        ({"rgb": np.zeros((H, W), np.uint8)}, r"expected \(H, W, 3\)"),
        ({"sensors": {}}, "sensors are none, expected lidar"),
        ({"sensors": {"lidar": np.zeros((5, 3))}}, r"points are \(5, 3\), expected \(N, 4\)"),
        ({"sensors": {"lidar": np.zeros((H, W, 1))}}, "dtype is float64, expected float32"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    writer = FolderWriter(tmp_path, CLASSES, {"lidar": "muses_raw"})
    arrays = frame(np.random.default_rng(3)) | {"sensors": {"lidar": np.zeros((5, 4))}}
    with pytest.raises(DataError, match=message):
        writer.add(**{"split": "val", "name": "one"} | arrays | change)


def test_what_could_not_be_read_back_is_refused(tmp_path: Path) -> None:
    thermal = {"thermal": "mono16"}
    with pytest.raises(DataError, match=r"meta\.json: limits: found None, expected finite counts"):
        FolderWriter(tmp_path, CLASSES, thermal)
    with pytest.raises(DataError, match=r"meta\.json: point_size: found 0, expected 1 to 31"):
        FolderWriter(tmp_path, CLASSES, {}, point_size=0)
    with pytest.raises(DataError, match=r"meta\.json: class ids are \[1\], expected 0, 1"):
        FolderWriter(tmp_path, CLASSES[1:], {})
    with pytest.raises(DataError, match=r"calib\.json: calib: key 'camera' is missing"):
        FolderWriter(tmp_path, CLASSES, {}, {"lidar": {"T_camera_lidar": np.eye(4)}})


def test_names_and_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"meta\.json: encodings: unknown 'radar'"):
        FolderWriter(tmp_path, CLASSES, {"radar": "png8"})
    with pytest.raises(DataError, match=r"encodings\.lidar: unknown 'raw'"):
        FolderWriter(tmp_path, CLASSES, {"lidar": "raw"})
    with pytest.raises(DataError, match=r"encodings: unknown 'camera'"):
        FolderWriter(tmp_path, CLASSES, {"camera": "rgb8"})
    writer = FolderWriter(tmp_path, CLASSES, {})
    writer.list_frame("train", "one")
    for name in ("", "/tmp/one", "../one", "one\0"):
        with pytest.raises(DataError, match=r"name: found .*, expected names of files"):
            writer.list_frame("train", name)
    with pytest.raises(DataError, match="one: found a second frame of this name"):
        writer.list_frame("val", "one")
