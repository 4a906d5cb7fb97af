# SPDX-License-Identifier: Apache-2.0
"""CameraInfo as drivers, calibrators and converters write it: spelling, contradictions, doubts."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.read import Calibration
from mmsam_ros.ros.bags import read_parameters
from mmsam_ros.ros.calibration import CameraInfos, camera_doubts, camera_model
from mmsam_ros.ros.clouds import cloud_points
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.notes import Notes
from mmsam_ros.ros.recording import Recording
from mmsam_ros.sensors import CameraModel, SensorError, pose_matrix, project

K = np.array([[410.0, 0, 322.5], [0, 405.0, 236.0], [0, 0, 1]])
TAIL = [0.0] * 9
RADIAL = [-0.31, 0.12, 0.0011, -0.0007, -0.021]
RATIONAL = [0.35, -0.06, 0.0004, -0.0003, 0.011, 0.71, 0.02, 0.003]
PRISM = [0.002, -0.001, 0.003, 0.0007]
FISHEYE = [-0.03, 0.012, -0.006, 0.0009]


def projection(matrix: np.ndarray = K, column: tuple[float, ...] = (0.0, 0.0, 0.0)) -> list[float]:
    return np.column_stack([matrix, column]).ravel().tolist()


def fields(**changes: Any) -> dict[str, Any]:
    """A consistent 640x480 camera without distortion."""
    values: dict[str, Any] = {
        "width": 640, "height": 480, "k": K.ravel(), "d": [], "distortion_model": "plumb_bob",
        "r": np.eye(3).ravel(), "p": projection(),
    }  # fmt: skip
    return values | changes


def message(frame: str = "camera", **changes: Any) -> SimpleNamespace:
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    header = SimpleNamespace(frame_id=frame)
    return SimpleNamespace(**fields(**changes), header=header, binning_x=0, binning_y=0, roi=roi)


def scaled(factor: float) -> np.ndarray:
    return np.diag([factor, factor, 1.0]) @ K


def moved(x: float, y: float) -> np.ndarray:
    return np.array([[410.0, 0, 322.5 + x], [0, 405.0, 236.0 + y], [0, 0, 1]])


POINTS = np.random.default_rng(0).uniform((-3, -2, 4), (3, 2, 9), (500, 3))


@pytest.mark.parametrize("model", ["plumb_bob", "rational_polynomial", "radtan", "Plumb Bob"])
@pytest.mark.parametrize(
    "d",
    [
        RADIAL[:4],
        RADIAL,
        RADIAL + TAIL[:3],
        RADIAL + TAIL[:7],
        RADIAL + TAIL,
        RATIONAL,
        RATIONAL + TAIL[:4],
        RATIONAL + TAIL[:6],
        RATIONAL + PRISM,
        RATIONAL + PRISM + TAIL[:2],
        RADIAL + TAIL[:3] + PRISM,
    ],
)
def test_opencvs_coefficients(model: str, d: list[float]) -> None:
    camera = CameraModel.from_info(**fields(d=d, distortion_model=model))
    u, v, _, valid = camera.image_points(POINTS)
    expected = cv2.projectPoints(POINTS, np.zeros(3), np.zeros(3), K, np.array(d))[0][:, 0]
    assert valid.all()
    np.testing.assert_allclose(np.stack([u, v], 1), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "model", ["equidistant", "fisheye", "Kannala-Brandt4", "KANNALA_BRANDT4", "KannalaBrandt"]
)
@pytest.mark.parametrize("d", [FISHEYE, [*FISHEYE, 0.0], [0.0] * 4, []])
def test_names_of_a_fisheye(model: str, d: list[float]) -> None:
    camera = CameraModel.from_info(**fields(d=d, distortion_model=model))
    u, v, _, _ = camera.image_points(POINTS)
    given = np.array(d[:4] or [0.0] * 4)
    expected = cv2.fisheye.projectPoints(POINTS[:, None], np.zeros(3), np.zeros(3), K, given)[0]
    np.testing.assert_allclose(np.stack([u, v], 1), expected[:, 0], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "model",
    [
        "",
        "none",
        "pinhole",
        "plumb_bob",
        "Inverse Brown Conrady",
        "unknown",
        "undistorted",
        "rectified",
        "no_distortion",
        "perspective",
    ],
)
@pytest.mark.parametrize("d", [[], [0.0], [0.0] * 5, [0.0] * 14])
@pytest.mark.parametrize("p", [projection(), [0.0] * 12])
def test_no_distortion(model: str, d: list[float], p: list[float]) -> None:
    camera = CameraModel.from_info(**fields(d=d, distortion_model=model, p=p))
    u, v, _, _ = camera.image_points(POINTS)
    expected = cv2.projectPoints(POINTS, np.zeros(3), np.zeros(3), K, None)[0][:, 0]
    np.testing.assert_allclose(np.stack([u, v], 1), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rectified", [None, True])
def test_r_of_zeros_is_the_identity(rectified: bool | None) -> None:
    """As drivers leave it, and the KITTI odometry recordings with a K of zeros besides."""
    info = fields(r=[0.0] * 9, k=[0.0] * 9, distortion_model="")
    assert np.array_equal(CameraModel.from_info(**info, rectified=rectified).R, np.eye(3))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"distortion_model": "pinhole", "d": RADIAL}, "'pinhole', expected .* 5 of its 5 values"),
        ({"distortion_model": "fov", "d": [0.9]}, "distortion_model is 'fov'"),
        ({"distortion_model": "Inverse Brown Conrady", "d": RADIAL}, "'Inverse Brown Conrady'"),
        ({"d": [*RATIONAL, *PRISM, 0.01, 0.0]}, "a tilted sensor"),
        ({"d": [0.1] * 7}, "d has 7 values for 'plumb_bob', expected one of 4, 5, 8, 12, 14"),
        ({"d": [0.1] * 15}, "d has 15 values"),
        ({"d": FISHEYE[:3], "distortion_model": "fisheye"}, "3 values for 'fisheye', expected 4"),
        ({"d": [np.nan] * 5}, "expected finite"),
        # matrices of another image size
        ({"p": projection(scaled(0.5))}, "p has fx, fy, cx, cy 205 .*k has 410 "),
        ({"p": projection(scaled(0.5)), "d": RADIAL}, "k has .* the one is 2 times the other"),
        ({"p": projection(scaled(2))}, "CameraInfo.p has its principal point at 645, 472"),
        ({"k": scaled(2).ravel(), "p": [0.0] * 12}, "CameraInfo.k has its principal point at 645"),
        ({"k": scaled(3).ravel(), "p": projection(scaled(3))}, "principal point"),
        ({"k": scaled(0.01).ravel(), "d": RADIAL, "p": TAIL + TAIL[:3]}, "principal point"),
        ({"width": 320, "height": 240}, "principal point at 322.5, 236"),
        ({"k": [410, 0, -5, 0, 405, 236, 0, 0, 1], "p": [0.0] * 12}, "point at -5, 236"),
        # no image of 640x480 pixels has such a matrix
        *(({"k": k, "p": [0.0] * 12}, text) for k, text in (
            ([4, 0, 322, 0, 4, 236, 0, 0, 1], "a view of 179 degrees, expected 3 to 170"),
            ([1e6, 0, 322, 0, 1e6, 236, 0, 0, 1], "focal lengths are in pixels"),
            ([410, 0, 322, 0, 40500, 236, 0, 0, 1], "focal lengths of 410 and 40500 and a skew"),
            ([1000, 0, 322, 0, 410, 236, 0, 0, 1], "nearly square"),
            ([410, 200, 322, 0, 405, 236, 0, 0, 1], "skew of 200"),
            ([410, 0, 322, -90, 405, 236, 0, 0, 1], "skew of -90"),
        )),
        ({"d": RADIAL, "p": projection(moved(700, 600))}, "p has its .*image which is right: raw"),
        ({"d": RADIAL, "p": projection(np.diag([0.01, 0.01, 1]) @ K)}, "CameraInfo.p has its"),
        ({"d": [-3100.0, 1200.0, 1.1, -0.7, -21.0]}, "shows a circle of 4 pixels"),
        ({"d": [3100.0, 1200.0, 0.0, 0.0]}, "moves its edge by"),
        ({"distortion_model": "ftheta", "d": [0.0] * 5}, "'ftheta'"),
        # both describe one image, and differ
        ({"p": projection(np.diag([1.2, 1.2, 1]) @ moved(-60, -50))},
         "both describe one image"),
        ({"p": projection(moved(60, 0))}, "k has 410 405 322.5 236"),
        ({"p": projection(np.diag([1.0, 1.3, 1]) @ K)}, "raw .k. or rectified .p."),
    ],
)  # fmt: skip
def test_contradictions_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(SensorError, match=text):
        CameraModel.from_info(**fields(**changes))
    with pytest.raises(RosError, match="/front/camera_info: CameraInfo") as caught:
        camera_model(message(**changes), "auto", "/front/camera_info")
    assert caught.value.reason == "camera_info"


@pytest.mark.parametrize(
    ("changes", "rectified", "focal"),
    [
        # the zoom of a rectified image, as cv2.getOptimalNewCameraMatrix chooses it
        ({"d": RADIAL, "p": projection(np.diag([0.8, 0.8, 1]) @ K + [[0, 0, 64], [0, 0, 48],
                                                                     [0, 0, 0]])}, None, 410.0),
        # the user has said which
        ({"p": projection(np.diag([1.0, 1.3, 1]) @ K)}, True, 410.0),
        ({"p": projection(scaled(0.5))}, False, 410.0),
        # a few per cent, and a K that is not filled in
        ({"p": projection(K * [[0.97], [0.97], [1]])}, None, 397.7),
        ({"k": [0.0] * 9}, None, 410.0),
    ],
)  # fmt: skip
def test_what_agrees_is_read(changes: dict[str, Any], rectified: Any, focal: float) -> None:
    camera = CameraModel.from_info(**fields(**changes), rectified=rectified)
    assert camera.K[0, 0] == pytest.approx(focal)


TURN = cv2.Rodrigues(np.array([0.0, 0.01, 0.0]))[0].ravel()
COLUMN = {"p": projection(K, (-42.6, 0.0, 0.0))}


@pytest.mark.parametrize(
    ("changes", "image", "text"),
    [
        ({}, "auto", ""),
        ({"d": RADIAL}, "auto", ""),
        ({"d": RADIAL, "r": TURN}, "auto", "r turns by 0.573 degrees; used is the raw image's k"),
        ({"r": np.diag([-1.0, -1.0, 1.0]).ravel()}, "auto", "r turns by 180 degrees"),
        ({"r": np.diag([1.0, -1.0, -1.0]).ravel()}, "auto", "r turns by 180 degrees"),
        ({"d": RADIAL, "p": [float("nan")] * 12}, "auto", ""),
        ({"d": RADIAL, "r": TURN}, "rectified", "used is p with r.*camera.image to rectified_"),
        ({"d": RADIAL, "r": TURN}, "rectified_frame", ""),
        ({"d": RADIAL, "r": TURN}, "raw", ""),
        (COLUMN, "auto", "p has the fourth column -42.6 0 0"),  # ZED's right camera
        (COLUMN, "rectified_frame", ""),
        ({"p": projection(K, (-0.12, 0.0, 0.0))}, "auto", "baseline of 0.00029 m, expected -fx ti"),
        ({"p": projection(K, (-49200.0, 0.0, 0.0))}, "auto", "a baseline of 1.2e[+]02 m"),
        # a fisheye lens without coefficients, in both spellings
        *(({"d": d, "distortion_model": "equidistant", "p": p}, image, text)
          for d in ([], [0.0] * 4) for p in (projection(), [0.0] * 12)
          for image, text in (("auto", "to rectified if the image is, to raw if"), ("raw", ""))),
        ({"d": [], "distortion_model": "equidistant"}, "rectified", ""),
        ({"k": scaled(0.5).ravel(), "p": [0.0] * 12}, "auto", "principal point is at 25%, 25%"),
        *(({"k": scaled(s).ravel(), "p": projection(scaled(s))}, "auto", text) for s, text in (
            (0.75, "centre of an image of 484x354"), (0.8, "centre of an image of 516x378"),
            (1.2, "centre of an image of 774x566"), (1.25, "at 63%, 61% of 640x480"),
            (1.28, "centre of an image of 826x604"), (1.5, "at 76%, 74% of 640"),
        )),
    ],
)  # fmt: skip
def test_doubts(changes: dict[str, Any], image: str, text: str) -> None:
    found = camera_doubts(message(**changes), image)
    assert len(found) == (1 if text else 0)
    assert re.search(text, "".join(found))


def pinhole(size: tuple[int, int], centre: tuple[float, float]) -> dict[str, Any]:
    matrix = np.array([[1.1 * size[0], 0, centre[0]], [0, 1.1 * size[0], centre[1]], [0, 0, 1]])
    return {"width": size[0], "height": size[1], "k": matrix.ravel(), "p": projection(matrix)}


@pytest.mark.parametrize(
    ("size", "centre", "of"),
    [
        ((640, 360), (322.5, 236.0), "645x472"),  # 4:3 cut to 16:9
        ((1280, 720), (645.0, 472.0), "1290x944"),
        ((1920, 1080), (960.0, 600.0), "1920x1200"),  # 16:10 cut to 16:9
        ((1280, 720), (642.0, 402.0), "1284x804"),
        ((640, 480), (322.0, 178.0), "644x356"),  # the reverse
        ((960, 960), (640.0, 482.0), "1280x964"),  # left and right cut off
        ((480, 640), (322.5, 236.0), "645x472"),  # width and height exchanged
        ((1280, 720), (322.5, 236.0), "645x472"),  # scaled and cut
        ((800, 600), (640.0, 360.0), "1280x720"),
        ((1242, 375), (720.0, 220.0), "1440x440"),
    ],
)
def test_principal_points_of_another_size_or_crop(
    size: tuple[int, int], centre: tuple[float, float], of: str
) -> None:
    (found,) = camera_doubts(message(**pinhole(size, centre)))
    assert f"of {size[0]}x{size[1]} pixels, the centre of an image of {of}" in found


@pytest.mark.parametrize(
    ("size", "centre"),
    [
        ((1242, 375), (609.6, 172.9)),  # KITTI
        ((1226, 370), (601.9, 183.1)),
        ((1392, 512), (690.0, 233.9)),
        ((1408, 376), (682.0, 238.8)),  # KITTI-360
        ((1600, 900), (816.3, 491.5)),  # nuScenes
        ((1600, 900), (829.2, 481.8)),
        ((2048, 1024), (1096.0, 513.1)),  # Cityscapes
        ((1920, 886), (970.0, 238.0)),  # the sides of Waymo, cut at the top
        ((1550, 2048), (777.0, 1013.0)),  # Argoverse 2
        ((752, 480), (367.2, 248.4)),  # EuRoC
        ((640, 480), (310.0, 255.0)),
        ((1280, 720), (655.0, 350.0)),
        ((160, 120), (80.0, 60.0)),
    ],
)
def test_nothing_is_said_of_real_calibrations(
    size: tuple[int, int], centre: tuple[float, float]
) -> None:
    assert camera_doubts(message(**pinhole(size, centre))) == []


def test_a_region_of_interest_is_no_crop() -> None:
    """K is that of the full image then."""
    given = message(**pinhole((1280, 960), (645.0, 472.0)))
    given.roi = SimpleNamespace(x_offset=0, y_offset=120, width=1280, height=720)
    assert camera_doubts(given) == []
    camera = camera_model(given)
    assert (camera.width, camera.height, camera.K[1, 2]) == (1280, 720, 352.0)


def test_doubts_are_said_once() -> None:
    said: list[str] = []
    infos = CameraInfos(notes=Notes(log_warning=said.append))
    infos.update("camera", message(**COLUMN))
    for _ in range(3):
        infos.model("camera", 480, 640)
    assert len(said) == 1
    assert said[0].startswith("camera/camera_info: p has the fourth column")
    assert "set parameter camera.image to rectified_frame" in said[0]


def test_a_calibration_that_changes_counts_at_once() -> None:
    said: list[str] = []
    infos = CameraInfos(notes=Notes(log_warning=said.append))
    models = []
    for k in (K, K, moved(4, 0), K):
        infos.update("camera", message(k=k.ravel(), p=projection(k)))
        models.append(infos.model("camera", 480, 640))
    assert [model.K[0, 2] for model in models] == [322.5, 322.5, 326.5, 322.5]
    infos.update("camera", message(k=scaled(1.25).ravel(), p=projection(scaled(1.25))))
    infos.model("camera", 480, 640)
    assert len(said) == 1
    infos.update("camera", message(k=[0.0] * 9, p=[0.0] * 12))
    with pytest.raises(RosError, match=r"CameraInfo\.k"):
        infos.model("camera", 480, 640)


def test_kitti_converter(shared: Path) -> None:
    """Images and poses of a rectified camera under the CameraInfo of the raw one."""
    case = shared / "cases" / "kitti2bag_calibration"
    if not case.is_dir():
        pytest.skip(f"{case} is not there")
    expected = np.load(case / "expected_uv.npz")
    pose = read_parameters(case / "bag")["lidar"]["extrinsics"]
    with Recording(case / "bag") as reader:
        found = {c.topic: reader.deserialize(d, c.msgtype) for c, _, d in reader.messages()}
    info = found["/kitti/camera_color_left/camera_info"]
    xyz, _ = cloud_points(found["/kitti/velo/pointcloud"], needs_intensity=True)

    def error(image: str) -> float:
        camera = camera_model(info, image)
        index, u, v, _ = project(xyz, camera, pose_matrix(pose[:3], pose[3:]))
        return float(np.hypot(u - expected["u"][index], v - expected["v"][index]).max())

    assert error("rectified_frame") < 1e-3
    assert camera_doubts(info, "rectified_frame") == []
    for image in ("auto", "rectified"):
        assert error(image) > 5
        assert "rectified_frame" in camera_doubts(info, image)[0]


def test_thermal_calibration_of_another_size_on_disk() -> None:
    turned = {"width": 320, "height": 240, "K": K.tolist(), "R_camera_thermal": np.eye(3).tolist()}
    camera = {"width": 640, "height": 480, "K": K.tolist(), "D": [0.0] * 5, "model": "radtan"}
    with pytest.raises(DataError, match=r"calib\.json: thermal\.K has its principal point at"):
        Calibration.from_values({"camera": camera, "thermal": turned}, Path("calib.json"))
    half = {**camera, "width": 320, "height": 240}
    with pytest.raises(DataError, match=r"calib\.json: CameraInfo\.k has its principal point at"):
        Calibration.from_values({"camera": half}, Path("calib.json"))


@pytest.mark.parametrize("d", [RADIAL, RATIONAL + PRISM, [0.01, 0, 0, 0, 0]])
def test_how_far_a_lens_moves_the_edge(d: list[float]) -> None:
    camera = CameraModel.from_info(**fields(d=d))
    u, v = np.meshgrid([0, 322.5, 640], [0, 236.0, 480])
    rays = np.stack([(u - 322.5) / 410, (v - 236) / 405, np.ones_like(u)], -1).reshape(-1, 3)
    x, y, _, valid = camera.image_points(rays)
    moved = np.hypot(x - u.ravel(), y - v.ravel())[valid]
    assert camera.bend == pytest.approx(moved.max(), rel=1e-6)
    assert CameraModel.from_info(**fields()).bend == 0.0
