# SPDX-License-Identifier: Apache-2.0
"""Compressed images: whole ones are read, others refused, whatever OpenCV makes of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mmsam_ros.sensors import SensorError, decode_image


def encoded(suffix: str, *options: int) -> tuple[np.ndarray, bytes]:
    """A smooth picture with some noise, as cameras give it, and its file."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 160)[None, :, None] + np.linspace(0, 30, 120)[:, None, None]
    image = (ramp + rng.integers(0, 20, (120, 160, 3))).astype(np.uint8)
    return image, cv2.imencode(suffix, image, options)[1].tobytes()


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
def test_a_whole_jpeg(options: tuple[int, ...]) -> None:
    image, data = encoded(".jpg", *options)
    found = decode_image(data, cv2.IMREAD_COLOR)
    assert found.shape == image.shape
    assert np.abs(found.astype(int) - image).mean() < 8


def test_a_whole_png_is_exact() -> None:
    image, data = encoded(".png")
    assert np.array_equal(decode_image(data, cv2.IMREAD_UNCHANGED), image)


def test_what_follows_the_image_does_not_matter() -> None:
    """Some cameras pad their buffers."""
    image, data = encoded(".jpg")
    assert decode_image(data + bytes(500), cv2.IMREAD_COLOR).shape == image.shape


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.99])
def test_a_cut_image_is_refused(suffix: str, share: float) -> None:
    """OpenCV 4.6 takes a JPEG of which half is there, and paints the rest grey."""
    _, data = encoded(suffix)
    with pytest.raises(SensorError, match=r"bytes (is|cannot)"):
        decode_image(data[: int(share * len(data))], cv2.IMREAD_COLOR)


def test_a_cut_jpeg_with_a_thumbnail_is_refused() -> None:
    """The thumbnail within has an end of its own."""
    _, data = encoded(".jpg")
    _, small = encoded(".jpg")
    segment = b"\xff\xe1" + (len(small) + 8).to_bytes(2, "big") + b"Exif\0\0" + small
    whole = data[:2] + segment + data[2:]
    assert decode_image(whole, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION).shape[:2] == (
        120,
        160,
    )
    with pytest.raises(SensorError, match="cut off"):
        decode_image(whole[: len(whole) - len(data) // 2], cv2.IMREAD_COLOR)


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG broken", b"\xff\xd8\xff"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(SensorError):
        decode_image(data, cv2.IMREAD_UNCHANGED)
