# SPDX-License-Identifier: Apache-2.0
"""Degraded input: each case does what it says to its own image, and the same every time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.trees import make_folder

from mmsam_ros.data.corrupt import CORRUPTIONS, corrupt
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import FrameSet, LabelledFrame, Record
from mmsam_ros.data.open import open_frames
from mmsam_ros.sensors import (
    CAMERA,
    CameraModel,
    Frame,
    LidarPoints,
    Registration,
    SensorImage,
    plain_modality,
    rasterise,
)

MODALITIES = {
    "lidar": plain_modality("muses_raw", point_size=1),
    "event": plain_modality("event_counts"),
    "thermal": plain_modality("mono16", limits=(0.0, 60000.0)),
}
K = np.array([[60.0, 0, 60], [0, 60, 45], [0, 0, 1]])
TURNED = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


FRAMES = FrameSet("folder", "test", (), (), MODALITIES)


def make_frame(name: str = "frame", height: int = 90, width: int = 120) -> LabelledFrame:
    rng = np.random.default_rng(0)
    lidar = np.zeros((height, width, 3), np.float32)
    lidar[20:70, 20:100] = 100 * rng.random((50, 80, 3)) - 5
    sensors = {
        "lidar": SensorImage(lidar),
        "event": SensorImage(rng.integers(0, 30, (height, width, 3), np.uint8)),
        "thermal": SensorImage(rng.integers(0, 60000, (height, width), np.uint16)),
    }
    rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
    label = np.zeros((height, width), np.uint8)
    return LabelledFrame(Record(name, Path(), {}, None), Frame(rgb, sensors), label)


def with_rgb(rgb: NDArray[np.uint8]) -> LabelledFrame:
    item = make_frame()
    return dataclasses.replace(item, frame=Frame(rgb, {}))


def image(item: LabelledFrame, sensor: str) -> NDArray[Any]:
    if sensor == CAMERA:
        return item.frame.rgb
    data = item.frame.sensors[sensor]
    assert isinstance(data, SensorImage)
    return data.data


def images(item: LabelledFrame) -> dict[str, NDArray[Any]]:
    return {sensor: image(item, sensor) for sensor in (CAMERA, *item.frame.sensors)}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_only_the_named_image_changes(name: str) -> None:
    item, untouched = make_frame(), make_frame()
    out = corrupt(item, name, FRAMES)
    for sensor, before in images(item).items():
        after = image(out, sensor)
        assert (after.shape, after.dtype) == (before.shape, before.dtype)
        assert np.array_equal(after, before) == (sensor != CORRUPTIONS[name].sensor)
        assert np.array_equal(before, image(untouched, sensor)), "the input was changed"
    assert out.label is item.label
    assert out.record is item.record


@pytest.mark.parametrize("name", ["motionblur", "noise", "lidarjitter"])
def test_the_draw_hangs_on_frame_and_seed_alone(name: str) -> None:
    def worse(frame: str, seed: int) -> NDArray[Any]:
        item = make_frame(frame, 400, 400)
        return image(corrupt(item, name, FRAMES, seed), CORRUPTIONS[name].sensor)

    first = worse("frame", 1)
    np.random.seed(99)  # noqa: NPY002 - the global state must not matter
    assert np.array_equal(worse("frame", 1), first)
    assert not np.array_equal(worse("frame", 2), first)
    assert not np.array_equal(worse("other", 1), first)


def test_exposure() -> None:
    item = make_frame()
    grey = item.frame.rgb.astype(float)
    dark, bright = (
        corrupt(item, f"{w}exposure", FRAMES).frame.rgb.astype(float) for w in ("under", "over")
    )
    assert np.abs(dark - grey * 2 ** (-6 / 2.2)).max() <= 0.5
    assert dark.max() < 40
    assert np.abs(bright - (grey * 2 ** (3 / 2.2)).clip(max=255)).max() <= 0.5
    assert (bright == 255).mean() > 0.5


def test_motion_blur_keeps_the_light_and_smears_along_a_line() -> None:
    rgb = np.zeros((400, 400, 3), np.uint8)
    rgb[200, 200] = 255
    smeared = corrupt(with_rgb(rgb), "motionblur", FRAMES).frame.rgb[..., 0].astype(float)
    assert smeared.sum() == pytest.approx(255, rel=0.06)
    rows, columns = np.nonzero(smeared)
    assert 9 <= np.hypot(np.ptp(rows), np.ptp(columns)) <= 12
    spread = np.linalg.svd(np.stack([rows - 200, columns - 200]))[1]
    assert spread[1] < 0.2 * spread[0]


def test_noise_has_25_grey_levels() -> None:
    grey = with_rgb(np.full((90, 120, 3), 128, np.uint8))
    noise = corrupt(grey, "noise", FRAMES).frame.rgb.astype(float) - 128
    assert noise.std() == pytest.approx(25, rel=0.05)
    assert abs(noise.mean()) < 1


def test_lidar_jitter_moves_points_and_mixes_none() -> None:
    item = make_frame()
    known = {tuple(pixel) for pixel in image(item, "lidar").reshape(-1, 3).tolist()}
    shifts = []
    for seed in range(10):
        after = image(corrupt(item, "lidarjitter", FRAMES, seed), "lidar")
        assert {tuple(pixel) for pixel in after.reshape(-1, 3).tolist()} <= known
        rows, columns = np.nonzero(after.any(axis=2))
        shifts.append((rows.mean() - 44.5, columns.mean() - 59.5))
    reach = np.abs(shifts).max(axis=0)
    assert (reach > 0.3).all()
    assert (reach < (2.0, 2.5)).all()


@pytest.mark.parametrize(("sensor", "factor"), [("event", 2), ("thermal", 4)])
@pytest.mark.parametrize("size", [(80, 120), (81, 119)])
def test_low_resolution_leaves_blocks(sensor: str, factor: int, size: tuple[int, int]) -> None:
    item = make_frame("frame", *size)
    before = image(item, sensor)
    after = image(corrupt(item, f"{sensor}lowres", FRAMES), sensor)
    assert len(np.unique(after, axis=0)) <= size[0] // factor
    assert len(np.unique(after, axis=1)[0]) <= size[1] // factor
    if size == (80, 120):
        rows, columns = (side // factor for side in size)
        blocks = before.reshape(rows, factor, columns, factor, -1)
        value = blocks[:, 0, :, 0] if sensor == "event" else blocks.mean(axis=(1, 3))
        found = after[::factor, ::factor].reshape(value.shape)
        assert np.abs(found - value).max() <= 0.51  # counts are whole numbers


@pytest.mark.parametrize(("dtype", "high"), [(np.uint8, 255), (np.uint16, 65535)])
def test_whole_numbers_stay_within_their_type(dtype: type, high: int) -> None:
    """A mean over the brightest pixels rounds to the highest count, not beyond it."""
    item = make_frame()
    hot = SensorImage(np.full((90, 120), high, dtype))
    item = dataclasses.replace(item, frame=Frame(item.frame.rgb, {"thermal": hot}))
    worse = image(corrupt(item, "thermallowres", FRAMES), "thermal")
    assert worse.dtype == dtype
    assert (worse == high).all()


def test_points_become_their_raster_first() -> None:
    item, rng = make_frame(), np.random.default_rng(1)
    xyz = np.column_stack([rng.uniform(5, 50, 500), rng.uniform(-9, 9, (500, 2))])
    cloud = LidarPoints(xyz.astype(np.float32), rng.random(500, np.float32) + 1, TURNED)
    camera = CameraModel(120, 90, K, np.zeros(0), "none", np.eye(3), np.zeros(3))
    sensors = {**item.frame.sensors, "lidar": cloud}
    item = dataclasses.replace(item, frame=Frame(item.frame.rgb, sensors, camera))
    raster = rasterise(cloud.xyz, cloud.intensity, camera, TURNED, point_size=1)
    known = {tuple(pixel) for pixel in raster.reshape(-1, 3).tolist()}
    out = corrupt(item, "lidarjitter", FRAMES, seed=2)
    moved = image(out, "lidar")
    assert {tuple(pixel) for pixel in moved.reshape(-1, 3).tolist()} <= known
    assert moved.any()
    assert not np.array_equal(moved, raster)
    # the sample is made of it as it is
    np.testing.assert_array_equal(
        FRAMES.sample(out)["planes"]["lidar"].permute(1, 2, 0).numpy(), moved
    )


def test_a_registration_stays() -> None:
    item = make_frame()
    registered = Registration.from_homography(np.diag([2.0, 2.0, 1.0]))
    data = SensorImage(image(item, "thermal")[::2, ::2].copy(), registered)
    camera = CameraModel(120, 90, K, np.zeros(0), "none", np.eye(3), np.zeros(3))
    item = dataclasses.replace(item, frame=Frame(item.frame.rgb, {"thermal": data}, camera))
    worse = corrupt(item, "thermallowres", FRAMES).frame
    assert worse.camera is camera
    found = worse.sensors["thermal"]
    assert isinstance(found, SensorImage)
    assert found.registration is registered
    assert found.data.shape == (45, 60)


def test_a_frame_of_a_data_set(tmp_path: Path) -> None:
    """What is degraded can be read as every frame is."""
    root = make_folder(tmp_path, ("lidar", "thermal"), calibrated=True, per_split={"val": 1})
    frames = open_frames("folder", root, "val", ("lidar", "thermal"))
    plain = frames.sample(frames[0])
    for name, sensor in (("lidarjitter", "lidar"), ("thermallowres", "thermal")):
        worse = frames.sample(corrupt(frames[0], name, frames))
        for other, planes in plain["planes"].items():
            assert worse["planes"][other].shape == planes.shape
            assert torch.equal(worse["planes"][other], planes) == (other != sensor)
    dark = frames.sample(corrupt(frames[0], "underexposure", frames))
    assert dark["rgb"].max() < 40
    assert torch.equal(dark["label"], plain["label"])


def test_points_of_a_set_with_16_bit_rasters(tmp_path: Path) -> None:
    """Their raster holds metres, not the counts of a stored one."""
    root = make_folder(
        tmp_path, ("lidar",), calibrated=True, per_split={"val": 1},
        encodings={"lidar": "muses_png16"},
    )  # fmt: skip
    frames = open_frames("folder", root, "val", ("lidar",))
    assert isinstance(frames[0].frame.sensors["lidar"], LidarPoints)
    plain = frames.sample(frames[0])["planes"]["lidar"]
    moved = frames.sample(corrupt(frames[0], "lidarjitter", frames))["planes"]["lidar"]
    assert not torch.equal(moved, plain)
    assert set(moved.unique().tolist()) <= {0.0, *plain.unique().tolist()}


def test_unknown_names_are_refused() -> None:
    with pytest.raises(DataError, match=r"'overexposed'; did you mean 'overexposure'\?"):
        corrupt(make_frame(), "overexposed", FRAMES)
    with pytest.raises(DataError, match=r"'xyz'; known: eventlowres, .*, underexposure"):
        corrupt(make_frame(), "xyz", FRAMES)


def test_a_missing_sensor_is_refused() -> None:
    item = make_frame()
    sensors = {s: data for s, data in item.frame.sensors.items() if s != "event"}
    item = dataclasses.replace(item, frame=Frame(item.frame.rgb, sensors))
    with pytest.raises(
        DataError, match=r"frame frame: eventlowres needs event, .* has camera, lidar, thermal"
    ):
        corrupt(item, "eventlowres", FRAMES)
