# SPDX-License-Identifier: Apache-2.0
"""Planes: what every sensor's data becomes at any size, and what is refused or shows nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mmsam_ros.sensors import (
    BLANK,
    LIMITS,
    CameraModel,
    Frame,
    LidarPoints,
    Modality,
    Registration,
    SensorImage,
    frame_planes,
    plain_modality,
    rasterise,
    register,
    scale_thermal,
)
from mmsam_ros.sensors.planes import Planes

NATIVE, CANVAS = (48, 64), (30, 36)
K = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
CAMERA = CameraModel(64, 48, K, np.zeros(0), "none", np.eye(3), np.zeros(3))
TURNED = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0.1], [1, 0, 0, 0], [0, 0, 0, 1]])
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (*NATIVE, 3), np.uint8)
XYZ = np.column_stack([RNG.uniform(3, 40, 300), RNG.uniform(-9, 9, (300, 2))]).astype(np.float32)
INTENSITY = RNG.uniform(1, 200, 300).astype(np.float32)
CLOUD = LidarPoints(XYZ, INTENSITY, TURNED)
COUNTS = RNG.integers(20_000, 40_000, (24, 32)).astype(np.uint16)
EVENTS = RNG.integers(0, 9, (*NATIVE, 3), np.uint8)

LIDAR = plain_modality("muses_raw", point_size=3)
PNG8, EVENT = plain_modality("png8"), plain_modality("event_counts")
MONO8, GAIN = plain_modality("mono8"), plain_modality("frame_gain")
MONO16 = plain_modality("mono16", limits=(25_000.0, 35_000.0))
# 1.5 camera pixels for each thermal pixel, from column 4, row 6 on
SHIFTED = Registration.from_homography([[1.5, 0, 4], [0, 1.5, 6], [0, 0, 1]])


def planes_of(
    sensor: str, data: LidarPoints | SensorImage, modality: Modality, size: tuple[int, int] = NATIVE
) -> Planes:
    """Planes of a frame that has one sensor besides the camera."""
    return frame_planes(Frame(RGB, {sensor: data}, CAMERA), {sensor: modality}, size)


def plane_of(
    sensor: str, data: LidarPoints | SensorImage, modality: Modality, size: tuple[int, int] = NATIVE
) -> NDArray[np.float32]:
    found = planes_of(sensor, data, modality, size)
    assert (found.refused, found.blank) == ({}, {})
    return found.auxiliaries[sensor]


def test_rgb_is_the_image_itself_at_its_own_size() -> None:
    found = frame_planes(Frame(RGB, {}), {}, NATIVE)
    assert found.rgb.dtype == np.uint8
    np.testing.assert_array_equal(found.rgb, RGB)
    assert (found.auxiliaries, found.refused, found.blank) == ({}, {}, {})


@pytest.mark.parametrize("size", [CANVAS, (96, 128), (48, 32)])
def test_rgb_at_another_size_is_not_rounded(size: tuple[int, int]) -> None:
    found = frame_planes(Frame(RGB, {}), {}, size).rgb
    assert (found.dtype, found.shape) == (np.float32, (*size, 3))
    expected = cv2.resize(RGB.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert (found % 1 != 0).any()


@pytest.mark.parametrize("size", [NATIVE, CANVAS])
def test_points_are_projected_at_the_size_of_the_planes(size: tuple[int, int]) -> None:
    plane = plane_of("lidar", CLOUD, LIDAR, size)
    camera = CAMERA.scaled(size[1], size[0])
    np.testing.assert_array_equal(plane, rasterise(XYZ, INTENSITY, camera, TURNED, point_size=3))
    assert (plane.dtype, plane.shape) == (np.float32, (*size, 3))
    # values of the points, not means of them
    assert np.isin(plane[..., 1][plane[..., 1] > 0], INTENSITY).all()


def test_png16_modalities_read_points_as_well() -> None:
    png16 = plain_modality("muses_png16", point_size=3)
    np.testing.assert_array_equal(plane_of("lidar", CLOUD, png16), plane_of("lidar", CLOUD, LIDAR))


@pytest.mark.parametrize("size", [NATIVE, CANVAS])
@pytest.mark.parametrize("registration", [Registration(), SHIFTED], ids=["none", "H"])
@pytest.mark.parametrize("modality", [MONO16, GAIN], ids=["mono16", "frame_gain"])
def test_thermal_is_scaled_and_then_registered(
    modality: Modality, registration: Registration, size: tuple[int, int]
) -> None:
    plane = plane_of("thermal", SensorImage(COUNTS, registration), modality, size)
    scaled = scale_thermal(COUNTS, modality.encoding, modality.limits)
    expected, valid = register(scaled, registration, NATIVE, size)
    np.testing.assert_array_equal(plane, expected[..., None])
    assert (plane.dtype, plane.shape) == (np.float32, (*size, 1))
    assert plane.max() <= 255
    assert bool(valid.all()) == (registration.homography is None)
    assert not plane[~valid].any()


def test_thermal_of_8_bit_keeps_its_values() -> None:
    image = RNG.integers(0, 256, NATIVE, np.uint8)
    np.testing.assert_array_equal(plane_of("thermal", SensorImage(image), MONO8)[..., 0], image)


def test_a_raster_keeps_its_values_at_its_own_size() -> None:
    np.testing.assert_array_equal(plane_of("event", SensorImage(EVENTS), EVENT), EVENTS)
    metres = RNG.normal(0, 30, (*NATIVE, 3)).astype(np.float32)
    np.testing.assert_array_equal(plane_of("lidar", SensorImage(metres), LIDAR), metres)
    stored = RNG.integers(0, 65536, (*NATIVE, 3)).astype(np.uint16)
    decoded = plane_of("lidar", SensorImage(stored), plain_modality("muses_png16"))
    np.testing.assert_allclose(decoded, stored / 150.0 - 100.0, atol=1e-4)


def test_a_raster_is_resized_to_a_canvas() -> None:
    plane = plane_of("depth", SensorImage(RGB), PNG8, CANVAS)
    expected = cv2.resize(RGB.astype(np.float32), CANVAS[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(plane, expected, atol=1e-3)
    assert plane.dtype == np.float32


def test_a_coarser_raster_is_enlarged_by_the_nearest_pixel_first() -> None:
    coarse = EVENTS[::2, ::2]
    full = coarse.repeat(2, 0).repeat(2, 1)
    plane = plane_of("event", SensorImage(coarse), EVENT)
    np.testing.assert_array_equal(plane, full)
    at_canvas = plane_of("event", SensorImage(coarse), EVENT, CANVAS)
    np.testing.assert_array_equal(at_canvas, plane_of("event", SensorImage(full), EVENT, CANVAS))


def test_rasters_of_nearly_the_camera_s_shape_will_do() -> None:
    """Half of 101 rows is no whole number."""
    frame = Frame(
        np.zeros((101, 128, 3), np.uint8), {"event": SensorImage(EVENTS.repeat(2, 0)[:50])}
    )
    for size in ((101, 128), CANVAS):
        found = frame_planes(frame, {"event": EVENT}, size)
        assert not found.refused
        assert found.auxiliaries["event"].shape == (*size, 3)


def test_only_the_sensors_of_the_modalities_are_looked_at() -> None:
    sensors: dict[str, Any] = {
        "lidar": CLOUD, "thermal": SensorImage(COUNTS), "event": SensorImage(EVENTS),
        "depth": SensorImage(np.full((5, 5), 7.0, np.float32)),  # fits nothing
    }  # fmt: skip
    frame = Frame(RGB, sensors, CAMERA)
    found = frame_planes(frame, {"event": EVENT, "lidar": LIDAR}, NATIVE)
    assert list(found.auxiliaries) == ["event", "lidar"]
    assert (found.refused, found.blank) == ({}, {})
    bare = frame_planes(Frame(RGB, {}), {"event": EVENT, "lidar": LIDAR}, NATIVE)
    assert (bare.auxiliaries, bare.refused, bare.blank) == ({}, {}, {})


NAN = np.full((*NATIVE, 3), np.nan, np.float32)


@pytest.mark.parametrize(
    ("sensor", "data", "modality", "text"),
    [
        ("lidar", CLOUD, PNG8, "found points, .* encoded as png8, which cannot be made of points"),
        ("lidar", SensorImage(RGB), LIDAR, "dtype is uint8, expected float32"),
        ("lidar", SensorImage(NAN), LIDAR, "holds NaN .* expected 0 where empty"),
        ("lidar", SensorImage(NAN[..., 0]), LIDAR, r"shape is \(48, 64\), expected \(H, W, 3\)"),
        ("event", SensorImage(EVENTS.astype(np.uint16)), EVENT, "dtype is uint16, expected uint8"),
        ("thermal", SensorImage(COUNTS), MONO8, "mono8 image: dtype is uint16, expected uint8"),
        ("thermal", SensorImage(RGB), GAIN, r"shape is \(48, 64, 3\), expected \(H, W\)"),
        ("event", SensorImage(EVENTS[:, :48]), EVENT, "raster of 48x48 .* view of 64x48"),
        ("depth", SensorImage(RGB[:46]), PNG8, "raster of 64x46 pixels, expected .* 64x48"),
        ("depth", SensorImage(RGB, SHIFTED), PNG8, "raster of 64x48 pixels, expected one in the c"),
    ],
)
@pytest.mark.parametrize("size", [NATIVE, CANVAS])
def test_data_that_does_not_fit_is_refused_and_the_rest_goes_on(
    sensor: str, data: Any, modality: Modality, text: str, size: tuple[int, int]
) -> None:
    other = "event" if sensor != "event" else "depth"
    frame = Frame(RGB, {sensor: data, other: SensorImage(EVENTS)}, CAMERA)
    found = frame_planes(frame, {sensor: modality, other: PNG8}, size)
    assert list(found.auxiliaries) == [other]
    assert list(found.refused) == [sensor]
    refusal = found.refused[sensor]
    assert (refusal.sensor, refusal.reason) == (sensor, "weights")
    assert re.search(text, refusal.text), refusal.text
    assert found.blank == {}


VALUE = "the image has the same value everywhere, or does not overlap the camera's view"
FAINT = (
    "98 % of the image's values are 2950 to 2953, expected at least 4 between these, as less may "
    "be noise; parameter thermal.limits reads any contrast"
)
DIM = np.tile(np.arange(2950, 2954, dtype=np.uint16).repeat(8), (24, 1))
AWAY = Registration.from_homography([[1, 0, 500], [0, 1, 0], [0, 0, 1]])
BEHIND = LidarPoints(-np.abs(XYZ), INTENSITY, TURNED)
EMPTY = LidarPoints(XYZ[:0], INTENSITY[:0], TURNED)
COLOUR = np.tile(np.array([7, 0, 200], np.uint8), (*NATIVE, 1))


@pytest.mark.parametrize(
    ("sensor", "data", "modality", "text"),
    [
        (
            "lidar",
            BEHIND,
            LIDAR,
            "none of 300 points is in the camera's view: check the extrinsics",
        ),
        ("lidar", EMPTY, LIDAR, ""),
        ("lidar", SensorImage(np.zeros((*NATIVE, 3), np.float32)), LIDAR, VALUE),
        ("event", SensorImage(COLOUR), EVENT, VALUE),
        ("thermal", SensorImage(np.full((24, 32), 99, np.uint8)), MONO8, VALUE),
        ("thermal", SensorImage(np.full((24, 32), 25000, np.uint16)), MONO16, VALUE),
        ("thermal", SensorImage(np.full((24, 32), 77, np.uint16)), GAIN, VALUE),
        ("thermal", SensorImage(DIM), GAIN, FAINT),
        ("thermal", SensorImage(DIM, SHIFTED), GAIN, FAINT),
        # the edge of the thermal view is no contrast
        ("thermal", SensorImage(np.full((24, 32), 99, np.uint8), SHIFTED), MONO8, VALUE),
        ("thermal", SensorImage(COUNTS, AWAY), MONO16, VALUE),
    ],
)
@pytest.mark.parametrize("size", [NATIVE, CANVAS])
def test_a_sensor_that_shows_nothing_is_blank_and_says_why(
    sensor: str, data: Any, modality: Modality, text: str, size: tuple[int, int]
) -> None:
    found = planes_of(sensor, data, modality, size)
    assert found.refused == {}
    assert list(found.blank) == [sensor]
    refusal = found.blank[sensor]
    assert (refusal.sensor, refusal.reason, refusal.text) == (sensor, BLANK, text)
    plane = found.auxiliaries[sensor]  # which still is there
    assert plane.shape[:2] == size
    assert (plane == plane[:1, :1]).all()


def test_one_plane_that_changes_is_enough() -> None:
    image = COLOUR.copy()
    image[3, 5, 1] = 1
    plane_of("event", SensorImage(image), EVENT)
    one = LidarPoints(np.array([[10.0, 0, 0]], np.float32), np.ones(1, np.float32), TURNED)
    assert np.count_nonzero(plane_of("lidar", one, LIDAR)[..., 0]) == 9


def test_the_frame_s_arrays_are_not_changed() -> None:
    arrays = {"rgb": RGB, "xyz": XYZ, "counts": COUNTS, "events": EVENTS}
    before = {name: array.copy() for name, array in arrays.items()}
    sensors: dict[str, Any] = {
        "lidar": CLOUD, "thermal": SensorImage(COUNTS, SHIFTED), "event": SensorImage(EVENTS),
    }  # fmt: skip
    modalities = {"lidar": LIDAR, "thermal": MONO16, "event": EVENT}
    for size in (NATIVE, CANVAS):
        frame_planes(Frame(RGB, sensors, CAMERA), modalities, size)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name])


def test_a_thermal_camera_has_limits_and_a_polarity_of_its_own() -> None:
    """They replace the limits or percentiles of the weights, whatever the type of the image."""
    celsius = np.linspace(-10, 50, NATIVE[0] * NATIVE[1], dtype=np.float32).reshape(NATIVE)
    kelvin = np.rint((celsius + 273.15) * 100).astype(np.uint16)
    expected = np.clip(celsius / 40, 0, 1) * 255
    for modality in (MONO8, MONO16, GAIN):
        own = SensorImage(celsius, limits=(0.0, 40.0))
        np.testing.assert_allclose(plane_of("thermal", own, modality)[..., 0], expected, atol=1e-3)
        own = SensorImage(kelvin, limits=(27315.0, 31315.0))
        np.testing.assert_allclose(plane_of("thermal", own, modality)[..., 0], expected, atol=0.05)
        own = SensorImage(kelvin, limits=(27315.0, 31315.0), inverted=True)
        found = plane_of("thermal", own, modality)[..., 0]
        np.testing.assert_allclose(found, 255 - expected, atol=0.05)
    dead = celsius.copy()
    dead[3, 5], dead[3, 6] = np.nan, np.inf
    found = plane_of("thermal", SensorImage(dead, limits=(0.0, 40.0)), MONO8)[..., 0]
    assert (found[3, 5], found[3, 6]) == (0, 0)
    assert np.isfinite(found).all()


def test_an_inverted_image_is_empty_where_the_thermal_camera_does_not_see() -> None:
    white = plane_of("thermal", SensorImage(COUNTS, SHIFTED), GAIN)
    black = plane_of("thermal", SensorImage(COUNTS, SHIFTED, inverted=True), GAIN)
    _, valid = register(scale_thermal(COUNTS, "frame_gain"), SHIFTED, NATIVE, NATIVE)
    np.testing.assert_allclose(white[valid] + black[valid], 255, atol=1e-3)
    assert not black[~valid].any()


@pytest.mark.parametrize("shape", [(32, 24), (24, 24), (24, 33), (18, 32)])
def test_a_thermal_image_of_another_shape_needs_a_registration(shape: tuple[int, int]) -> None:
    """Also one that is turned by a quarter; 2 % are rounding."""
    counts = RNG.integers(26_000, 34_000, shape, np.uint16)
    refusal = planes_of("thermal", SensorImage(counts), MONO16).refused["thermal"]
    assert f"{shape[1]}x{shape[0]} pixels without registration" in refusal.text
    assert f"{NATIVE[1]}x{NATIVE[0]}" in refusal.text
    assert "thermal.registration" in refusal.text
    assert planes_of("thermal", SensorImage(counts, SHIFTED), MONO16).refused == {}


def test_a_coarser_thermal_image_of_the_same_shape_will_do() -> None:
    for shape in ((NATIVE[0] // 2, NATIVE[1] // 2), (2 * NATIVE[0], 2 * NATIVE[1])):
        counts = RNG.integers(26_000, 34_000, shape, np.uint16)
        assert planes_of("thermal", SensorImage(counts), MONO16).refused == {}


@pytest.mark.parametrize(
    ("data", "limits", "text"),
    [
        (np.linspace(6700, 7720, NATIVE[0] * NATIVE[1]), None, "100% .* 6700 to 7720"),
        (np.linspace(0, 65535, NATIVE[0] * NATIVE[1]), (100.0, 200.0), "100%"),
        (np.linspace(24_000, 25_050, NATIVE[0] * NATIVE[1]), None, "95%"),
    ],
)
def test_limits_of_another_camera_are_named(
    data: NDArray[np.float64], limits: tuple[float, float] | None, text: str
) -> None:
    counts = data.reshape(NATIVE).astype(np.uint16)
    found = planes_of("thermal", SensorImage(counts, limits=limits), MONO16)
    assert found.blank["thermal"].reason == LIMITS
    assert re.search(text, found.blank["thermal"].text), found.blank["thermal"].text
    low, high = limits or MONO16.limits or (0, 0)
    assert f"limits {low:g} and {high:g}" in found.blank["thermal"].text
    assert "thermal.limits" in found.blank["thermal"].text


def test_limits_may_clip_much() -> None:
    """A cold night: nine tenths of the image are below them."""
    counts = np.full(NATIVE, 24_000, np.uint16)
    counts.ravel()[: counts.size // 10 + 1] = 30_000
    assert planes_of("thermal", SensorImage(counts), MONO16).blank == {}


def test_a_cloud_that_is_not_in_metres_is_said_to_be_near() -> None:
    near = LidarPoints(XYZ / np.float32(1000), INTENSITY, TURNED)
    text = planes_of("lidar", near, LIDAR).blank["lidar"].text
    assert "within 1 m, expected metres" in text


@pytest.mark.parametrize("unit", [1 / 255, 2.0, 257.0])
def test_lidar_gain_reads_points_of_any_unit_and_rasters_alike(unit: float) -> None:
    gain = replace(LIDAR, encoding="lidar_gain")
    expected = plane_of("lidar", CLOUD, gain)
    other = LidarPoints(XYZ, (INTENSITY * unit).astype(np.float32), TURNED)
    np.testing.assert_allclose(plane_of("lidar", other, gain), expected, rtol=1e-5)
    raster = SensorImage(plane_of("lidar", other, LIDAR))
    np.testing.assert_allclose(plane_of("lidar", raster, gain), expected, rtol=1e-5)
    assert 90 < np.percentile(expected[expected[..., 1] > 0, 1], 90) < 110
    without = LidarPoints(XYZ, np.full(len(XYZ), unit, np.float32), TURNED)
    plane = plane_of("lidar", without, gain)
    assert not plane[..., 1].any()
    np.testing.assert_array_equal(plane[..., [0, 2]], expected[..., [0, 2]])
