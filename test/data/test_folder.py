# SPDX-License-Identifier: Apache-2.0
"""Data of one's own: every form of every sensor, and what meta.json and calib.json must hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from support.trees import FOLDER_CLASSES, make_folder, stored

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.open import known_sources, open_frames
from mmsam_ros.sensors import scale_thermal

# x forward, y left, z up to x right, y down, z forward
TURNED = [[0, -1, 0, 0], [0, 0, -1, 0.2], [1, 0, 0, 0], [0, 0, 0, 1]]
SCALED = [[0, -1e3, 0, 0], [0, 0, -1e3, 200], [1e3, 0, 0, 0], [0, 0, 0, 1]]


def edit(path: Path, *keys: str, value: Any) -> None:
    """Sets one key of a JSON file; value None removes it."""
    document = json.loads(path.read_text())
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    if value is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    path.write_text(json.dumps(document))


def test_what_a_folder_holds(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("lidar", "thermal", "event", "depth"))
    assert known_sources("folder", root) == ("lidar", "thermal", "event", "depth")
    frames = open_frames("folder", root, "train", ("lidar", "thermal", "event", "depth"))
    assert [record.name for record in frames.records] == [f"train_{i:04d}" for i in range(4)]
    assert [record.subsets["weather"] for record in frames.records] == ["clear", "fog"] * 2
    assert frames.limits == (26000.0, 31500.0)
    names = [(info.name, info.rgb) for info in FOLDER_CLASSES]
    assert [(info.name, info.rgb) for info in frames.classes] == names
    sample = frames[0]
    assert {s: tuple(image.shape) for s, image in sample["sources"].items()} == {
        "lidar": (3, 64, 96), "thermal": (1, 64, 96), "event": (3, 64, 96), "depth": (3, 64, 96),
    }  # fmt: skip
    box = sample["label"] == 2
    assert sample["sources"]["thermal"][0, box].unique().tolist() == [29500]
    assert sample["sources"]["event"][:, box].unique(dim=1).flatten().tolist() == [2, 1, 0]
    assert sample["sources"]["lidar"][0, box].unique().tolist() == [0, 25]
    assert set(sample["label"].unique().tolist()) == {0, 1, 2, 3, 255}


def test_only_what_is_asked_for_is_opened(tmp_path: Path) -> None:
    frames = open_frames("folder", make_folder(tmp_path), "val", ("lidar",))
    assert dict(frames.encodings) == {"lidar": "muses_raw"}
    assert frames.limits is None


def test_rasters_as_png(tmp_path: Path) -> None:
    one = make_folder(tmp_path / "a", ("lidar",))
    two = make_folder(tmp_path / "b", ("lidar",), encodings={"lidar": "muses_png16"})
    a, b = (open_frames("folder", root, "val", ("lidar",))[0]["sources"] for root in (one, two))
    torch.testing.assert_close(a["lidar"], b["lidar"], atol=1 / 150, rtol=0)


def test_points_are_projected(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("lidar",), calibrated=True)
    edit(root / "meta.json", "growth", value=1)
    lidar = open_frames("folder", root, "val", ("lidar",))[0]["sources"]["lidar"]
    assert lidar.shape == (3, 64, 96)
    assert torch.equal(lidar[0] > 0, (torch.arange(64)[:, None] | torch.arange(96)) % 2 == 0)
    x, y, z, intensity = np.load(root / "lidar/val_0000.npy").T.reshape(4, 32, 48)
    expected = np.stack([np.sqrt(x**2 + y**2 + z**2), intensity, z])
    np.testing.assert_allclose(lidar[:, ::2, ::2], expected, rtol=1e-5, atol=1e-5)
    edit(root / "meta.json", "growth", value=2)
    grown = open_frames("folder", root, "val", ("lidar",))[0]["sources"]["lidar"]
    assert (grown[0] > 0).all()


def test_thermal_is_registered(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("thermal",), calibrated=True)
    frames = open_frames("folder", root, "val", ("thermal",))
    aligned = open_frames("folder", make_folder(tmp_path / "a", ("thermal",)), "val", ("thermal",))
    one, two = (f[0]["sources"]["thermal"] for f in (frames, aligned))
    assert one.shape == (1, 64, 96)
    assert (one == two).float().mean() > 0.8  # all but the regions' borders
    # half an image further to the right, the left half of the view is not seen
    edit(root / "calib.json", "thermal", "homography", value=[[2, 0, 48], [0, 2, 0], [0, 0, 1]])
    shifted = open_frames("folder", root, "val", ("thermal",))[0]["sources"]["thermal"]
    assert (shifted[0, :, :48] == 0).all()
    assert torch.equal(shifted[0, :, 48:], one[0, :, :48])


def test_thermal_by_rotation_and_its_size(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("thermal",), calibrated=True)
    by_homography = open_frames("folder", root, "val", ("thermal",))[0]["sources"]["thermal"]
    K = [[48, 0, 24], [0, 48, 16], [0, 0, 1]]
    given = {"width": 48, "height": 32, "K": K, "R_camera_thermal": np.eye(3).tolist()}
    edit(root / "calib.json", "thermal", value=given)
    by_rotation = open_frames("folder", root, "val", ("thermal",))[0]["sources"]["thermal"]
    torch.testing.assert_close(by_rotation, by_homography)
    edit(root / "calib.json", "thermal", "width", value=50)
    with pytest.raises(DataError, match=r"is 48x32, but calib.json's thermal camera is 50x32"):
        open_frames("folder", root, "val", ("thermal",))[0]


def test_frame_gain_is_of_the_whole_frame(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("thermal",), encodings={"thermal": "frame_gain"})
    thermal = open_frames("folder", root, "val", ("thermal",))[0]["sources"]["thermal"]
    whole = stored(root / "thermal/val_0000.png")
    np.testing.assert_array_equal(thermal[0], scale_thermal(whole, "frame_gain", None))


def test_images_may_be_jpeg(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ())
    png = root / "images/val_0000.png"
    image = stored(png)
    png.unlink()
    cv2.imwrite(str(png.with_suffix(".jpg")), image)
    frames = open_frames("folder", root, "val", ())
    rgb = frames[0]["rgb"].float()
    expected = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float()
    assert (rgb - expected).abs().mean() < 12
    data = frames.records[0].image.read_bytes()
    frames.records[0].image.write_bytes(data[: len(data) * 2 // 3])  # OpenCV 4 fills it up in grey
    with pytest.raises(DataError, match=r"val_0000.jpg: is broken"):
        frames[0]
    png.touch()
    with pytest.raises(DataError, match=r"val_0000.png and val_0000.jpg are both there"):
        open_frames("folder", root, "val", ())


def test_missing_files(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    for path in (root / "labels").glob("test_*.png"):
        path.unlink()
    assert "label" not in open_frames("folder", root, "test", ())[0]
    (root / "labels/val_0001.png").unlink()
    with pytest.raises(DataError, match=r"labels/val_0001.png: is missing"):
        open_frames("folder", root, "val", ())
    (root / "lidar/train_0002.npz").unlink()
    with pytest.raises(DataError, match=r"lidar/train_0002.npz: is missing"):
        open_frames("folder", root, "train", ("lidar",))


def test_sizes_must_agree(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("lidar", "thermal"), calibrated=True)
    cv2.imwrite(str(root / "images/val_0000.png"), np.zeros((60, 96, 3), np.uint8))
    cv2.imwrite(str(root / "labels/val_0000.png"), np.zeros((60, 96), np.uint8))
    for source in ("lidar", "thermal"):
        with pytest.raises(DataError, match=r"image is 96x60, but calib.json's camera is 96x64"):
            open_frames("folder", root, "val", (source,))[0]
    (root / "calib.json").unlink()
    with pytest.raises(DataError, match=r"val_0001.png: is 48x32, but .*val_0001.png is 96x64"):
        open_frames("folder", root, "val", ("thermal",))[1]
    with pytest.raises(DataError, match=r"points need lidar.T_camera_lidar in calib.json"):
        open_frames("folder", root, "val", ("lidar",))[0]


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("clases",), [], "meta.json: unknown 'clases'; did you mean 'classes'"),
        (("classes",), None, "key 'classes' is missing"),
        (("format",), "mmsam-folder/2", "format is 'mmsam-folder/2', expected 'mmsam-folder/1'"),
        (("encodings", "lidr"), "png8", "encodings: unknown 'lidr'; did you mean 'lidar'"),
        (("encodings", "thermal"), "mono61", "encodings.thermal: unknown 'mono61'; did you mean"),
        (("encodings", "thermal"), "mono8", r"limits is \[26000, 31500\]: .* expected none"),
        (("limits",), None, "limits is None: .*expected"),
        (("limits",), [31500, 26000], "expected finite low < high"),
        (("limits",), [26000], r"limits is \[26000\]"),
        (("splits", "training"), [], "splits: unknown 'training'; did you mean 'train'"),
        (("splits", "val"), ["train_0000"], "'train_0000' is in train and in val"),
        (("subsets", "weather", "vall_0000"), "fog", "subsets.weather: unknown 'vall_0000'; did"),
        (("splits", "val"), [7], r"splits.val is \[7\], expected a list of names"),
        (("subsets",), [], "subsets: found list, expected an object"),
        (("growth",), 0, "growth is 0, expected a whole number"),
        (("growth",), 1000, "growth is 1000, expected a whole number of 1 to 31"),
        (("encodings", "lidar"), 3, "encodings.lidar: found 3, expected one of"),
        (("classes",), [{"id": 1, "name": "road", "rgb": [0, 0, 0]}], r"class ids are \[1\]"),
        (("classes",), [{"id": 0, "nam": "road", "rgb": [0, 0, 0]}], "unknown 'nam'; did you"),
        (("classes",), [{"id": 0, "name": "road", "rgb": [0, 0]}], "classes: .*rgb is"),
        (("classes",), [{"id": 0, "name": "road", "rgb": [0.0, 0, 0]}], "three whole numbers"),
        (("classes",), [{"id": 0.0, "name": "road", "rgb": [0, 0, 0]}], "id is 0.0, expected"),
        (("classes",), [{"id": 0, "name": 5, "rgb": [0, 0, 0]}], "name is 5, expected"),
    ],
)
def test_meta_is_strict(tmp_path: Path, keys: tuple[str, ...], value: Any, message: str) -> None:
    root = make_folder(tmp_path, per_split={"train": 1, "val": 1})
    edit(root / "meta.json", *keys, value=value)
    with pytest.raises(DataError, match=message) as caught:
        open_frames("folder", root, "val", ("lidar", "thermal"))
    assert str(root / "meta.json") in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("camra",), {}, "calib.json: unknown 'camra'; did you mean 'camera'"),
        (("camera", "model"), None, "camera: key 'model' is missing"),
        (("camera", "model"), "pinhole", "distortion_model is 'pinhole', expected one of"),
        (("camera", "K"), [[0] * 3] * 3, "CameraInfo.k is"),
        (("camera", "width"), 96.0, "CameraInfo.width is 96.0, expected a whole number"),
        (("camera", "height"), "64", "CameraInfo.height is '64', expected a whole number"),
        (("lidar",), {"T": []}, "lidar: unknown 'T'"),
        (("lidar", "T_camera_lidar"), [[1, 0], [0]], r"T_camera_lidar is \[\[1, 0\], \[0\]\], exp"),
        (("lidar", "T_camera_lidar"), TURNED[:3], r"T_camera_lidar has shape \(3, 4\), expected"),
        (
            ("lidar", "T_camera_lidar"),
            np.transpose(TURNED).tolist(),
            "expected finite values, last row 0 0 0 1",
        ),
        (("lidar", "T_camera_lidar"), SCALED, "rotation of lidar.T_camera_lidar is .* a rotation"),
        (("thermal", "homography"), [[0] * 3] * 3, "homography is"),
        (("thermal",), {"width": 48}, "thermal: key 'height' is missing"),
    ],
)
def test_calib_is_strict(tmp_path: Path, keys: tuple[str, ...], value: Any, message: str) -> None:
    root = make_folder(tmp_path, per_split={"val": 1}, calibrated=True)
    if keys == ("camera", "model") and value == "pinhole":
        edit(root / "calib.json", "camera", "D", value=[0.1, 0, 0, 0, 0])
    edit(root / "calib.json", *keys, value=value)
    with pytest.raises(DataError, match=message) as caught:
        open_frames("folder", root, "val", ("lidar",))
    assert str(root / "calib.json") in str(caught.value)


def test_points_must_be_numbers(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("lidar",), per_split={"val": 1}, calibrated=True)
    np.save(root / "lidar/val_0000.npy", np.full((3, 4), "1.0"))
    (root / "lidar/val_0000.npz").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"val_0000.npy: points are <U3 \(3, 4\), expected numbers"):
        open_frames("folder", root, "val", ("lidar",))[0]


def test_no_json_and_unknown_sources(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"meta.json: .*No such file"):
        open_frames("folder", tmp_path, "val", ())
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(DataError, match=r"meta.json: "):
        open_frames("folder", tmp_path, "val", ())
    root = make_folder(tmp_path, ("lidar",))
    with pytest.raises(DataError, match=r"encodings: unknown 'thermal'; known: lidar"):
        open_frames("folder", root, "val", ("thermal",))
