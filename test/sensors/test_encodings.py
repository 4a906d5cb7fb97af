# SPDX-License-Identifier: Apache-2.0
"""Encodings: those that each sensor may have, and decoding."""

from __future__ import annotations

import numpy as np
import pytest

from mmsam_ros.sensors import ENCODINGS, FIELDS, SensorError, decode_raster


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
