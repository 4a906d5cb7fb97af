# SPDX-License-Identifier: Apache-2.0
"""JPEG and PNG files that were cut or damaged on their way, under every OpenCV."""

from __future__ import annotations

import array
import contextlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.images import read_rgb
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.messages import camera_rgb
from mmsam_ros.sensors import SensorError, decode_image

RNG = np.random.default_rng(0)


def scene(height: int = 240, width: int = 320, channels: int = 3) -> np.ndarray:
    ramp = np.linspace(0, 200, width)[None, :, None] + np.linspace(0, 30, height)[:, None, None]
    return (ramp + RNG.integers(0, 20, (height, width, channels))).astype(np.uint8)


OPTIONS: dict[str, tuple[int, ...]] = {
    "plain": (),
    "best": (cv2.IMWRITE_JPEG_QUALITY, 100),
    "optimised": (cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    "progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts": (cv2.IMWRITE_JPEG_RST_INTERVAL, 4),
}


def jpeg(pixels: np.ndarray, options: str) -> bytes:
    return cv2.imencode(".jpg", pixels, OPTIONS[options])[1].tobytes()


@pytest.mark.parametrize("options", sorted(OPTIONS))
@pytest.mark.parametrize("channels", [1, 3])
def test_cut_jpegs(options: str, channels: int) -> None:
    data = jpeg(scene(channels=channels), options)
    assert decode_image(data, cv2.IMREAD_UNCHANGED).shape[:2] == (240, 320)
    for end in np.linspace(1, len(data) - 3, 40, dtype=int):
        with pytest.raises(SensorError):
            decode_image(data[:end], cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("options", ["plain", "best", "optimised", "restarts"])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpegs_with_a_hole(options: str, channels: int) -> None:
    """A packet is lost: what follows is taken for it, and the last rows are missing."""
    data, unseen = jpeg(scene(channels=channels), options), 0
    for start in np.linspace(1000, len(data) - 4000, 20, dtype=int):
        try:
            decode_image(data[:start] + data[start + 1500 :], cv2.IMREAD_UNCHANGED)
            unseen += 1
        except SensorError:
            pass
        with pytest.raises(SensorError):
            decode_image(data[:start] + data[-2:], cv2.IMREAD_UNCHANGED)
    assert unseen <= 2  # by chance the rest may decode into as many blocks as are needed


@pytest.mark.parametrize("options", sorted(OPTIONS))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("grey", [16, 100, 240])
def test_whole_jpegs_whose_last_rows_are_grey(options: str, channels: int, grey: int) -> None:
    """A border of 128 is what a decoder fills up as well."""
    pixels = scene(channels=channels)
    pixels[-grey:] = 128
    found = decode_image(jpeg(pixels, options), cv2.IMREAD_UNCHANGED)
    assert (found[-8:] == 128).all()
    decode_image(jpeg(np.full_like(pixels, 128), options), cv2.IMREAD_UNCHANGED)


def test_whole_jpegs_with_appendices() -> None:
    """A thumbnail before, a second picture and padding behind."""
    data = jpeg(scene(), "plain")
    note = b"\xff\xe1" + (len(data) // 4 + 2).to_bytes(2, "big") + data[: len(data) // 4]
    for whole in (data[:2] + note + data[2:], data + data, data + bytes(999)):
        assert decode_image(whole, cv2.IMREAD_UNCHANGED).shape == (240, 320, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpegs_cut_off_and_closed(channels: int) -> None:
    """Some drivers append the end of the file to what they have."""
    data = jpeg(scene(channels=channels), "plain")
    for end in np.linspace(1000, len(data) - 1000, 20, dtype=int):
        with pytest.raises(SensorError, match="parts of it are missing"):
            decode_image(data[:end] + data[-2:], cv2.IMREAD_UNCHANGED)


def test_a_restart_marker_before_the_end() -> None:
    data = jpeg(scene(), "restarts")
    last = max(data.rfind(bytes([0xFF, number])) for number in range(0xD0, 0xD8))
    closed = data[:-2] + bytes([0xFF, 0xD0 + (data[last + 1] + 1) % 8]) + data[-2:]
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(decode_image(closed, cv2.IMREAD_UNCHANGED), expected)


def test_damaged_pngs() -> None:
    data = cv2.imencode(".png", scene())[1].tobytes()
    for start in np.linspace(40, len(data) - 200, 20, dtype=int):
        for spoilt in (
            data[:start],
            data[:start] + data[start + 100 :],
            data[:start] + bytes(100) + data[start + 100 :],
            data[:start] + bytes([data[start] ^ 1]) + data[start + 1 :],
        ):
            with pytest.raises(SensorError):
                decode_image(spoilt, cv2.IMREAD_UNCHANGED)


def test_messages_and_files_name_the_damage(tmp_path: Path) -> None:
    cut = jpeg(scene(), "plain")[:5000]
    (tmp_path / "a.jpg").write_bytes(cut)
    with pytest.raises(RosError, match="jpeg data of 5000 bytes is cut off") as caught:
        camera_rgb(SimpleNamespace(format="jpeg", data=array.array("B", cut)))
    assert caught.value.reason == "compressed"
    with pytest.raises(DataError, match=r"a\.jpg: is broken"):
        read_rgb(tmp_path / "a.jpg")


@pytest.mark.parametrize("options", sorted(OPTIONS))
def test_whatever_is_damaged_is_read_or_refused(options: str) -> None:
    data = bytearray(jpeg(scene(48, 64), options))
    for _ in range(1500):
        spoilt = data.copy()
        for place in RNG.integers(2, len(data), RNG.integers(1, 4)):
            spoilt[place] = RNG.integers(0, 256)
        with contextlib.suppress(SensorError):
            decode_image(bytes(spoilt), cv2.IMREAD_UNCHANGED)
    for length in range(700):
        with pytest.raises(SensorError):
            decode_image(bytes(data[:length]), cv2.IMREAD_UNCHANGED)
