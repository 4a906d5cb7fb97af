# SPDX-License-Identifier: Apache-2.0
"""Thermal scaling, registration to the camera, and the frame that carries both."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mmsam_ros.sensors import (
    CameraModel,
    Frame,
    LidarPoints,
    Registration,
    SensorError,
    SensorImage,
    register,
    scale_thermal,
)

H = np.array([[1.45, 0.03, 21.0], [-0.02, 1.52, 14.0], [2e-5, -3e-5, 1.0]])


def picture(h: int, w: int, channels: int | None = None, seed: int = 0) -> np.ndarray:
    shape = (h, w) if channels is None else (h, w, channels)
    noise = np.random.default_rng(seed).uniform(0, 255, shape).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 1.5)


# Thermal scaling


def test_mono8_stays_as_it_is() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    scaled = scale_thermal(image, "mono8", None)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, image)


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_mono16_has_fixed_limits(dtype: str) -> None:
    image = np.array([[0, 1000, 1500, 2000, 65535]], dtype)
    scaled = scale_thermal(image, "mono16", (1000.0, 2000.0))
    assert scaled.tolist() == [[0, 0, 127.5, 255, 255]]


def test_frame_gain_follows_the_frame() -> None:
    counts = np.arange(10_000, dtype=np.uint16).reshape(100, 100)
    scaled = scale_thermal(counts, "frame_gain", None)
    low, high = np.percentile(counts, [1, 99])
    expected = np.clip((counts - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(scaled, expected, atol=1e-3)
    np.testing.assert_allclose(scale_thermal(counts + 5000, "frame_gain", None), scaled, atol=1e-3)
    assert scale_thermal((counts // 40).astype(np.uint8), "frame_gain", None).max() == 255


def test_frame_gain_without_contrast_is_zero() -> None:
    assert not scale_thermal(np.full((4, 4), 77, np.uint8), "frame_gain", None).any()
    noise = 29000 + np.random.default_rng(0).integers(-1, 2, (40, 40)).astype(np.uint16)
    assert not scale_thermal(noise, "frame_gain", None).any(), "a picture of the last bits"
    noise[:20] += 10
    assert scale_thermal(noise, "frame_gain", None).max() == 255


@pytest.mark.parametrize(
    ("image", "encoding", "limits", "message"),
    [
        (np.zeros((2, 2), np.uint16), "mono8", None, "mono8 image: dtype is uint16"),
        (np.zeros((2, 2), np.uint8), "mono16", (0, 1), "mono16 image: dtype is uint8"),
        (np.zeros((2, 2), np.uint16), "mono16", None, r"limits for mono16 are None.*\(low, high\)"),
        (np.zeros((2, 2), np.uint8), "mono8", (0, 1), "limits for mono8"),
        (np.zeros((2, 2), np.uint16), "mono16", (5, 5), "finite low < high"),
        (np.zeros((2, 2), np.uint16), "mono16", (0, np.nan), "finite low < high"),
        (np.zeros((2, 2, 3), np.uint8), "mono8", None, r"shape is \(2, 2, 3\)"),
        (np.zeros((2, 2, 3), np.uint8), "png8", None, "thermal encoding is 'png8'"),
        (np.zeros((0, 2), np.uint8), "frame_gain", None, "at least one pixel"),
    ],
)
def test_thermal_refusals(image: np.ndarray, encoding: str, limits: tuple, message: str) -> None:
    with pytest.raises(SensorError, match=message):
        scale_thermal(image, encoding, limits)


# Registration


@pytest.mark.parametrize("channels", [None, 3])
def test_aligned_at_equal_size_is_the_identity(channels: int | None) -> None:
    image = picture(24, 32, channels)
    out, valid = register(image, Registration.aligned(), (48, 64), (24, 32))
    np.testing.assert_array_equal(out, image)
    assert valid.all()
    assert not np.shares_memory(out, image)


@pytest.mark.parametrize("size", [(48, 64), (31, 90), (12, 16), (24, 50)])
def test_aligned_resizes_like_opencv(size: tuple[int, int]) -> None:
    image = picture(24, 32, 3)
    out, valid = register(image, Registration.aligned(), (480, 640), size)
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(out, expected, atol=1e-3)
    assert valid.all()


def test_aligned_and_the_scaling_homography_are_the_same() -> None:
    image = picture(24, 32)
    aligned, _ = register(image, Registration.aligned(), (72, 128), (50, 70))
    scaling = Registration.from_homography(np.diag([4.0, 3.0, 1.0]))
    out, valid = register(image, scaling, (72, 128), (50, 70))
    assert valid.all()
    np.testing.assert_allclose(out, aligned, atol=1e-3)


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize(
    "registration", [Registration.aligned(), Registration.from_homography(H)], ids=["none", "H"]
)
def test_a_constant_stays_constant_in_the_view(
    registration: Registration, channels: int | None
) -> None:
    shape = (40, 60) if channels is None else (40, 60, channels)
    image = np.full(shape, 173.0, np.float32)
    out, valid = register(image, registration, (110, 160), (90, 200))
    assert (out[valid] == 173).all()
    assert (out[~valid] == 0).all()
    assert valid.any()


@pytest.mark.parametrize("channels", [None, 3])
def test_homography_agrees_with_opencv(channels: int | None) -> None:
    image = picture(200, 260, channels)
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    out, valid = register(image, Registration.from_homography(-3 * H), (330, 440), (330, 440))
    # OpenCV's pixel centres are integers.
    opencv = np.linalg.inv(half) @ H @ half
    expected = cv2.warpPerspective(image, opencv, (440, 330), flags=cv2.INTER_LINEAR)
    seen = cv2.warpPerspective(np.ones((200, 260), np.uint8), opencv, (440, 330))
    interior = cv2.erode(seen, np.ones((7, 7)), borderValue=0) > 0
    assert interior.sum() > 50_000
    assert valid[interior].all()
    # OpenCV rounds coordinates to 1/32 pixel.
    assert np.abs(out - expected)[interior].max() < 2.0
    assert np.abs(out - expected)[interior].mean() < 0.2


def test_homography_is_in_camera_pixels_whatever_the_output_size() -> None:
    image = picture(60, 80)
    registration = Registration.from_homography(H)
    full, full_valid = register(image, registration, (120, 150), (120, 150))
    # A third of the size: each output centre is the centre of the middle pixel of three by three.
    third, third_valid = register(image, registration, (120, 150), (40, 50))
    np.testing.assert_allclose(third, full[1::3, 1::3], atol=1e-3)
    np.testing.assert_array_equal(third_valid, full_valid[1::3, 1::3])


def test_validity_mask_by_hand() -> None:
    """2x3 thermal pixels, each two camera pixels wide and high, shifted by (1, 2)."""
    image = np.array([[10, 20, 30], [40, 50, 60]], np.float32)
    shift = Registration.from_homography([[2, 0, 1], [0, 2, 2], [0, 0, 1]])
    out, valid = register(image, shift, (8, 9), (8, 9))
    expected = np.zeros((8, 9), bool)
    expected[2:6, 1:7] = True
    np.testing.assert_array_equal(valid, expected)
    # Centres at a quarter and three quarters of a thermal pixel; the border's value continues.
    assert out[2, 1:7].tolist() == [10, 12.5, 17.5, 22.5, 27.5, 30]
    assert out[2:6, 1].tolist() == [10, 17.5, 32.5, 40]
    assert (out[~valid] == 0).all()


def test_a_real_zero_is_valid() -> None:
    out, valid = register(np.zeros((4, 4), np.float32), Registration.aligned(), (8, 8), (8, 8))
    assert valid.all()
    assert not out.any()


def test_rotation_moves_a_far_point_as_geometry_says() -> None:
    K_camera = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    K_thermal = np.array([[300.0, 0, 160], [0, 310, 128], [0, 0, 1]])
    R = cv2.Rodrigues(np.array([0.03, -0.05, 0.1]))[0]
    registration = Registration.from_rotation(K_camera, R, K_thermal)
    column, row = 100, 90
    image = np.zeros((256, 320), np.float32)
    image[row, column] = 1000.0
    # The middle of that pixel, 1 km away, seen by a camera 0.1 m beside.
    far = np.linalg.solve(K_thermal, [column + 0.5, row + 0.5, 1.0]) * 1000.0
    u, v, w = K_camera @ (R @ far + [0.1, 0, 0])
    out, valid = register(image, registration, (480, 640), (480, 640))
    y, x = np.mgrid[:480, :640] + 0.5
    centre = (out * x).sum() / out.sum(), (out * y).sum() / out.sum()
    np.testing.assert_allclose(centre, (u / w, v / w), atol=0.1)
    assert valid[int(v / w), int(u / w)]


def test_what_lies_behind_the_thermal_camera_is_not_seen() -> None:
    K = np.array([[100.0, 0, 50], [0, 100, 50], [0, 0, 1]])
    backwards = np.diag([-1.0, 1.0, -1.0])
    image = np.ones((100, 100), np.float32)
    out, valid = register(
        image, Registration.from_rotation(K, backwards, K), (100, 100), (100, 100)
    )
    assert not valid.any()
    assert not out.any()


def test_registration_refusals() -> None:
    eye = np.eye(3)
    with pytest.raises(SensorError, match="invertible"):
        Registration.from_homography([[1, 0, 0], [2, 0, 0], [0, 0, 1]])
    with pytest.raises(SensorError, match="non-zero"):
        Registration.from_homography([[1, 0, 0], [0, 0, 1], [0, 1, 0]])
    with pytest.raises(SensorError, match=r"finite \(3, 3\)"):
        Registration.from_homography(np.full((3, 3), np.nan))
    with pytest.raises(SensorError, match=r"R_camera_thermal.* a rotation"):
        Registration.from_rotation(eye, 2 * eye, eye)
    with pytest.raises(SensorError, match=r"K_thermal.* positive focal"):
        Registration.from_rotation(eye, eye, np.zeros((3, 3)))
    aligned = Registration.aligned()
    with pytest.raises(SensorError, match="uint8"):
        register(np.zeros((4, 4), np.uint8), aligned, (4, 4), (4, 4))  # type: ignore[arg-type]
    with pytest.raises(SensorError, match="at least 1x1"):
        register(np.zeros((4, 4), np.float32), aligned, (4, 4), (0, 4))


# Frame


def camera(width: int, height: int) -> CameraModel:
    return CameraModel(width, height, np.eye(3), np.zeros(0), "none", np.eye(3), np.zeros(3))


def points(n: int = 3) -> LidarPoints:
    return LidarPoints(np.zeros((n, 3), np.float32), np.zeros(n, np.float32), np.eye(4))


def test_frame_takes_all_that_fits_together() -> None:
    sensors = {"lidar": points(0), "thermal": SensorImage(np.zeros((5, 6), np.dtype(">u2")))}
    frame = Frame(np.zeros((4, 8, 3), np.uint8), sensors, camera(8, 4))
    assert frame.sensors["thermal"].registration.homography is None


def test_frame_refusals() -> None:
    rgb = np.zeros((4, 8, 3), np.uint8)
    with pytest.raises(SensorError, match="lidar is a point cloud, expected a camera model"):
        Frame(rgb, {"lidar": points()})
    with pytest.raises(SensorError, match=r"camera model is for 4x8 pixels, expected .* 8x4"):
        Frame(rgb, {}, camera(4, 8))
    with pytest.raises(SensorError, match=r"rgb is float32"):
        Frame(rgb.astype(np.float32), {})
    with pytest.raises(SensorError, match=r"intensity has shape \(2,\), expected \(3,\)"):
        LidarPoints(np.zeros((3, 3), np.float32), np.zeros(2, np.float32), np.eye(4))
    with pytest.raises(SensorError, match=r"xyz has shape \(3, 4\)"):
        LidarPoints(np.zeros((3, 4), np.float32), np.zeros(3, np.float32), np.eye(4))
    with pytest.raises(SensorError, match=r"shape \(4, 8, 4\)"):
        SensorImage(np.zeros((4, 8, 4), np.uint8))
    with pytest.raises(SensorError, match="dtype int64"):
        SensorImage(np.zeros((4, 8), np.int64))
