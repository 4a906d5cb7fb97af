# SPDX-License-Identifier: Apache-2.0
"""Camera models against OpenCV, and the meaning of CameraInfo's fields."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsam_ros.sensors import CameraModel, SensorError, project

K = np.array([[410.0, 0, 322.5], [0, 405.0, 236.0], [0, 0, 1]])
PLUMB_BOB = [-0.31, 0.12, 0.0011, -0.0007, -0.021]
RATIONAL = [0.35, -0.06, 0.0004, -0.0003, 0.011, 0.71, 0.02, 0.003]
EQUIDISTANT = [-0.03, 0.012, -0.006, 0.0009]


def info(**changes: Any) -> dict[str, Any]:
    """A calibrated 640x480 pinhole camera; P differs from K, so that the two can be told apart."""
    fields: dict[str, Any] = {
        "width": 640,
        "height": 480,
        "k": K.ravel(),
        "d": [],
        "distortion_model": "plumb_bob",
        "r": np.eye(3).ravel(),
        "p": [400.0, 0, 325, -30, 0, 402, 232, 6, 0, 0, 1, 0.002],
        "binning_x": 0,
        "binning_y": 0,
        "roi": (0, 0, 0, 0),
    }
    return fields | changes


def raw(**changes: Any) -> CameraModel:
    return CameraModel.from_info(**info(rectified=False, **changes))


def cloud(n: int = 4000, spread: float = 0.6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z = rng.uniform(0.5, 40, n)
    return np.stack([*(rng.uniform(-spread, spread, (2, n)) * z), z], axis=1)


@pytest.mark.parametrize(
    ("model", "d"),
    [
        ("plumb_bob", []),
        ("plumb_bob", PLUMB_BOB[:4]),
        ("plumb_bob", PLUMB_BOB),
        ("rational_polynomial", RATIONAL),
    ],
)
def test_agrees_with_opencv(model: str, d: list[float]) -> None:
    points = cloud()
    u, v, depth, valid = raw(d=d, distortion_model=model).image_points(points)
    expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, np.array(d or [0.0] * 4))[0]
    assert valid.all()
    np.testing.assert_allclose(np.stack([u, v], 1), expected[:, 0], atol=1e-9)
    np.testing.assert_array_equal(depth, points[:, 2])


@pytest.mark.parametrize("d", [EQUIDISTANT, [0.0, 0.0, 0.0, 0.0]])
def test_fisheye_agrees_with_opencv(d: list[float]) -> None:
    points = np.vstack([cloud(spread=5.0), [[0, 0, 3.0], [1e-9, 0, 2.0]]])
    u, v, _, valid = raw(d=d, distortion_model="equidistant").image_points(points)
    expected = cv2.fisheye.projectPoints(points[:, None], np.zeros(3), np.zeros(3), K, np.array(d))[
        0
    ]
    assert valid.all()
    np.testing.assert_allclose(np.stack([u, v], 1), expected[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("model", "d", "peak"),
    [
        # r - 0.3 r^3 grows up to r = 1 / sqrt(0.9).
        ("plumb_bob", [-0.3, 0, 0, 0, 0], 1 / np.sqrt(0.9)),
        # r / (1 + r^2) grows up to r = 1.
        ("rational_polynomial", [0, 0, 0, 0, 0, 1.0, 0, 0], 1.0),
        # r / (1 - r^2 / 4) grows up to its pole at r = 2.
        ("rational_polynomial", [0, 0, 0, 0, 0, -0.25, 0, 0], 2.0),
        # theta - theta^3 / 3 grows up to theta = 1.
        ("equidistant", [-1 / 3, 0, 0, 0], np.tan(1.0)),
    ],
)
def test_points_beyond_the_valid_angle_are_dropped(model: str, d: list, peak: float) -> None:
    camera = raw(d=d, distortion_model=model)
    r = np.array([0.5 * peak, 0.9999 * peak, 1.0001 * peak, 1.5 * peak, 20 * peak])
    for direction in ([1, 0], [0, -1], [0.6, 0.8]):
        points = np.column_stack([np.outer(r, direction), np.ones(len(r))]) * 7.0
        assert camera.image_points(points)[3].tolist() == [True, True, False, False, False]
    # Some of these would fold back into the image.
    fan = np.column_stack([np.linspace(0, 10, 500), np.zeros(500), np.ones(500)])
    kept = project(fan, camera, np.eye(4))[0]
    assert kept.max() < 500 * peak / 10


@settings(max_examples=60)
@given(st.lists(st.floats(-0.5, 0.5), min_size=3, max_size=3))
def test_radius_grows_over_the_whole_valid_range(k: list[float]) -> None:
    camera = raw(d=[k[0], k[1], 0, 0, k[2]])
    fan = np.column_stack([np.linspace(0, 6, 3000), np.zeros(3000), np.ones(3000)])
    u, _, _, valid = camera.image_points(fan)
    assert valid[0]
    assert (np.diff(valid.astype(int)) <= 0).all()
    assert (np.diff(u[valid]) > 0).all()
    if not valid.all():
        first = np.flatnonzero(~valid)[0]
        r = fan[first + 1 : first + 3, 0]
        assert np.diff(r + k[0] * r**3 + k[1] * r**5 + k[2] * r**7)[0] < 1e-4


def test_points_behind_or_not_finite_are_invalid() -> None:
    bad = [[0, 0, -1.0], [0, 0, 0], [1, 1, 0], [np.nan, 0, 1], [0, np.inf, 1], [0, 0, np.inf]]
    for camera in (raw(), raw(d=PLUMB_BOB), raw(d=EQUIDISTANT, distortion_model="equidistant")):
        assert not camera.image_points(np.array(bad))[3].any()


def rotation(axis: tuple[float, float, float], degrees: float) -> np.ndarray:
    return cv2.Rodrigues(np.radians(degrees) * np.asarray(axis, float))[0]


def test_rectified_uses_r_and_all_of_p() -> None:
    R = rotation((0.1, 0.9, -0.4), 3.0)
    P = np.reshape(info()["p"], (3, 4))
    camera = CameraModel.from_info(**info(r=R.ravel(), d=PLUMB_BOB, rectified=True))
    points = cloud(200)
    u, v, depth, valid = camera.image_points(points)
    w = P @ np.vstack([R @ points.T, np.ones(200)])
    assert valid.all()
    np.testing.assert_allclose([u, v], w[:2] / w[2], atol=1e-9)
    np.testing.assert_allclose(depth, w[2], atol=1e-12)


def test_a_rectified_image_may_come_of_any_lens() -> None:
    """Its distortion is not used, so that the model need not be one that we know."""
    camera = CameraModel.from_info(**info(d=[0.1] * 5, distortion_model="omni", rectified=True))
    assert (camera.distortion, camera.K[0, 0]) == ("none", 400.0)


@pytest.mark.parametrize(
    ("changes", "rectified"),
    [
        ({"d": []}, True),
        ({"d": [0.0] * 5}, True),
        ({"d": [0.0] * 8, "distortion_model": "rational_polynomial"}, True),
        ({"d": [], "distortion_model": ""}, True),
        ({"d": [], "distortion_model": "equidistant"}, False),
        ({"d": PLUMB_BOB}, False),
        ({"d": [], "p": [0.0] * 12}, False),
        # An ideal fisheye lens has zero coefficients, but its image is no pinhole image.
        ({"d": [0.0] * 4, "distortion_model": "equidistant"}, False),
    ],
)
def test_auto_decides_between_raw_and_rectified(changes: dict, rectified: bool) -> None:
    camera = CameraModel.from_info(**info(**changes))
    assert camera.K[0, 0] == (400.0 if rectified else 410.0)
    assert camera.offset.any() == rectified


def test_zero_coefficients_are_no_distortion() -> None:
    assert raw(d=[0.0] * 5).distortion == "none"
    assert raw(d=[0.0] * 4, distortion_model="equidistant").distortion == "equidistant"


@pytest.mark.parametrize("rectified", [False, True])
def test_region_of_interest_and_binning(rectified: bool) -> None:
    fields = info(d=PLUMB_BOB, rectified=rectified)
    full = CameraModel.from_info(**fields)
    part = CameraModel.from_info(
        **fields | {"binning_x": 2, "binning_y": 4, "roi": (100, 40, 301, 202)}
    )
    assert (part.width, part.height) == (150, 50)
    points = cloud(300)
    u, v, depth, _ = full.image_points(points)
    pu, pv, part_depth, _ = part.image_points(points)
    np.testing.assert_allclose(pu, (u - 100) / 2, atol=1e-9)
    np.testing.assert_allclose(pv, (v - 40) / 4, atol=1e-9)
    np.testing.assert_allclose(part_depth, depth)


def test_scaled_stretches_the_image() -> None:
    camera = raw(d=PLUMB_BOB)
    scaled = camera.scaled(1024, 300)
    assert (scaled.width, scaled.height) == (1024, 300)
    points = cloud(300)
    u, v, _, _ = camera.image_points(points)
    su, sv, _, _ = scaled.image_points(points)
    np.testing.assert_allclose(su, u * 1.6, atol=1e-9)
    np.testing.assert_allclose(sv, v * 0.625, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": [0.0] * 9}, "CameraInfo.k is .* expected a calibrated camera"),
        ({"k": [np.nan] * 9}, "CameraInfo.k is .*nan"),
        ({"k": [1.0] * 8}, "CameraInfo.k has 8 values, expected 9"),
        ({"k": [0.0] * 9, "d": PLUMB_BOB, "rectified": None}, "CameraInfo.k"),
        ({"p": [0.0] * 12, "rectified": True}, "CameraInfo.p is"),
        ({"p": [300, 0, 310, np.nan, 0, 300, 2, 0, 0, 0, 1, 0], "rectified": True}, "CameraInfo.p"),
        ({"p": [0.0] * 9}, "CameraInfo.p has 9 values, expected 12"),
        ({"r": [0.1] * 9, "rectified": True}, "R is .* expected a rotation"),
        ({"r": [0.0] * 4}, "CameraInfo.r has 4 values, expected 9"),
        ({"width": 0}, "CameraInfo.width is 0, expected"),
        ({"d": [0.1, 0.2, 0.3]}, "CameraInfo.d has 3 values for 'plumb_bob', expected one of"),
        ({"d": [0.1] * 5, "distortion_model": "equidistant"}, "5 values for 'equidistant'"),
        ({"d": [0.1, np.nan, 0, 0]}, "CameraInfo.d is .*nan"),
        ({"d": [0.1] * 5, "distortion_model": "omni"}, "distortion_model is 'omni'.*equidistant"),
        ({"d": [], "distortion_model": "omni"}, "distortion_model is 'omni'"),
        ({"d": [0.1] * 5, "distortion_model": ""}, "distortion_model is ''"),
        ({"roi": (600, 0, 100, 100)}, "CameraInfo.roi is .*640x480"),
        ({"roi": (10, 0, 0, 0)}, "CameraInfo.roi"),
        ({"roi": (0, 0, 0)}, "CameraInfo.roi has 3 values"),
        ({"binning_x": 700}, "CameraInfo.binning is 700x0"),
    ],
)
def test_unusable_camera_info_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(SensorError, match=message):
        CameraModel.from_info(**info(rectified=False) | changes)


def test_unusable_direct_construction_is_refused() -> None:
    with pytest.raises(SensorError, match="distortion is 'fov'"):
        CameraModel(4, 4, K, np.zeros(0), "fov", np.eye(3), np.zeros(3))
    with pytest.raises(SensorError, match=r"camera.width is 4\.0, expected a whole number"):
        CameraModel(4.0, 4, K, np.zeros(0), "none", np.eye(3), np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(SensorError, match="with a rectification"):
        CameraModel(4, 4, K, np.array(PLUMB_BOB), "plumb_bob", np.eye(3), np.ones(3))
    with pytest.raises(SensorError, match=r"expected \(N, 3\)"):
        raw().image_points(np.zeros((3, 4)))
