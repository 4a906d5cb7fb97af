# SPDX-License-Identifier: Apache-2.0
"""Data of one's own that is refused: files, meta.json and calib.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.trees import edit, make_folder, stored

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.open import open_frames
from mmsam_ros.data.read import read_sensor
from mmsam_ros.sensors import SensorImage

# x forward, y left, z up to x right, y down, z forward
TURNED = [[0, -1, 0, 0], [0, 0, -1, 0.2], [1, 0, 0, 0], [0, 0, 0, 1]]
SCALED = [[0, -1e3, 0, 0], [0, 0, -1e3, 200], [1e3, 0, 0, 0], [0, 0, 0, 1]]
EYE = np.eye(3).tolist()
ROTATED = {"width": 48, "height": 32, "K": EYE, "R_camera_thermal": EYE}


def test_missing_files(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    for path in (root / "labels").glob("test_*.png"):
        path.unlink()
    assert open_frames("folder", root, "test", ())[0].label is None
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
    for sensor in ("lidar", "thermal"):
        with pytest.raises(
            DataError, match=r"calib.json: camera is 96x64, but .*images/val_0000.png is 96x60"
        ):
            open_frames("folder", root, "val", (sensor,))[0]
    (root / "calib.json").unlink()
    with pytest.raises(DataError, match=r"val_0001.png: is 48x32, but .*val_0001.png is 96x64"):
        open_frames("folder", root, "val", ("thermal",))[1]
    with pytest.raises(DataError, match=r"points need lidar.T_camera_lidar in calib.json"):
        open_frames("folder", root, "val", ("lidar",))[0]


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("clases",), [], "unknown key 'clases'; did you mean 'classes'"),
        (("classes",), None, "key 'classes' is missing"),
        (("format",), "mmsam-folder/2", "format: found 'mmsam-folder/2', .*'mmsam-folder/1'"),
        (("encodings", "lidr"), "png8", "encodings: unknown 'lidr'; did you mean 'lidar'"),
        (("encodings", "thermal"), "mono61", "encodings.thermal: unknown 'mono61'; did you mean"),
        (("encodings", "thermal"), "mono8", r"found \(26000.0, 31500.0\) for mono8, .*none"),
        (("limits",), None, "limits: found None, expected finite counts"),
        (("encodings", "thermal"), None, "limits: found .*, expected none: there is no thermal"),
        (("limits",), [31500, 26000], r"limits: found \(31500.0, 26000.0\), .* low < high"),
        (("limits",), [26000], r"limits: found 1 values, expected 2"),
        (("limits",), ["26000", 31500], r"limits\[0\]: found '26000', expected float"),
        (("splits", "training"), [], "splits: unknown 'training'; did you mean 'train'"),
        (("splits", "val"), ["train_0000"], "'train_0000' is in train and in val"),
        (("splits", "val"), ["val_0000", "val_0000"], "'val_0000' is in val and in val"),
        (("subsets", "weather", "vall_0000"), "fog", "subsets.weather: unknown 'vall_0000'; did"),
        (("subsets", "weather", "val_0000"), 5, "subsets.weather.val_0000: found 5, expected str"),
        (("splits", "val"), [7], r"splits.val\[0\]: found 7, expected str"),
        (("splits", "val"), "val_0000", "splits.val: found 'val_0000', expected a list"),
        (("subsets",), [], r"subsets: found \[\], expected keys with values"),
        (("point_size",), 0, "point_size: found 0, expected 1 to 31"),
        (("point_size",), 1000, "point_size: found 1000, expected 1 to 31"),
        (("point_size",), 1.5, "point_size: found 1.5, expected int"),
        (("growth",), 3, "found growth and point_size, expected point_size alone"),
        (("encodings", "lidar"), 3, "encodings.lidar: found 3, expected"),
        (("classes",), [{"id": 1, "name": "road", "rgb": [0, 0, 0]}], r"class ids are \[1\]"),
        (("classes",), [], r"class ids are \[\], expected 0, 1, 2"),
        (("classes",), ["road"], r"classes\[0\]: found 'road', expected keys with values"),
        (("classes",), [{"id": 0, "nam": "road", "rgb": [0, 0, 0]}], "unknown key 'nam'; did you"),
        (("classes",), [{"id": 0, "name": "road", "rgb": [0, 0]}], "rgb: found 2 values"),
        (("classes",), [{"id": 0, "name": "road", "rgb": [0, 0, 256]}], "numbers in 0..255"),
        (("classes",), [{"id": 0, "name": "road", "rgb": [0.0, 0, 0]}], r"rgb\[0\]: found 0.0"),
        (("classes",), [{"id": 0.0, "name": "road", "rgb": [0, 0, 0]}], "id: found 0.0, expected"),
        (("classes",), [{"id": 0, "name": 5, "rgb": [0, 0, 0]}], "name: found 5, expected"),
        (("classes",), [{"id": 0, "name": "5", "rgb": [0, 0, 0]}], "name is '5', expected"),
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
        (("camra",), {}, "unknown key 'camra'; did you mean 'camera'"),
        (("camera",), None, "key 'camera' is missing"),
        (("camera",), [1], r"camera: found \[1\], expected keys with values"),
        (("camera", "model"), None, "camera: key 'model' is missing"),
        (("camera", "modl"), "none", "camera: unknown key 'modl'; did you mean 'model'"),
        (("camera", "model"), "pinhole", "distortion_model is 'pinhole', expected one of"),
        (("camera", "K"), [[0] * 3] * 3, "CameraInfo.k is"),
        (("camera", "K"), [1, 2], "CameraInfo.k has 2 values, expected 9"),
        (("camera", "K"), [10**400] * 9, "int too large to convert to float"),
        (("camera", "width"), 96.0, "camera.width: found 96.0, expected int"),
        (("camera", "width"), 0, "CameraInfo.width is 0, expected"),
        (("camera", "height"), "64", "camera.height: found '64', expected int"),
        (("lidar",), {"T": []}, "lidar: unknown key 'T'"),
        (("lidar", "T_camera_lidar"), [[1, 0], [0]], r"T_camera_lidar is \[\[1, 0\], \[0\]\], exp"),
        (("lidar", "T_camera_lidar"), TURNED[:3], r"T_camera_lidar is .* finite \(4, 4\)"),
        (
            ("lidar", "T_camera_lidar"),
            np.transpose(TURNED).tolist(),
            "lidar.T_camera_lidar is .*, expected the last row 0 0 0 1",
        ),
        (("lidar", "T_camera_lidar"), SCALED, "rotation of lidar.T_camera_lidar is .* a rotation"),
        (("thermal", "homography"), [[0] * 3] * 3, "homography is"),
        (("thermal", "homography"), [[1, 0], [0]], r"homography is \[\[1, 0\], \[0\]\], expected"),
        (("thermal", "width"), 48, "thermal: found homography, width, expected homography, or"),
        (("thermal",), {"width": 48}, "thermal: found width, expected homography, or width, hei"),
        (("thermal",), {}, "thermal: found nothing, expected homography"),
        (("thermal",), {**ROTATED, "width": 0}, "thermal.width is 0, expected"),
        (("thermal",), {**ROTATED, "K": [[1]]}, "K_thermal is"),
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


def test_broken_arrays_are_named_whatever_numpy_raises(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("lidar",), per_split={"val": 1})
    path = root / "lidar/val_0000.npz"
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 10] = 99  # a compression that zipfile does not know
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"val_0000.npz: is broken, expected an array"):
        open_frames("folder", root, "val", ("lidar",))[0]
    path.unlink()
    header = b"{'descr': ('<f4',".ljust(118) + b"\n"
    path.with_suffix(".npy").write_bytes(b"\x93NUMPY\x01\x00" + bytes([119, 0]) + header)
    with pytest.raises(DataError, match=r"val_0000.npy: is broken, expected an array"):
        open_frames("folder", root, "val", ("lidar",))[0]


def test_arrays_of_other_shapes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "image.npy"
    for shape in ((), (3,), (4, 6, 0), (1, 4, 6, 3)):
        np.save(path, np.zeros(shape, np.uint8))
        for sensor, encoding in (("depth", "png8"), ("thermal", "mono8"), ("lidar", "muses_raw")):
            with pytest.raises(DataError, match=str(path)):
                read_sensor(sensor, path, encoding, None)
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)
    np.save(path, image)
    thermal = read_sensor("thermal", path, "mono8", None)
    assert isinstance(thermal, SensorImage)
    np.testing.assert_array_equal(thermal.data, image)  # two axes are points of LiDAR alone


def test_no_json_and_unknown_sensors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"meta.json: is missing"):
        open_frames("folder", tmp_path, "val", ())
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(DataError, match=r"meta.json: "):
        open_frames("folder", tmp_path, "val", ())
    root = make_folder(tmp_path, ("lidar",))
    with pytest.raises(DataError, match=r"sensors of folder: unknown 'thermal'; known: lidar"):
        open_frames("folder", root, "val", ("thermal",))


@pytest.mark.parametrize(
    ("sensor", "encoding", "message"),
    [
        ("lidar", "muses_raw", "height beyond their range, expected .* range, intensity, height"),
        ("lidar", "muses_png16", "height beyond their range.*as BGR"),
        ("event", "event_counts", "third channel has values to 3, not 0, expected .* positive"),
    ],
)
def test_channels_in_the_order_of_opencv_are_refused(
    tmp_path: Path, sensor: str, encoding: str, message: str
) -> None:
    root = make_folder(tmp_path, (sensor,), encodings={sensor: encoding})
    (path,) = (root / sensor).glob("train_0000.*")
    if path.suffix == ".png":
        cv2.imwrite(str(path), stored(path)[..., ::-1])
    else:
        np.savez(path, np.load(path)["arr_0"][..., ::-1])
    frames = open_frames("folder", root, "train", (sensor,))
    with pytest.raises(DataError, match=rf"{path.name}: {encoding} image: .*{message}"):
        frames[0]
    frames[1]


def test_a_homography_is_for_thermal_images_of_one_size(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("thermal",), calibrated=True)
    path = root / "thermal/val_0001.png"
    cv2.imwrite(str(path), stored(path)[::2, ::2])
    frames = open_frames("folder", root, "val", ("thermal",))
    frames[0]
    text = r"val_0001.png: is 24x16, but .* camera is 48x32, as .*train_0000.png is"
    with pytest.raises(DataError, match=text):
        frames[1]


def test_a_name_spelt_in_two_ways_is_one_frame(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ())
    edit(root / "meta.json", "subsets", value={})
    splits = {"train": ["caf\u00e9"], "val": ["cafe\u0301"]}
    edit(root / "meta.json", "splits", value=splits)
    with pytest.raises(DataError, match=r"meta.json: .* is in train and in val"):
        open_frames("folder", root, "train", ())


def test_labels_that_say_nothing_are_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ())
    for path in (root / "labels").glob("val_*"):
        cv2.imwrite(str(path), np.full((64, 96), 255, np.uint8))
    open_frames("folder", root, "train", ())
    text = r"val_0000.png: no pixel of the split 'val' has a label.* all are 255, expected ids"
    with pytest.raises(DataError, match=text):
        open_frames("folder", root, "val", ())
