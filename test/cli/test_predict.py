# SPDX-License-Identifier: Apache-2.0
"""`mmsam predict` labels files as the segmenter labels a frame, and says what it did not use."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.trees import calibration, make_folder

from mmsam_ros.cli.main import main
from mmsam_ros.inference import Segmenter
from mmsam_ros.sensors import CameraModel, Frame, LidarPoints, Registration, SensorImage
from mmsam_ros.weights import default_weights

SIZE = (96, 128)
ENCODINGS = {"lidar": "muses_raw", "thermal": "frame_gain"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    sensors = ("lidar", "thermal")
    make_folder(root, sensors, encodings=ENCODINGS, size=SIZE, calibrated=True)
    return root


def predict(*words: object) -> int:
    return main(["predict", *map(str, words), "--device", "cpu"])


def labels(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image


def test_one_image_with_all_sensors(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, lidar, thermal = (
        folder / name for name in ("images/val_0001.png", "lidar/val_0001.npy",
                                   "thermal/val_0001.png")
    )  # fmt: skip
    words = ["--lidar", lidar, "--thermal", thermal, "--calib", folder / "calib.json"]
    assert predict(image, *words, "--out", tmp_path) == 0
    said = capsys.readouterr()
    assert f"{image}: camera + lidar + thermal\n" in said.out
    assert "not used" not in said.out
    assert "Evaluation only; do not use on a vehicle" in said.err

    points, calib = np.load(lidar), calibration(SIZE)
    camera = CameraModel.from_info(
        width=SIZE[1], height=SIZE[0], k=calib["camera"]["K"], d=[],  # type: ignore[index]
        distortion_model="plumb_bob", r=np.eye(3), p=np.zeros(12), binning_x=1, binning_y=1,
        roi=(0, 0, 0, 0), rectified=False,
    )  # fmt: skip
    pose = np.array(calib["lidar"]["T_camera_lidar"], np.float64)  # type: ignore[index]
    registration = Registration.from_homography([[2, 0, 0], [0, 2, 0], [0, 0, 1]])
    frame = Frame(
        labels(image)[..., ::-1],
        {
            "lidar": LidarPoints(points[:, :3], points[:, 3], pose),
            "thermal": SensorImage(labels(thermal), registration),
        },
        camera,
    )
    expected = Segmenter.load(default_weights(), "cpu")(frame).labels
    np.testing.assert_array_equal(labels(tmp_path / "val_0001_labels.png"), expected)
    assert labels(tmp_path / "val_0001_overlay.png").shape == (*SIZE, 3)
    share = 100 * np.bincount(expected.ravel()).max() / expected.size
    assert f" {share:.1f} %" in said.out


def test_directories(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sensor files go with images of the same name; weights that are named need no warning. The
    thermal images are warm at the top, and the weights know a cold sky.
    """
    (tmp_path / "thermal").mkdir()
    thermal = (folder / "thermal/val_0000.png").read_bytes()
    (tmp_path / "thermal/val_0000.png").write_bytes(thermal)
    cv2.imwrite(str(tmp_path / "thermal/val_0001.png"), np.full((48, 64), 7, np.uint16))
    words = [folder / "images", "--thermal", tmp_path / "thermal", "--event", folder / "lidar"]
    words += ["--weights", default_weights(), "--precision", "bf16", "--out", tmp_path / "out"]
    assert predict(*words) == 0
    said = capsys.readouterr()
    view, warning = said.err.splitlines()
    assert view.startswith("warning: thermal: an image of ")  # without --calib
    assert warning.startswith("warning: thermal value is ")
    assert "black-hot or upside down" in warning
    blocks = dict(block.split(": ", 1) for block in said.out.split(f"{folder}/images/")[1:])
    first, second, other = (blocks[f"{name}.png"] for name in ("val_0000", "val_0001", "test_0000"))
    assert first.startswith("camera + thermal\n")
    assert "event not used: these weights do not read it" in first
    assert "lidar not used: not given" in first
    assert second.startswith("camera\n")
    assert "thermal not used: the image has the same value everywhere" in second
    assert f"thermal not used: {tmp_path}/thermal has no file of this name" in other
    assert len(list((tmp_path / "out").iterdir())) == 16


