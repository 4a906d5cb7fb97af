# SPDX-License-Identifier: Apache-2.0
"""Depth images as drivers send and store them: every encoding, as message and file, in metres."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from support.images import BGR, GREY, RGB, compressed, message, png
from support.networks import spec_of

from mmsam_ros.data.read import read_sensor
from mmsam_ros.ros.calibration import CameraInfos, Extrinsics
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.frames import FrameBuilder
from mmsam_ros.ros.messages import depth_values, raster_values
from mmsam_ros.ros.sets import Entry, SyncedSet
from mmsam_ros.sensors import (
    Frame,
    LidarPoints,
    Registration,
    SensorImage,
    decode_raster,
    frame_planes,
    plain_modality,
)

RNG = np.random.default_rng(0)
MILLIMETRES = RNG.integers(300, 20_000, (4, 8)).astype(np.uint16)
MILLIMETRES[0, :2] = 0
METRES = MILLIMETRES / np.float32(1000)


def quantised(metres: np.ndarray, a: float, b: float) -> bytes:
    """compressedDepth of floats: a / depth + b in a PNG, behind format, a and b."""
    with np.errstate(divide="ignore"):
        counts = np.where(metres > 0, a / metres + b, 0).astype(np.uint16)
    return struct.pack("<iff", 1, a, b) + png(counts)


@pytest.mark.parametrize(
    ("given", "tolerance"),
    [
        (message(MILLIMETRES, "16UC1"), 0),
        (message(MILLIMETRES, "16UC1", big=True), 0),
        (message(MILLIMETRES, "mono16"), 0),
        (message(np.where(METRES > 0, METRES, np.float32(np.nan)), "32FC1"), 0),
        (message(np.where(METRES > 0, METRES, np.float32(np.inf)), "32FC1"), 0),
        (compressed(png(MILLIMETRES), "16UC1; png compressed "), 0),
        (compressed(struct.pack("<iff", 0, 0, 0) + png(MILLIMETRES), "16UC1; compressedDepth"), 0),
        (compressed(bytes(12) + png(MILLIMETRES), "16UC1; compressedDepth png"), 0),
        (compressed(quantised(METRES, 10100.0, 1.0), "32FC1; compressedDepth png"), 0.04),
    ],
)
def test_depth(given: Any, tolerance: float) -> None:
    metres = decode_raster(depth_values(given), "depth_metres")
    assert metres.shape == (4, 8, 1)
    np.testing.assert_allclose(metres[..., 0], METRES, atol=tolerance + 1e-6)
    assert not metres[0, :2].any()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (message(RGB, "rgb8"), "encoding"),  # coloured, as RealSense's colorizer makes it
        (message(GREY, "mono8"), "encoding"),
        (compressed(png(GREY), "png"), "encoding"),
        (compressed(png(BGR), "png"), "encoding"),
        (
            compressed(bytes(12) + b"\x08\0\0\0\x04\0\0\0", "16UC1; compressedDepth rvl"),
            "compressed",
        ),
        (compressed(bytes(12) + png(MILLIMETRES)[:60], "16UC1; compressedDepth"), "compressed"),
        (compressed(bytes(5), "16UC1; compressedDepth"), "compressed"),
        (compressed(cv2.imencode(".jpg", GREY)[1].tobytes(), "16UC1; jpeg compressed"), "encoding"),
    ],
)
def test_no_depth(given: Any, reason: str) -> None:
    with pytest.raises(RosError) as caught:
        depth_values(given)
    assert caught.value.reason == reason


def test_depth_for_weights_that_read_a_picture_of_it() -> None:
    """DeLiVER's depth is an 8-bit picture; millimetres cannot become one."""
    with pytest.raises(RosError, match="encoding is '16UC1'"):
        raster_values(message(MILLIMETRES, "16UC1"))


def test_depth_on_disk(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(MILLIMETRES))
    np.save(tmp_path / "a.npy", METRES)
    for name in ("a.png", "a.npy"):
        stored = read_sensor("depth", tmp_path / name, "depth_metres", None)
        assert isinstance(stored, SensorImage)
        frame = Frame(np.zeros((4, 8, 3), np.uint8), {"depth": stored})
        planes = frame_planes(frame, {"depth": plain_modality("depth_metres")}, (4, 8))
        np.testing.assert_allclose(planes.auxiliaries["depth"][..., 0], METRES, atol=1e-6)
    assert not isinstance(stored, LidarPoints)


@pytest.mark.parametrize("form", ["16UC1", "32FC1", "compressedDepth"])
def test_depth_reaches_the_network_in_metres(form: str) -> None:
    """From a message to the planes of a node whose weights read depth_metres."""
    given = {
        "16UC1": message(MILLIMETRES, "16UC1"),
        "32FC1": message(METRES, "32FC1"),
        "compressedDepth": compressed(bytes(12) + png(MILLIMETRES), "16UC1; compressedDepth png"),
    }[form]
    colours = message(np.zeros((4, 8, 3), np.uint8), "rgb8")
    for sent in (given, colours):
        sent.header = SimpleNamespace(frame_id="camera", stamp=SimpleNamespace(sec=0, nanosec=0))
    spec, depth = spec_of("deliver_rgb_depth"), plain_modality("depth_metres")
    config = dataclasses.replace(spec.config, empty=depth.empty)
    inputs = {**spec.inputs, "depth": depth}
    spec = dataclasses.replace(spec, inputs=inputs, config=config)
    builder = FrameBuilder(spec, CameraInfos(), Extrinsics(Quiet(), {}), Registration())
    entries = {"depth": Entry("depth", 0, given, 0)}
    frame, refused = builder.build(SyncedSet(Entry("camera", 0, colours, 0), entries, frozenset()))
    assert refused == {}
    planes = frame_planes(frame, spec.modalities, (4, 8))
    assert planes.refused == {}
    np.testing.assert_allclose(planes.auxiliaries["depth"][..., 0], METRES, atol=1e-6)


class Quiet:
    """A node for `Extrinsics` where nobody asks for a pose."""

    def get_logger(self) -> Any:
        return SimpleNamespace(warning=lambda text: None, info=lambda text: None)
