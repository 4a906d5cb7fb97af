# SPDX-License-Identifier: Apache-2.0
"""Image and CompressedImage to arrays and back: every encoding, padding, byte order."""

from __future__ import annotations

import array
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.messages import (
    camera_rgb,
    cv_bridge_reader,
    depth_values,
    fill_image,
    raster_values,
    thermal_counts,
)
from mmsam_ros.ros.recording import Recording

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)


def message(pixels: np.ndarray, encoding: str, *, padding: int = 0, big: bool = False) -> Any:
    """An Image-like object with `padding` bytes after each row."""
    if big:
        pixels = pixels.astype(pixels.dtype.newbyteorder(">"))
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    return SimpleNamespace(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(big),
        step=rows.shape[1],
        data=array.array("B", rows.tobytes()),
    )


def compressed(pixels: np.ndarray, form: str, suffix: str = ".png") -> Any:
    return SimpleNamespace(
        format=form, data=array.array("B", cv2.imencode(suffix, pixels)[1].tobytes())
    )


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("rgba8", np.dstack([RGB, RGB[..., :1]])),
        ("bgra8", np.dstack([RGB[..., ::-1], RGB[..., :1]])),
    ],
)
def test_color_encodings(encoding: str, pixels: np.ndarray, padding: int) -> None:
    assert np.array_equal(camera_rgb(message(pixels, encoding, padding=padding)), RGB)


def test_grey_is_repeated() -> None:
    assert np.array_equal(camera_rgb(message(RGB[..., 0], "mono8")), np.repeat(RGB[..., :1], 3, 2))


@pytest.mark.parametrize(
    ("encoding", "pattern"),
    [(f"bayer_{name}8", name.upper()) for name in ("rggb", "bggr", "gbrg", "grbg")],
)
def test_bayer_patterns(encoding: str, pattern: str) -> None:
    """A picture of one colour, seen through each mosaic, comes back as that colour."""
    color = {"R": 200, "G": 120, "B": 40}
    tile = np.array([color[c] for c in pattern], np.uint8).reshape(2, 2)
    rgb = camera_rgb(message(np.tile(tile, (4, 4)), encoding))
    assert np.abs(rgb[2:-2, 2:-2].astype(int) - (200, 120, 40)).max() <= 1


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_thermal_16_bit(encoding: str, padding: int, big: bool) -> None:
    counts = RNG.integers(0, 65536, (5, 7), np.uint16)
    read = thermal_counts(message(counts, encoding, padding=padding, big=big))
    assert read.dtype == np.uint16
    assert read.dtype.isnative
    assert np.array_equal(read, counts)


def test_thermal_compressed() -> None:
    counts = RNG.integers(0, 65536, (5, 7), np.uint16)
    assert np.array_equal(thermal_counts(compressed(counts, "mono16; png compressed")), counts)
    grey = RNG.integers(0, 256, (5, 7), np.uint8)
    assert np.array_equal(thermal_counts(compressed(grey, "png")), grey)
    assert np.array_equal(thermal_counts(compressed(np.repeat(grey[..., None], 3, 2), "png")), grey)
    with pytest.raises(RosError, match="image has colours"):
        thermal_counts(compressed(RGB, "png"))


@pytest.mark.parametrize("form", ["png", "rgb8; png compressed bgr8", "PNG"])
def test_camera_compressed(form: str) -> None:
    assert np.array_equal(camera_rgb(compressed(RGB[..., ::-1], form)), RGB)


@pytest.mark.parametrize("form", ["jpeg", "jpg", "rgb8; jpeg compressed bgr8"])
def test_camera_jpeg(form: str) -> None:
    flat = np.full((16, 16, 3), (180, 90, 30), np.uint8)
    rgb = camera_rgb(compressed(flat[..., ::-1], form, ".jpg"))
    assert np.abs(rgb.astype(int) - flat).max() <= 3


def test_bayer_compressed() -> None:
    """As image_transport sends it: the mosaic as png, colours as jpeg."""
    mosaic = np.tile(np.array([[200, 120], [120, 40]], np.uint8), (4, 4))
    raw = camera_rgb(message(mosaic, "bayer_rggb8"))
    png = camera_rgb(compressed(mosaic, "bayer_rggb8; png compressed "))
    assert np.array_equal(png, raw)
    flat = np.full((16, 16, 3), (180, 90, 30), np.uint8)
    jpeg = camera_rgb(compressed(flat[..., ::-1], "bayer_rggb8; jpeg compressed bgr8", ".jpg"))
    assert np.abs(jpeg.astype(int) - flat).max() <= 3
    deep = compressed(mosaic.astype(np.uint16) * 257, "bayer_rggb16; png compressed ")
    assert np.array_equal(camera_rgb(deep), raw)