@pytest.mark.parametrize("form", ["npz", "npy", "png"])
def test_lidar_rasters(
    folder: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    raster = np.zeros((*SIZE, 3))
    raster[::2, ::2] = 20.0, 8.0, -1.5
    path = tmp_path / f"raster.{form}"
    if form == "npz":
        np.savez(path, raster)
    elif form == "npy":
        np.save(path, raster)
    else:
        cv2.imwrite(str(path), ((raster[..., ::-1] + 100) * 150).astype(np.uint16))
    assert predict(folder / "images/val_0001.png", "--lidar", path, "--out", tmp_path) == 0
    assert "camera + lidar\n" in capsys.readouterr().out


def test_an_image_of_another_size_is_warned_of_unless_it_is_registered(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thermal = tmp_path / "thermal.png"
    cv2.imwrite(str(thermal), np.tile(np.arange(64, dtype=np.uint8), (48, 1)))
    words = ["--thermal", thermal, "--out", tmp_path / "out"]
    assert predict(folder / "images/val_0001.png", *words) == 0
    warned = (
        "warning: thermal: an image of 64x48 beside 128x96 is taken to show exactly the camera's"
    )
    assert warned in capsys.readouterr().err
    registered = ["--thermal", folder / "thermal/val_0001.png", "--calib", folder / "calib.json"]
    assert predict(folder / "images/val_0001.png", *registered, "--out", tmp_path / "out") == 0
    assert "exactly" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["images/none.png"], "none.png: no such file or directory"),
        (["meta.json"], "meta.json: found no image, expected .png, .jpg, .jpeg"),
        (["images/val_0000.png", "images/val_0000.png"], "two images have the same name"),
        (["images", "--lidar", "lidar/val_0000.npy"], "as there are several images"),
        (["images/val_0000.png", "--lidar", "lidar/none.npy"], "expected a file"),
        (
            ["images/val_0000.png", "--lidar", "lidar/val_0000.npy"],
            "points need lidar.T_camera_lidar in calib.json",
        ),
        (["images/val_0000.png", "--calib", "none.json"], "none.json: is missing"),
        (["images/val_0000.png", "--thermal", "meta.json"], "meta.json: is broken"),
        (["images/val_0000.png", "--weights", "meta.json"], "not a safetensors file"),
        (["images", "--out", "images"], "which holds the images; expected another folder"),
    ],
)
def test_what_cannot_be_read_is_named(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [word if word.startswith("--") else str(folder / word) for word in words]
    assert predict(*paths) == 2
    assert message in capsys.readouterr().err


def test_what_is_left_out_of_a_directory_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes((folder / "images/val_0000.png").read_bytes())
    for name in ("b.webp", "c.webp", "d.gif", ".e.webp"):
        (tmp_path / name).write_bytes(b"RIFF")
    assert predict(tmp_path, "--out", tmp_path / "out") == 0
    said = capsys.readouterr()
    assert f"warning: {tmp_path}: 3 files are left out (.gif, .webp), expected .png" in said.err
    assert "labels and overlays of 1 images" in said.out


def test_results_are_not_the_images_of_the_next_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `mmsam predict *.png --out .` would find them."""
    (tmp_path / "a.png").write_bytes((folder / "images/val_0000.png").read_bytes())
    assert predict(tmp_path / "a.png", "--out", tmp_path) == 0
    before = (tmp_path / "a_labels.png").read_bytes()
    assert predict(*sorted(tmp_path.iterdir()), "--out", tmp_path) == 2
    said = capsys.readouterr().err
    assert f"a_labels.png would be overwritten by the results of {tmp_path / 'a.png'}" in said
    assert (tmp_path / "a_labels.png").read_bytes() == before


def test_two_files_for_one_image_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in (".npy", ".npz", ".txt"):
        (tmp_path / f"val_0000{suffix}").touch()
    assert predict(folder / "images", "--lidar", tmp_path) == 2
    said = capsys.readouterr().err
    assert "found two files of the same name, val_0000.npy and val_0000.npz" in said


def test_files_as_other_systems_name_them(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Suffixes in capitals count, macOS's ._ files do not."""
    for top in ("images", "thermal"):
        (tmp_path / top).mkdir()
        content = (folder / top / "val_0000.png").read_bytes()
        (tmp_path / top / "val_0000.PNG").write_bytes(content)
        (tmp_path / top / "._val_0000.PNG").write_bytes(b"\0")
    words = [tmp_path / "images", "--thermal", tmp_path / "thermal", "--out", tmp_path / "out"]
    assert predict(*words) == 0
    assert "val_0000.PNG: camera + thermal\n" in capsys.readouterr().out


def test_a_calibration_that_no_sensor_needs_does_no_harm(folder: Path, tmp_path: Path) -> None:
    image = cv2.imread(str(folder / "images/val_0000.png"))
    small = tmp_path / "small.png"
    cv2.imwrite(str(small), image[:32])
    assert predict(small, "--calib", folder / "calib.json", "--out", tmp_path) == 0
    assert labels(tmp_path / "small_labels.png").shape == (32, image.shape[1])
