# SPDX-License-Identifier: Apache-2.0
"""Encodings: those that each sensor may have, and decoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mmsam_ros.sensors import (
    ENCODINGS,
    FIELDS,
    SensorError,
    decode_raster,
    plain_modality,
    scale_raster,
    stored_alike,
)


def test_every_sensor_has_known_encodings() -> None:
    assert set(ENCODINGS) == {"camera", "lidar", "thermal", "event", "depth"}
    used = {encoding for encodings in ENCODINGS.values() for encoding in encodings}
    assert used == set(FIELDS)
    assert FIELDS["muses_raw"] == FIELDS["muses_png16"] == ("range", "intensity", "height")


def test_muses_png16_gives_metres() -> None:
    values = np.array([[[17.5, 200.0, -1.62], [0.0, 0.0, 0.0]]])
    stored = np.round((values + 100) * 150).astype(np.uint16)
    decoded = decode_raster(stored, "muses_png16")
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, values, atol=0.5 / 150 + 1e-5)
    assert (decoded[0, 1] == 0).all()


def _raster(intensity: NDArray[np.floating]) -> NDArray[np.float32]:
    """A raster of range, intensity and height, every second pixel of which holds something."""
    raster = np.zeros((20, 30, 3), np.float32)
    raster[:, ::2] = np.stack([np.full((20, 15), 9.0), intensity, np.full((20, 15), -1.5)], -1)
    return raster


INTENSITY = np.random.default_rng(0).gamma(1.5, 20.0, (20, 15))


def test_lidar_gain_makes_the_ninetieth_percentile_100() -> None:
    steps = np.arange(1.0, 301.0).reshape(20, 15)
    scaled = scale_raster(_raster(steps), "lidar_gain")
    # linear between ranks 269 and 270 of 0..299
    expected = np.minimum(steps * 100 / 270.1, 255)
    np.testing.assert_allclose(scaled[:, ::2, 1], expected, rtol=1e-5)
    np.testing.assert_array_equal(scaled[..., [0, 2]], _raster(steps)[..., [0, 2]])
    assert not scaled[:, 1::2].any()
    bright = np.where(steps > 295, 1e5, steps)  # a few retroreflectors change nothing else
    again = scale_raster(_raster(bright), "lidar_gain")
    np.testing.assert_allclose(again[:19, ::2, 1], expected[:19], rtol=1e-5)
    assert again.max() == 255


@pytest.mark.parametrize("unit", [1 / 65535, 1 / 255, 0.5, 1, 2, 16, 257, 1e6])
def test_lidar_gain_does_not_depend_on_the_unit(unit: float) -> None:
    expected = scale_raster(_raster(INTENSITY), "lidar_gain")
    scaled = scale_raster(_raster(INTENSITY * unit), "lidar_gain")
    np.testing.assert_allclose(scaled, expected, rtol=1e-5)
    np.testing.assert_allclose(scale_raster(scaled, "lidar_gain"), scaled, rtol=1e-5)


@pytest.mark.parametrize(
    "intensity",
    [0.0, 1.0, 77.5, 65535.0, -3.0, 100 + 0.1 * np.cos(INTENSITY), np.where(INTENSITY > 200, 1, 0)],
)
def test_an_intensity_without_contrast_is_none(intensity: Any) -> None:
    scaled = scale_raster(_raster(np.broadcast_to(intensity, (20, 15))), "lidar_gain")
    assert not scaled[..., 1].any()
    assert (scaled[:, ::2, 0] == 9).all()


def test_an_empty_raster_and_other_encodings_stay_as_they_are() -> None:
    empty = np.zeros((4, 5, 3), np.float32)
    np.testing.assert_array_equal(scale_raster(empty, "lidar_gain"), empty)
    raster = _raster(INTENSITY)
    assert scale_raster(raster, "muses_raw") is raster
    modality = plain_modality("lidar_gain")
    assert (modality.std, modality.point_size) == (plain_modality("muses_raw").std, 2)


def test_what_is_stored_alike() -> None:
    assert stored_alike("lidar_gain", "muses_raw")
    assert stored_alike("png8", "png8")
    assert not stored_alike("lidar_gain", "muses_png16")
    assert not stored_alike("mono8", "frame_gain")


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_either_byte_order(byte_order: str) -> None:
    stored = np.array([[1, 256], [65535, 0]], f"{byte_order}u2")
    decoded = decode_raster(stored, "mono16")
    assert decoded.shape == (2, 2, 1)
    assert decoded[..., 0].tolist() == [[1, 256], [65535, 0]]


@pytest.mark.parametrize(
    ("encoding", "dtype"),
    [
        ("rgb8", np.uint8),
        ("png8", np.uint8),
        ("muses_raw", np.float32),
        ("lidar_gain", np.float32),
        ("event_counts", np.uint8),
        ("mono8", np.uint8),
        ("frame_gain", np.uint8),
        ("frame_gain", np.uint16),
    ],
)
def test_other_encodings_keep_their_numbers(encoding: str, dtype: type) -> None:
    channels = len(FIELDS[encoding])
    shape = (4, 5) if channels == 1 else (4, 5, channels)
    image = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    decoded = decode_raster(image, encoding)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, image.reshape(4, 5, channels))
    assert not np.shares_memory(decoded, image)


@pytest.mark.parametrize(
    ("image", "encoding", "message"),
    [
        (np.zeros((2, 2, 3), np.float32), "png8", "png8 image: dtype is float32, expected uint8"),
        (np.zeros((2, 2, 3), np.uint8), "muses_raw", "dtype is uint8, expected float32"),
        (np.zeros((2, 2, 4), np.uint8), "png8", r"shape is \(2, 2, 4\), expected \(H, W, 3\)"),
        (np.zeros((2, 2), np.float32), "muses_raw", r"expected \(H, W, 3\)"),
        (np.zeros((2, 2, 3), np.uint8), "mono8", r"expected \(H, W\)"),
        (np.zeros((2, 2), np.int16), "frame_gain", "dtype is int16, expected uint8 or uint16"),
        (np.zeros((2, 2), np.uint8), "jpeg", "encoding is 'jpeg', expected one of rgb8"),
    ],
)
def test_refusals(image: np.ndarray, encoding: str, message: str) -> None:
    with pytest.raises(SensorError, match=message):
        decode_raster(image, encoding)


def test_depth_that_is_not_above_0_was_not_measured() -> None:
    """-1 is what some drivers write for it."""
    depth = np.array([[-1.0, 0.0, 2.0, -np.inf, np.inf, np.nan]], np.float32)
    assert decode_raster(depth, "depth_metres")[..., 0].tolist() == [[0, 0, 2, 0, 0, 0]]