def test_sixteen_bits_do_not_fit_a_jpeg() -> None:
    """image_transport's default; what it leaves of the counts is no temperature."""
    grey = RNG.integers(0, 256, (8, 8), np.uint8)
    lossy = compressed(grey, "mono16; jpeg compressed mono8", ".jpg")
    with pytest.raises(
        RosError, match=r"is uint8: its values are lost; .*compressed\.format to png"
    ):
        thermal_counts(lossy)
    with pytest.raises(RosError, match="its values are lost"):
        raster_values(compressed(grey, "16UC1; jpeg compressed mono8", ".jpg"))


def test_rasters() -> None:
    metres = RNG.normal(size=(4, 6, 3)).astype(np.float32)
    assert np.array_equal(raster_values(message(metres, "32FC3", padding=4)), metres)
    assert np.array_equal(raster_values(message(metres, "32FC3", big=True)), metres)
    assert np.array_equal(raster_values(message(RGB[..., ::-1], "bgr8")), RGB)
    grey = np.repeat(RGB[..., :1], 3, 2)
    assert np.array_equal(raster_values(message(RGB[..., 0], "mono8")), grey)
    assert np.array_equal(raster_values(compressed(RGB[..., ::-1], "png")), RGB)
    stored = RNG.integers(0, 65536, (4, 6, 3), np.uint16)
    assert np.array_equal(raster_values(message(stored, "16UC3")), stored)
    # image_transport takes these for no colours and compresses them as they are
    assert np.array_equal(raster_values(compressed(stored, "16UC3; png compressed ")), stored)
    assert np.array_equal(raster_values(compressed(RGB, "8UC3; png compressed ")), RGB)
    in_order = compressed(RGB[..., ::-1], "rgb8; png compressed bgr8")
    assert np.array_equal(raster_values(in_order), RGB)


@pytest.mark.parametrize(
    ("form", "data", "reason"),
    [
        ("png", b"", "data is empty"),
        ("png", b"\x89PNG broken", "cannot be decoded"),
        ("jpeg", b"\xff\xd8\xff\xe0 short", "cannot be decoded"),
        ("16UC1; compressedDepth png", b"x", "expected jpeg or png"),
        ("h264", b"x", "expected jpeg or png"),
        ("", b"x", "expected jpeg or png"),
    ],
)
def test_broken_compressed_images(form: str, data: bytes, reason: str) -> None:
    with pytest.raises(RosError, match=reason) as caught:
        camera_rgb(SimpleNamespace(format=form, data=array.array("B", data)))
    assert caught.value.reason == "compressed"


def test_a_compressed_image_has_a_limit_too() -> None:
    wide = np.zeros((1, 20_000), np.uint8)
    with pytest.raises(RosError, match="size is 20000x1, expected sides of 1 to 16384"):
        thermal_counts(compressed(wide, "png"))


def test_no_copy_where_the_layout_permits() -> None:
    given = message(RGB, "rgb8")
    assert np.shares_memory(camera_rgb(given), np.frombuffer(given.data, np.uint8))


def test_fill_image_is_the_inverse() -> None:
    from sensor_msgs.msg import Image

    for pixels, encoding in ((RGB, "rgb8"), (RGB[..., 0], "mono8")):
        filled = fill_image(Image(), pixels, encoding)
        assert (filled.height, filled.width, filled.step) == (6, 8, pixels[0].nbytes)
        assert filled.encoding == encoding
        assert np.array_equal(np.frombuffer(filled.data, np.uint8).reshape(pixels.shape), pixels)


@settings(max_examples=300)
@given(
    st.sampled_from(["rgb8", "mono16", "32FC3", "bayer_rggb8", "mono8", "", "bgr8"]),
    *(st.integers(0, 40) for _ in range(3)),
    st.integers(0, 400),
    st.integers(0, 1),
)
def test_any_header_is_read_or_refused(
    encoding: str, height: int, width: int, step: int, size: int, big: int
) -> None:
    """Whatever the fields say, the reader returns an image of that size or raises RosError."""
    given = SimpleNamespace(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=big,
        step=step,
        data=array.array("B", bytes(size)),
    )
    for read in (camera_rgb, thermal_counts, raster_values):
        try:
            pixels = read(given)
        except RosError as error:
            assert error.reason in {"encoding", "size", "step", "data_length"}
        else:
            assert pixels.shape[:2] == (height, width)


