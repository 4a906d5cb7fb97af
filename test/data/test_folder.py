# SPDX-License-Identifier: Apache-2.0
"""Data of one's own: every form of every sensor."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.trees import FOLDER_CLASSES, edit, make_folder, sample, stored

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.open import find_benchmark, open_frames
from mmsam_ros.sensors import LidarPoints, SensorImage, scale_thermal

EYE = np.eye(3).tolist()


def test_what_a_folder_holds(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("lidar", "thermal", "event", "depth"))
    sensors = ("lidar", "thermal", "event", "depth")
    assert find_benchmark("folder").known_sensors(root) == sensors
    frames = open_frames("folder", root, "train", sensors)
    assert [record.name for record in frames.records] == [f"train_{i:04d}" for i in range(4)]
    assert [record.subsets["weather"] for record in frames.records] == ["clear", "fog"] * 2
    assert frames.modalities["thermal"].limits == (26000.0, 31500.0)
    names = [(info.name, info.rgb) for info in FOLDER_CLASSES]
    assert [(info.name, info.rgb) for info in frames.classes] == names
    found = sample(frames)
    assert {s: tuple(image.shape) for s, image in found["planes"].items()} == {
        "lidar": (3, 64, 96), "thermal": (1, 64, 96), "event": (3, 64, 96), "depth": (3, 64, 96),
    }  # fmt: skip
    box = found["label"] == 2
    scaled = found["planes"]["thermal"][0, box]
    assert scaled.numpy() == pytest.approx(255 * (29500 - 26000) / (31500 - 26000))
    assert found["planes"]["event"][:, box].unique(dim=1).flatten().tolist() == [2, 1, 0]
    assert found["planes"]["lidar"][0, box].unique().tolist() == [0, 25]
    assert set(found["label"].unique().tolist()) == {0, 1, 2, 3, 255}


def test_only_what_is_asked_for_is_opened(tmp_path: Path) -> None:
    frames = open_frames("folder", make_folder(tmp_path), "val", ("lidar",))
    assert {s: modality.encoding for s, modality in frames.modalities.items()} == {
        "lidar": "muses_raw"
    }
    assert set(frames[0].frame.sensors) == set(frames.records[0].sensors) == {"lidar"}


def test_frames_hold_what_the_sensors_measured(tmp_path: Path) -> None:
    """Points stay points and thermal its own size, for what is made of them to be chosen later."""
    root = make_folder(tmp_path, ("lidar", "thermal"), calibrated=True)
    frames = open_frames("folder", root, "val", ("lidar", "thermal"))
    item = frames[0]
    assert (item.record, item.frame.size) == (frames.records[0], (64, 96))
    lidar, thermal = item.frame.sensors["lidar"], item.frame.sensors["thermal"]
    assert isinstance(lidar, LidarPoints)
    assert isinstance(thermal, SensorImage)
    np.testing.assert_array_equal(
        np.column_stack([lidar.xyz, lidar.intensity]), np.load(root / "lidar/val_0000.npy")
    )
    calib = json.loads((root / "calib.json").read_text())
    assert lidar.T_camera_lidar.tolist() == calib["lidar"]["T_camera_lidar"]
    np.testing.assert_array_equal(thermal.data, stored(root / "thermal/val_0000.png"))
    assert thermal.data.dtype == np.uint16
    assert item.frame.camera is not None
    (root / "calib.json").unlink()
    bare = open_frames("folder", root, "val", ())
    assert (bare.calibration, bare[0].frame.camera) == (None, None)


def test_rasters_as_png(tmp_path: Path) -> None:
    one = make_folder(tmp_path / "a", ("lidar",))
    two = make_folder(tmp_path / "b", ("lidar",), encodings={"lidar": "muses_png16"})
    a, b = (sample(open_frames("folder", root, "val", ("lidar",)))["planes"] for root in (one, two))
    torch.testing.assert_close(a["lidar"], b["lidar"], atol=1 / 150, rtol=0)


def test_rasters_as_npy(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("lidar",))
    before = lidar_of(root)
    path = root / "lidar/val_0000.npz"
    np.save(path.with_suffix(".npy"), np.load(path)["arr_0"])
    path.unlink()
    assert torch.equal(lidar_of(root), before)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("sensor", ["thermal", "depth", "event"])
def test_images_as_arrays(tmp_path: Path, sensor: str, suffix: str) -> None:
    root = make_folder(tmp_path, (sensor,), encodings={"event": "png8"}, per_split={"val": 1})
    before = sample(open_frames("folder", root, "val", (sensor,)))["planes"][sensor]
    path = root / sensor / "val_0000.png"
    array = stored(path)
    array = array[..., ::-1] if array.ndim == 3 else array  # stored is BGR
    path.unlink()
    (np.save if suffix == ".npy" else np.savez)(path.with_suffix(suffix), array)
    found = sample(open_frames("folder", root, "val", (sensor,)))["planes"][sensor]
    assert torch.equal(found, before)


def test_classes_in_any_order(tmp_path: Path) -> None:
    root = make_folder(tmp_path, (), per_split={"val": 1})
    expected = open_frames("folder", root, "val", ()).classes
    document = json.loads((root / "meta.json").read_text())
    edit(root / "meta.json", "classes", value=document["classes"][::-1])
    assert open_frames("folder", root, "val", ()).classes == expected


def lidar_of(root: Path) -> torch.Tensor:
    return sample(open_frames("folder", root, "val", ("lidar",)))["planes"]["lidar"]


def thermal_of(root: Path) -> torch.Tensor:
    return sample(open_frames("folder", root, "val", ("thermal",)))["planes"]["thermal"]


def test_points_are_projected(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("lidar",), calibrated=True)
    edit(root / "meta.json", "point_size", value=1)
    lidar = lidar_of(root)
    assert lidar.shape == (3, 64, 96)
    assert torch.equal(lidar[0] > 0, (torch.arange(64)[:, None] | torch.arange(96)) % 2 == 0)
    x, y, z, intensity = np.load(root / "lidar/val_0000.npy").T.reshape(4, 32, 48)
    expected = np.stack([np.sqrt(x**2 + y**2 + z**2), intensity, z])
    np.testing.assert_allclose(lidar[:, ::2, ::2], expected, rtol=1e-5, atol=1e-5)
    edit(root / "meta.json", "point_size", value=2)
    assert (lidar_of(root)[0] > 0).all()


def test_points_cover_two_by_two_pixels_unless_asked(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("lidar",), calibrated=True)
    two = lidar_of(root)
    for key, value in (("point_size", 2), ("growth", 2)):  # "growth" is the key of earlier files
        edit(root / "meta.json", key, value=value)
        frames = open_frames("folder", root, "val", ("lidar",))
        assert frames.modalities["lidar"].point_size == 2
        assert torch.equal(sample(frames)["planes"]["lidar"], two)
        edit(root / "meta.json", key, value=None)
    edit(root / "meta.json", "growth", value=3)
    frames = open_frames("folder", root, "val", ("lidar",))
    assert frames.modalities["lidar"].point_size == 3


def test_thermal_is_registered(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("thermal",), calibrated=True)
    one, two = thermal_of(root), thermal_of(make_folder(tmp_path / "a", ("thermal",)))
    assert one.shape == (1, 64, 96)
    same = (one - two).abs() < 1e-3
    assert same.float().mean() > 0.8  # all but the regions' borders
    # half an image further to the right, the left half of the view is not seen
    edit(root / "calib.json", "thermal", "homography", value=[[2, 0, 48], [0, 2, 0], [0, 0, 1]])
    shifted = thermal_of(root)
    assert (shifted[0, :, :48] == 0).all()
    # centres fall on quarters of a thermal pixel: no version of OpenCV rounds them
    torch.testing.assert_close(shifted[0, :, 48:], one[0, :, :48], atol=1e-3, rtol=0)


def test_thermal_by_rotation_and_its_size(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("thermal",), calibrated=True)
    by_homography = thermal_of(root)
    K = [[48, 0, 24], [0, 48, 16], [0, 0, 1]]
    given = {"width": 48, "height": 32, "K": K, "R_camera_thermal": EYE}
    edit(root / "calib.json", "thermal", value=given)
    torch.testing.assert_close(thermal_of(root), by_homography, atol=1e-3, rtol=0)
    edit(root / "calib.json", "thermal", "width", value=50)
    frames = open_frames("folder", root, "val", ("thermal",))
    with pytest.raises(DataError, match=r"val_0000.png: is 48x32, but .* thermal camera is 50x32"):
        frames[0]


def test_frame_gain_is_of_the_whole_frame(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("thermal",), encodings={"thermal": "frame_gain"})
    whole = stored(root / "thermal/val_0000.png")
    np.testing.assert_array_equal(thermal_of(root)[0], scale_thermal(whole, "frame_gain"))


def test_images_may_be_jpeg(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ())
    png = root / "images/val_0000.png"
    image = stored(png)
    png.unlink()
    cv2.imwrite(str(png.with_suffix(".jpg")), image)
    frames = open_frames("folder", root, "val", ())
    rgb = sample(frames)["rgb"].float()
    expected = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float()
    assert (rgb - expected).abs().mean() < 12
    data = frames.records[0].image.read_bytes()
    frames.records[0].image.write_bytes(data[: len(data) * 2 // 3])  # OpenCV 4 fills it up in grey
    with pytest.raises(DataError, match=r"val_0000.jpg: is broken"):
        frames[0]
    png.touch()
    with pytest.raises(DataError, match=r"val_0000.png and val_0000.jpg are both there"):
        open_frames("folder", root, "val", ())
