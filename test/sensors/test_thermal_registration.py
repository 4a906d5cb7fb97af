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


def picture(h: int, w: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0, 255, (h, w)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 1.5)


def bilinear(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values at continuous positions, pixel centres at i + 0.5; beyond them the border's."""
    h, w = image.shape
    x, y = np.clip(x - 0.5, 0, w - 1), np.clip(y - 0.5, 0, h - 1)
    column, row = x.astype(int).clip(max=w - 2), y.astype(int).clip(max=h - 2)
    a, b = x - column, y - row
    wide = image.astype(np.float64)
    top = (1 - a) * wide[row, column] + a * wide[row, column + 1]
    bottom = (1 - a) * wide[row + 1, column] + a * wide[row + 1, column + 1]
    return (1 - b) * top + b * bottom


def rounding(image: np.ndarray) -> float:
    """How far a warp may be off: OpenCV 4.6 rounds both coordinates to 1/32 pixel, half a step at
    most, and a bilinear value changes by no more than the steepest difference of neighbours.
    """
    steepest = sum(float(np.abs(np.diff(image, axis=axis)).max()) for axis in (0, 1))
    return steepest / 64 + 1e-3


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
        (np.zeros((2, 2), np.uint16), "mono16", None, r"limits: found None, .* \(low, high\)"),
        (np.zeros((2, 2), np.uint8), "mono8", (0, 1), r"found \(0, 1\) for mono8, expected none"),
        (np.zeros((2, 2), np.uint8), "frame_gain", (0, 1), r"for frame_gain, expected none"),
        (np.zeros((2, 2), np.uint16), "mono16", (5, 5), r"found \(5, 5\), .* finite .* low < high"),
        (np.zeros((2, 2), np.uint16), "mono16", (0, np.nan), "expected finite .* low < high"),
        (np.zeros((2, 2), np.uint16), "mono16", (0, np.inf), "expected finite .* low < high"),
        (np.zeros((2, 2, 3), np.uint8), "mono8", None, r"shape is \(2, 2, 3\)"),
        (np.zeros((2, 2, 3), np.uint8), "png8", None, "thermal encoding is 'png8'"),
        (np.zeros((0, 2), np.uint8), "frame_gain", None, r"shape is \(0, 2\)"),
    ],
)
def test_thermal_refusals(image: np.ndarray, encoding: str, limits: tuple, message: str) -> None:
    with pytest.raises(SensorError, match=message):
        scale_thermal(image, encoding, limits)


# Registration


def test_aligned_at_equal_size_is_the_identity() -> None:
    image = picture(24, 32)
    out, valid = register(image, Registration(), (48, 64), (24, 32))
    np.testing.assert_array_equal(out, image)
    assert valid.all()


@pytest.mark.parametrize("size", [(48, 64), (31, 90), (12, 16), (24, 50)])
def test_aligned_takes_the_bilinear_value_at_each_centre(size: tuple[int, int]) -> None:
    """Also where the image shrinks: no mean over the pixels between."""
    image = picture(24, 32)
    out, valid = register(image, Registration(), (480, 640), size)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    np.testing.assert_allclose(
        out, bilinear(image, x * 32 / size[1], y * 24 / size[0]), rtol=0, atol=1e-3
    )
    assert out.dtype == np.float32
    assert valid.all()


def test_aligned_and_the_scaling_homography_are_the_same() -> None:
    image = picture(24, 32)
    aligned, _ = register(image, Registration(), (72, 128), (50, 70))
    scaling = Registration.from_homography(np.diag([4.0, 3.0, 1.0]))
    out, valid = register(image, scaling, (72, 128), (50, 70))
    assert valid.all()
    np.testing.assert_allclose(out, aligned, rtol=0, atol=rounding(image))


@pytest.mark.parametrize(
    "registration", [Registration(), Registration.from_homography(H)], ids=["none", "H"]
)
def test_a_constant_stays_constant_in_the_view(registration: Registration) -> None:
    image = np.full((40, 60), 173.0, np.float32)
    out, valid = register(image, registration, (110, 160), (90, 200))
    np.testing.assert_allclose(out[valid], 173, rtol=1e-6)
    assert (out[~valid] == 0).all()
    assert valid.any()


def test_homography_takes_the_bilinear_value_where_it_points() -> None:
    image = picture(200, 260)
    out, valid = register(image, Registration.from_homography(-3 * H), (330, 440), (330, 440))
    y, x = np.mgrid[:330, :440] + 0.5
    u, v, w = np.linalg.inv(H) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    u, v = (u / w).reshape(x.shape), (v / w).reshape(y.shape)
    inside = np.minimum(np.minimum(u, 260 - u), np.minimum(v, 200 - v))  # pixels to the border
    clear = np.abs(inside) > 1 / 32
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(valid[clear], inside[clear] > 0)
    assert valid.sum() > 50_000
    error = np.abs(out - bilinear(image, u, v))[valid]
    assert error.max() <= rounding(image)
    assert (out[~valid] == 0).all()


def test_homography_is_in_camera_pixels_whatever_the_output_size() -> None:
    image = picture(60, 80)
    registration = Registration.from_homography(H)
    full, full_valid = register(image, registration, (120, 150), (120, 150))
    # A third of the size: each output centre is the centre of the middle pixel of three by three.
    third, third_valid = register(image, registration, (120, 150), (40, 50))
    np.testing.assert_allclose(third, full[1::3, 1::3], rtol=0, atol=2 * rounding(image))
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
    assert out[2, 1:7] == pytest.approx([10, 12.5, 17.5, 22.5, 27.5, 30])
    assert out[2:6, 1] == pytest.approx([10, 17.5, 32.5, 40])
    assert (out[~valid] == 0).all()


def test_a_real_zero_is_valid() -> None:
    out, valid = register(np.zeros((4, 4), np.float32), Registration(), (8, 8), (8, 8))
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


def test_the_mirrored_part_of_a_wide_view_is_not_seen() -> None:
    """Cameras of 136 degrees, one turned by 60: rays from behind would hit its image as well."""
    K = np.array([[20.0, 0, 50], [0, 20, 50], [0, 0, 1]])
    turn = cv2.Rodrigues(np.array([0.0, np.pi / 3, 0.0]))[0]
    image = np.full((100, 100), 9.0, np.float32)
    registration = Registration.from_rotation(K, turn, K)
    out, valid = register(image, registration, (100, 100), (100, 100))
    y, x = np.mgrid[:100, :100] + 0.5
    rays = np.linalg.inv(K) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    u, v, w = (K @ turn.T @ rays).reshape(3, 100, 100)
    inside = (u / w > 0) & (u / w < 100) & (v / w > 0) & (v / w < 100)
    assert (inside & (w < 0)).any(), "nothing is mirrored into the image"
    assert not valid[w < 0].any()
    assert valid[inside & (w > 0)].mean() > 0.99
    assert not out[~valid].any()


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
    aligned = Registration()
    for image in (np.zeros((4, 4), np.uint8), np.zeros((4, 4)), np.zeros((4, 4, 3), np.float32),
                  np.zeros((0, 4), np.float32)):  # fmt: skip
        with pytest.raises(SensorError, match=r"to register is .*, expected float32 \(h, w\)"):
            register(image, aligned, (4, 4), (4, 4))
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
