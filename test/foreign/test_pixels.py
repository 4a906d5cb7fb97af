# SPDX-License-Identifier: Apache-2.0
"""Images of cameras as drivers send and store them: every encoding, as message and as file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from support.images import BGR, GREY, RGB, compressed, message, png

from mmsam_ros.data.errors import DataError, DataWarning
from mmsam_ros.data.images import read_rgb
from mmsam_ros.data.read import read_sensor
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.messages import camera_rgb, thermal_counts
from mmsam_ros.ros.notes import Notes
from mmsam_ros.sensors import (
    FIELDS,
    SensorError,
    scale_thermal,
)
from mmsam_ros.sensors.pixels import PACKINGS, BitDepth

RNG = np.random.default_rng(0)
ALPHA = RNG.integers(0, 256, (6, 8, 1), np.uint8)


def deep(pixels: np.ndarray) -> np.ndarray:
    """16 bits whose upper ones are the picture, the lower ones at most half a step off."""
    return (
        (pixels.astype(np.int32) * 257 + RNG.integers(-100, 100, pixels.shape))
        .clip(0, 65535)
        .astype(np.uint16)
    )


COLOURS = {
    "rgb8": RGB,
    "bgr8": BGR,
    "8UC3": BGR,
    "rgba8": np.dstack([RGB, ALPHA]),
    "bgra8": np.dstack([BGR, ALPHA]),
    "8UC4": np.dstack([BGR, ALPHA]),
    "rgb16": deep(RGB),
    "bgr16": deep(BGR),
    "rgba16": np.dstack([deep(RGB), deep(ALPHA)]),
    "bgra16": np.dstack([deep(BGR), deep(ALPHA)]),
}


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", sorted(COLOURS))
def test_colours(encoding: str, padding: int, big: bool) -> None:
    found = camera_rgb(message(COLOURS[encoding], encoding, padding=padding, big=big))
    assert found.dtype == np.uint8
    assert np.array_equal(found, RGB)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_alpha_of_a_tiff_changes_no_colour(tmp_path: Path, compression: str | None) -> None:
    """OpenCV multiplies 8 bits by it."""
    path = tmp_path / "a.tif"
    Image.fromarray(np.dstack([RGB, ALPHA])).save(path, compression=compression)
    assert np.array_equal(read_rgb(path), RGB)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1", "mono16"])
def test_grey(encoding: str) -> None:
    pixels = deep(RGB[..., 0]) if encoding == "mono16" else RGB[..., 0]
    assert np.array_equal(camera_rgb(message(pixels, encoding)), np.repeat(RGB[..., :1], 3, 2))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer(pattern: str, bits: int, big: bool) -> None:
    """A picture of one colour, seen through each mosaic, comes back as that colour."""
    tile = np.array([{"r": 200, "g": 120, "b": 40}[c] for c in pattern], np.uint16).reshape(2, 2)
    mosaic = np.tile(tile, (4, 4)) * np.uint16(257 if bits == 16 else 1)
    mosaic = mosaic.astype(f"u{bits // 8}")
    for given in (
        message(mosaic, f"bayer_{pattern}{bits}", big=big),
        compressed(png(mosaic), f"bayer_{pattern}{bits}; png compressed "),
    ):
        rgb = camera_rgb(given)
        assert np.abs(rgb[2:-2, 2:-2].astype(int) - (200, 120, 40)).max() <= 1


# Y, U, V of BT.601 in the range of video, and the colour that it stands for
YUV = {(16, 128, 128): (0, 0, 0), (235, 128, 128): (255, 255, 255), (126, 128, 128): (128,) * 3,
       (81, 90, 240): (255, 0, 0), (145, 54, 34): (0, 255, 0),
       (41, 240, 110): (0, 0, 255)}  # fmt: skip


def packed(encoding: str, y: int, u: int, v: int) -> np.ndarray:
    """A picture of 4x8 pixels of one colour."""
    if encoding in ("nv12", "nv21"):
        chroma = (u, v) if encoding == "nv12" else (v, u)
        return np.vstack([np.full((4, 8), y), np.tile(chroma, (2, 4))]).astype(np.uint8)
    pair = [(u, y), (v, y)] if encoding in ("yuv422", "uyvy") else [(y, u), (y, v)]
    return np.tile(np.array(pair, np.uint8), (4, 4, 1))


FORMS = ["yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21"]


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("encoding", FORMS)
@pytest.mark.parametrize("yuv", list(YUV))
def test_luma_and_chroma(encoding: str, yuv: tuple[int, int, int], padding: int) -> None:
    rgb = camera_rgb(message(packed(encoding, *yuv), encoding, 4, padding=padding))
    assert rgb.shape == (4, 8, 3)
    assert np.abs(rgb.astype(int) - YUV[yuv]).max() <= 2


@pytest.mark.parametrize("step", [0, 8, 12, 16])
def test_step_of_planes_is_not_believed(step: int) -> None:
    given = message(packed("nv12", 81, 90, 240), "nv12", 4, step=step)
    assert np.abs(camera_rgb(given).astype(int) - (255, 0, 0)).max() <= 2


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (message(np.zeros((6, 8), np.uint8), "nv12", 5), "size"),
        (message(np.zeros((6, 7), np.uint8), "nv21", 4), "size"),
        (message(np.zeros((5, 8), np.uint8), "nv21", 4), "data_length"),
        (message(np.zeros((4, 7, 2), np.uint8), "yuv422"), "size"),
        (message(np.zeros((4, 8), np.uint16), "16UC1"), "encoding"),  # depth is no picture
        (message(np.zeros((4, 8), np.float32), "32FC1"), "encoding"),
        (message(np.zeros((4, 8, 3), np.uint8), "RGB8"), "encoding"),
        (compressed(png(np.zeros((4, 8), np.uint16)), "16UC1; compressedDepth png"), "compressed"),
        (compressed(b"II*\0" + bytes(50), "tiff"), "compressed"),
        (compressed(png(GREY), "bayer_rggb12; png compressed "), "encoding"),
    ],
)
def test_no_camera_image(given: Any, reason: str) -> None:
    with pytest.raises(RosError) as caught:
        camera_rgb(given)
    assert caught.value.reason == reason


def test_the_order_of_8uc3_is_said() -> None:
    said: list[str] = []
    notes = Notes(log_warning=said.append)
    for _ in range(3):
        camera_rgb(message(BGR, "8UC3"), notes=notes)
    assert len(said) == 1
    assert "blue, green, red" in said[0]


def test_the_bits_of_a_camera_are_judged_over_its_images() -> None:
    """A dark image of a camera that has filled its bits is no fault; a hot pixel fills none."""
    ramp = np.linspace(0, 1, 4800).reshape(60, 80)
    dark, bright = ((top * ramp).astype(np.uint16) for top in (3465, 60000))
    hot = dark.copy()
    hot[30, 40] = 65535
    depth = BitDepth()
    for picture in (dark, hot, np.zeros_like(dark)):
        if picture.any():
            with pytest.raises(RosError, match="no value above 34"):
                camera_rgb(message(picture, "mono16"), depth=depth)
        else:
            assert not camera_rgb(message(picture, "mono16"), depth=depth).any(), "a covered lens"
    assert camera_rgb(message(bright, "mono16"), depth=depth).max() == 233
    for picture in (dark, hot):
        assert camera_rgb(message(picture, "mono16"), depth=depth)[59, 79, 0] in (13, 255)
        assert camera_rgb(compressed(png(picture), "mono16; png compressed"), depth=depth).any()


@pytest.mark.parametrize("top", [8191, 16383, 60000])
@pytest.mark.parametrize("encoding", ["mono16", "bayer_rggb16", "png"])
def test_14_bits_are_noted(encoding: str, top: int) -> None:
    picture = np.full((60, 80), top, np.uint16)
    given = compressed(png(picture), "png") if encoding == "png" else message(picture, encoding)
    said: list[str] = []
    depth, notes = BitDepth(), Notes(log_warning=said.append)
    for _ in range(5):
        assert camera_rgb(given, notes=notes, depth=depth).any()
    assert len(said) == (top < 16384)
    assert all("in 3 images of 16 bits. If they have 14 bits" in text for text in said)


@pytest.mark.parametrize("top", [1023, 4095])
@pytest.mark.parametrize("encoding", ["mono16", "bayer_rggb16", "rgb16"])
def test_low_bits_are_no_black_picture(encoding: str, top: int, tmp_path: Path) -> None:
    """10 or 12 bits as some drivers copy them: scaled as 16 bits they would all be black."""
    shape = (6, 8, 3) if encoding == "rgb16" else (6, 8)
    counts = np.full(shape, top, np.uint16)
    with pytest.raises(RosError, match=f"no value above {top}, expected the whole range") as caught:
        camera_rgb(message(counts, encoding))
    assert caught.value.reason == "encoding"
    cv2.imwrite(str(tmp_path / "a.png"), counts)
    with pytest.raises(DataError, match=f"a.png: .*no value above {top}"):
        read_rgb(tmp_path / "a.png")


@pytest.mark.parametrize("form", ["png", "", "rgb8; png compressed bgr8", "PNG", "bgr8"])
def test_what_the_data_begins_with_counts(form: str) -> None:
    assert np.array_equal(camera_rgb(compressed(png(BGR), form)), RGB)


STORED = {
    "colours": (BGR, RGB),
    "alpha": (np.dstack([BGR, ALPHA]), RGB),
    "colours of 16 bits": (deep(BGR), RGB),
    "alpha of 16 bits": (np.dstack([deep(BGR), deep(ALPHA)]), RGB),
    "grey": (RGB[..., 0], np.repeat(RGB[..., :1], 3, 2)),
    "grey of 16 bits": (deep(RGB[..., 0]), np.repeat(RGB[..., :1], 3, 2)),
}


@pytest.mark.parametrize("kind", sorted(STORED))
def test_files_are_read_as_messages_are(kind: str, tmp_path: Path) -> None:
    pixels, expected = STORED[kind]
    (tmp_path / "a.png").write_bytes(png(pixels))
    assert np.array_equal(read_rgb(tmp_path / "a.png"), expected)
    assert np.array_equal(camera_rgb(compressed(png(pixels), "png")), expected)


# thermal

COUNTS = RNG.integers(0, 65536, (4, 8), np.uint16)
DEGREES = RNG.uniform(-20, 90, (4, 8)).astype(np.float32)
THERMAL = {
    "mono8": (GREY, GREY),
    "8UC1": (GREY, GREY),
    "mono16": (COUNTS, COUNTS),
    "16UC1": (COUNTS, COUNTS),
    "32FC1": (DEGREES, DEGREES),
    **{name: (np.repeat(GREY[..., None], 3, 2), GREY) for name in ("rgb8", "bgr8", "8UC3")},
    **{name: (np.dstack([*[GREY] * 3, COUNTS.astype(np.uint8)]), GREY) for name in
       ("rgba8", "bgra8")},
    **{name: (np.dstack([np.full_like(GREY, 128), GREY]), GREY) for name in ("yuv422", "uyvy")},
    **{name: (np.dstack([GREY, np.full_like(GREY, 128)]), GREY) for name in ("yuyv",)},
    "nv12": (np.vstack([GREY, np.full((2, 8), 128, np.uint8)]), GREY),
}  # fmt: skip


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", sorted(THERMAL))
def test_thermal(encoding: str, big: bool) -> None:
    pixels, expected = THERMAL[encoding]
    found = thermal_counts(message(pixels, encoding, 4, big=big))
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "given",
    [
        message(RGB, "rgb8"),
        message(packed("yuv422", 81, 90, 240), "yuv422"),
        message(packed("nv12", 81, 90, 240), "nv12", 4),
        compressed(png(BGR), "png"),
    ],
)
def test_false_colours_are_refused(given: Any) -> None:
    with pytest.raises(RosError, match="false colours are no measurement") as caught:
        thermal_counts(given)
    assert caught.value.reason == "encoding"


def test_a_grey_png_with_alpha() -> None:
    pixels = np.dstack([np.repeat(GREY[..., None], 3, 2), COUNTS.astype(np.uint8)])
    assert np.array_equal(thermal_counts(compressed(png(pixels), "png")), GREY)


@pytest.mark.parametrize("offset", [0.0, 273.15])
def test_degrees_and_kelvin_give_the_same_picture(offset: float) -> None:
    """frame_gain takes any unit; limits are in the unit of the image."""
    ramp = np.linspace(0, 50, 101, dtype=np.float32).reshape(1, -1) + np.float32(offset)
    gain = scale_thermal(ramp, "frame_gain")
    np.testing.assert_allclose(gain[0, [0, 1, 50, 99, 100]], [0, 0, 127.5, 255, 255], atol=0.01)
    fixed = scale_thermal(ramp, "mono16", (offset, 50 + offset))
    np.testing.assert_allclose(fixed[0, [0, 50, 100]], [0, 127.5, 255], atol=0.01)


def test_floats_without_contrast_and_without_values() -> None:
    flat = RNG.normal(20, 0.02, (20, 20)).astype(np.float32)
    assert not scale_thermal(flat, "frame_gain").any()
    ramp = np.linspace(0, 50, 400, dtype=np.float32).reshape(20, 20)
    spoilt = ramp.copy()
    spoilt[3, 4] = np.nan  # a dead pixel
    scaled = scale_thermal(spoilt, "frame_gain")
    assert scaled[3, 4] == 0
    np.testing.assert_allclose(scaled[10:], scale_thermal(ramp, "frame_gain")[10:], atol=1)
    spoilt[:11] = np.nan
    with pytest.raises(SensorError, match="220 of 400 values are NaN"):
        scale_thermal(spoilt, "frame_gain")


@pytest.mark.parametrize(
    ("encoding", "limits", "own"),
    [("mono16", (0.0, 50.0), None), ("mono16", (7.0, 8.0), (0.0, 50.0)), ("frame_gain", None, None),
     ("frame_gain", None, (0.0, 50.0)), ("mono8", None, (0.0, 50.0))],
)  # fmt: skip
def test_unknown_values_are_dark_whatever_the_polarity(
    encoding: str, limits: Any, own: Any
) -> None:
    warm = np.linspace(0, 50, 400, dtype=np.float32).reshape(20, 20)
    warm[3:5, 4:8] = np.nan, np.inf, -np.inf, 1e30
    known = np.ones(warm.shape, bool)
    known[3:5, 4:8] = False
    plain = scale_thermal(warm, encoding, limits, own_limits=own)
    inverted = scale_thermal(warm, encoding, limits, own_limits=own, inverted=True)
    assert not plain[~known].any()
    assert not inverted[~known].any()
    np.testing.assert_array_equal(inverted[known], 255 - plain[known])
    assert plain[19, 19] == 255


@pytest.mark.parametrize("own", [None, (0.0, 40.0)])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e12])
def test_mostly_unknown_images_are_refused_with_and_without_limits(value: float, own: Any) -> None:
    warm = np.linspace(0, 50, 400, dtype=np.float32).reshape(20, 20)
    for rows in (12, 20):
        warm[:rows] = value
        with pytest.raises(SensorError, match=f"{20 * rows} of 400 values are NaN or infinite"):
            scale_thermal(warm, "frame_gain", own_limits=own)


def test_grey_jpegs_in_colour() -> None:
    """Some encoders leave a trace of colour; their mean is read."""
    grey = cv2.GaussianBlur(RNG.integers(0, 256, (40, 60), np.uint8), (0, 0), 3)
    traced = np.dstack([grey, grey + 2, grey + 4])
    found = thermal_counts(message(traced, "rgb8"))
    assert np.array_equal(found, grey + 2)
    sent = cv2.imencode(".jpg", np.repeat(grey[..., None], 3, 2))[1].tobytes()
    assert np.abs(thermal_counts(compressed(sent, "jpeg")).astype(int) - grey).max() <= 8


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("spread", [0, 1, 4, 8, 9, 200])
def test_one_rule_of_grey_for_messages_and_files(tmp_path: Path, spread: int, kind: type) -> None:
    pixels = RNG.integers(0, 50, (4, 8, 1)) + np.array([0, spread // 2, spread])
    bgr = pixels.astype(kind)
    (tmp_path / "a.png").write_bytes(png(bgr))
    given = [compressed(png(bgr), "png")]
    if kind is np.uint8:
        given += [message(bgr, "bgr8"), message(bgr, "8UC3")]
    encoding = "mono8" if kind is np.uint8 else "mono16"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        if spread > 8:
            text = f"has colours .channels differ by up to {spread}"
            for one in given:
                with pytest.raises(RosError, match=text):
                    thermal_counts(one)
            with pytest.raises(DataError, match=text):
                read_sensor("thermal", tmp_path / "a.png", encoding, None)
            return
        expected = np.rint(pixels.mean(2)).astype(kind)
        stored = read_sensor("thermal", tmp_path / "a.png", encoding, None)
        for found in (stored.data, *map(thermal_counts, given)):
            assert found.dtype == kind
            np.testing.assert_array_equal(found, expected)


def test_the_documentation_has_every_encoding(root: Path) -> None:
    text = (root / "docs/sensors.md").read_text(encoding="utf-8")
    table = text[text.index("## Encodings") :]
    words = {*PACKINGS, *FIELDS}
    assert not [word for word in words if f"`{word}`" not in table]