def test_cv_bridge_agrees() -> None:
    pytest.importorskip("cv_bridge", reason="cv_bridge is not on pip")
    read = cv_bridge_reader()
    assert np.array_equal(camera_rgb(message(RGB[..., ::-1], "bgr8"), read), RGB)


def test_cv_bridge_is_refused_where_it_is_not_installed() -> None:
    try:
        import cv_bridge  # noqa: F401
    except ImportError:
        with pytest.raises(RosError, match=r"image_backend.*not installed"):
            cv_bridge_reader()
    else:
        pytest.skip("cv_bridge is installed")


def read_bag(shared: Path) -> dict[str, list[Any]]:
    messages: dict[str, list[Any]] = {}
    with Recording(shared / "data/rgb_thermal_mcap") as reader:
        for connection, _, raw in reader.messages():
            decoded = reader.deserialize(raw, connection.msgtype)
            messages.setdefault(connection.topic, []).append(decoded)
    return messages


def test_real_edge_cases(shared: Path) -> None:
    """Real thermal and RGB in every awkward form that the bag has: all show the same picture."""
    bag = read_bag(shared)
    little, big, png = (
        thermal_counts(bag[t][0])
        for t in ("/thermal16/image_raw", "/thermal16/be", "/thermal16/png/compressed")
    )
    assert little.dtype == np.uint16
    assert np.array_equal(little, big)
    assert np.array_equal(little, png)
    padded, bayer = (camera_rgb(bag[t][0]) for t in ("/padded_step/image_raw", "/bayer/image_raw"))
    assert padded.shape == bayer.shape == (374, 1240, 3)
    error = np.abs(bayer.astype(int) - padded).mean()
    swapped = np.abs(bayer[..., ::-1].astype(int) - padded).mean()
    assert error < 6 < swapped  # the same picture; a wrong pattern swaps red and blue
    with pytest.raises(RosError, match="compressedDepth"):
        camera_rgb(bag["/depth/image_raw/compressedDepth"][0])
    depth = depth_values(bag["/depth/image_raw/compressedDepth"][0])
    assert depth.dtype == np.uint16
    assert depth.max() > 0


@pytest.mark.parametrize("sent", ["mono16", "bayer_rggb16"])
def test_a_camera_of_16_bits_that_became_jpeg(sent: str) -> None:
    """image_transport clips grey and Bayer images of 16 bits at 255: they would be white."""
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    with pytest.raises(RosError, match=r"values are lost; .*compressed\.format to png"):
        camera_rgb(compressed(ramp, f"{sent}; jpeg compressed ", ".jpg"))


@pytest.mark.parametrize(
    "form",
    ["rgb16; jpeg compressed bgr8", "mono16; jpeg compressed mono8", "mono8; jpeg compressed ",
     "jpeg", ""],
)  # fmt: skip
def test_a_camera_that_was_scaled_before_it_became_jpeg(form: str) -> None:
    grey = np.full((8, 8), 90, np.uint8)
    assert np.abs(camera_rgb(compressed(grey, form, ".jpg")).astype(int) - 90).max() <= 2


@pytest.mark.parametrize("encoding", ["mono16", "rgb16", "bayer_rggb16"])
def test_a_camera_whose_bytes_are_swapped(encoding: str) -> None:
    """Its picture would be noise."""
    row = np.linspace(500, 65000, 96).astype(np.uint16)
    shape = (96, 1, 3) if encoding == "rgb16" else (96, 1)
    pixels = np.tile(row[:, None] if encoding == "rgb16" else row, shape)
    assert camera_rgb(message(pixels, encoding)).max() > 200
    with pytest.raises(RosError, match="is_bigendian"):
        camera_rgb(message(pixels.byteswap(), encoding))


def test_a_camera_of_noise_is_no_matter_of_bytes() -> None:
    noise = RNG.integers(0, 65536, (96, 96)).astype(np.uint16)
    assert camera_rgb(message(noise, "mono16")).shape == (96, 96, 3)


def test_full_memory_is_no_broken_image() -> None:
    """In a process that may have no more memory than it has, and a little."""
    code = """
import re, resource, types, cv2, numpy as np
from mmsam_ros.ros.messages import camera_rgb
cv2.setNumThreads(1)
def jpeg(side):
    pixels = np.zeros((side, side, 3), np.uint8)
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    return types.SimpleNamespace(format="jpeg", data=data)
large = jpeg(8000)
camera_rgb(jpeg(64))
used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 80 * 2**20, -1))
try:
    camera_rgb(large)
except MemoryError:
    print("full")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "full\n", done.stderr
