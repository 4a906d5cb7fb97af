# SPDX-License-Identifier: Apache-2.0
"""Sensors that are not those of the training: what the node says of them, and what cures them.

The package's weights and the synthetic world; each change is one that drivers are known for.
The unit of intensity is in `test_intensity_units`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo
from support.plausible import IDS, RIG, Change, Checked, cloud, frames_of, intensity

from mmsam_ros.data.corrupt import CORRUPTIONS, corrupt
from mmsam_ros.data.frames import FrameSet, LabelledFrame, Record
from mmsam_ros.inference.geometry import Plan
from mmsam_ros.ros.calibration import CameraInfos
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.plausibility import (
    IMPLAUSIBLE,
    LOG_PERIOD,
    PATIENCE,
)
from mmsam_ros.sensors import (
    Frame,
    LidarPoints,
    Registration,
    SensorImage,
    frame_planes,
)
from mmsam_ros.weights import Geometry, Spec
from mmsam_ros.world.scene import CASES, WEATHERS


def thermal(change: Callable[[SensorImage], SensorImage]) -> Change:
    return lambda f: replace(f, sensors={**f.sensors, "thermal": change(f.sensors["thermal"])})  # type: ignore[arg-type]


def metres(*factors: float) -> Change:
    return cloud(lambda c: replace(c, xyz=c.xyz * np.array(factors, np.float32)))


def rolled(degrees: float) -> NDArray[np.float64]:
    """A turn about x, (4, 4)."""
    matrix, angle = np.eye(4), np.radians(degrees)
    matrix[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def pitched(degrees: float) -> NDArray[np.float64]:
    """A turn about y, (4, 4)."""
    matrix, angle = np.eye(4), np.radians(degrees)
    matrix[:3:2, :3:2] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    return matrix


def at(x: float, y: float, z: float) -> NDArray[np.float64]:
    """Points as seen from elsewhere, (4, 4)."""
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


def turned(matrix: NDArray[np.float64], *, known: bool) -> Change:
    """Points in a turned frame; `known`: the pose has it, so that they fall on the same pixels."""

    def change(given: LidarPoints) -> LidarPoints:
        xyz = (given.xyz @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32)
        back = np.linalg.inv(matrix) if known else np.eye(4)
        return LidarPoints(xyz, given.intensity, given.T_camera_lidar @ back)

    return cloud(change)


RNG = np.random.default_rng(0)
OPTICAL = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
BASE, ODOM = at(1.5, 0, 1.77), at(300, -120, 5) @ rolled(1)
BLACK_HOT = thermal(lambda t: replace(t, data=np.uint16(65535) - t.data))


@pytest.mark.parametrize(
    ("change", "subjects", "texts"),
    [
        (intensity(lambda i: i / 255), ["lidar.intensity"], ["lidar.intensity_scale"]),
        (intensity(lambda i: i / 100), ["lidar.intensity"], ["lidar.intensity_scale"]),
        (intensity(lambda i: i * 16), ["lidar.intensity"], ["lidar.intensity_scale"]),
        (intensity(lambda i: i * 257), ["lidar.intensity"], ["lidar.intensity_scale"]),
        (intensity(lambda i: i * 0.35), ["lidar.intensity"], ["lidar.intensity_scale", "'auto'"]),
        (intensity(lambda i: i * 5), ["lidar.intensity"], ["lidar.intensity_scale", "'auto'"]),
        (intensity(lambda i: i + 100), ["lidar.intensity"], ["offset", "lidar.intensity_field"]),
        (intensity(lambda i: 255 - i), ["lidar.intensity"], ["reversed", "lidar.intensity_field"]),
        (intensity(lambda i: i - 128), ["lidar.intensity"], ["below 0", "signed"]),
        (
            intensity(lambda i: i.astype(np.uint8).astype(np.int8)),
            ["lidar.intensity"],
            ["below 0", "signed"],
        ),
        (intensity(lambda i: i * 0), ["lidar.intensity"], ["value 0 everywhere"]),
        (intensity(lambda i: i * 0 + 1), ["lidar.intensity"], ["value 1 everywhere"]),
        (
            intensity(lambda i: np.where(np.arange(len(i)) % 2, i, np.nan)),
            ["lidar.intensity"],
            ["NaN or infinite in 50% of the points"],
        ),
        *(
            (metres(factor), ["lidar.range"], ["range and height are about", times, "in metres"])
            for factor, times in (
                (1000, "e+0"),
                (10, " 9."),
                (3.28, " 3."),
                (0.3, "0.29"),
                (0.1, "0.09"),
            )
        ),
        (metres(1, 1, 0), ["lidar.height"], ["value 0 everywhere"]),
        (
            turned(rolled(180), known=True),
            ["lidar.height", "lidar.pose"],
            ["upside down", "178 degrees", "'velodyne'", "'cam_optical'", "lidar.frame"],
        ),
        (turned(rolled(180), known=False), ["lidar.height"], ["upside down", "lidar.frame"]),
        (turned(rolled(90), known=True), ["lidar.height", "lidar.pose"], ["on its side"]),
        (turned(rolled(-90), known=True), ["lidar.height", "lidar.pose"], ["90 degrees"]),
        (turned(rolled(90), known=False), ["lidar.height"], ["on its side"]),
        (turned(rolled(-90), known=False), ["lidar.height"], ["on its side"]),
        (turned(rolled(30), known=False), ["lidar.height"], ["tilted", "lidar.extrinsics"]),
        *(
            (turned(pitched(degrees), known=known), ["lidar.height"], ["tilted"])
            for degrees in (-15, 10, 15, 25)
            for known in (True, False)
        ),
        (turned(OPTICAL, known=True), ["lidar.height", "lidar.pose"], ["88 degrees"]),
        (turned(BASE, known=True), ["lidar.height"], ["1.8 m higher", "base_link", "lidar.frame"]),
        (turned(at(0, 0, 0.9), known=True), ["lidar.height"], ["0.9 m higher", "lidar.frame"]),
        (turned(at(0, 0, -2), known=True), ["lidar.height"], ["2.0 m lower", "lidar.frame"]),
        (turned(ODOM, known=True), ["lidar.range"], ["not at the sensor", "lidar.frame"]),
        (thermal(lambda t: replace(t, data=t.data.byteswap())), ["thermal.value"], ["byte order"]),
        (
            cloud(lambda c: replace(c, xyz=c.xyz[::40], intensity=c.intensity[::40])),
            ["lidar.filled"],
            ["of the pixels hold data"],
        ),
    ],
)
def test_what_does_not_fit_is_named(
    spec: Spec, drive: list[Frame], change: Change, subjects: list[str], texts: list[str]
) -> None:
    checked = Checked(spec)
    found = checked(drive, change)
    assert set(subjects) <= set(found), found
    assert len({name.partition(".")[0] for name in found}) == 1, "the other sensor is fine"
    assert len(found) == len(subjects), "one cause"
    said = "\n".join(found.values())
    assert all(text in said for text in texts), said
    assert all(any(name.replace(".", " ") in line for line in checked.logged) for name in subjects)
    assert checked.planes is not None
    assert set(checked.planes.auxiliaries) == {"lidar", "thermal"}  # warned of only
    sensor = subjects[0].partition(".")[0]
    strict = Checked(spec, "refuse")
    strict(drive, change)
    assert strict.planes is not None
    assert strict.planes.refused[sensor].reason == IMPLAUSIBLE
    assert all(text in strict.planes.refused[sensor].text for text in texts)
    assert sensor not in strict.planes.auxiliaries
    off = Checked(spec, "off")
    assert off(drive, change) == {}
    assert off.logged == []
    # the sensor is mended while the node runs: what was found goes away
    checked(drive * 2)
    assert checked.plausibility.findings == {}


@pytest.mark.parametrize(
    ("weather", "case"),
    [*((weather, "ordinary") for weather in WEATHERS), *zip(WEATHERS, CASES[1:], strict=False)],
)
def test_nothing_is_said_of_the_world_of_the_training(spec: Spec, weather: str, case: str) -> None:
    checked = Checked(spec)
    assert checked(frames_of(weather, case)) == {}
    assert checked.logged == []


@pytest.mark.parametrize("name", [n for n, c in CORRUPTIONS.items() if c.sensor != "event"])
def test_nothing_is_said_of_degraded_frames(spec: Spec, drive: list[Frame], name: str) -> None:
    frames = FrameSet("folder", "test", (), spec.classes, spec.modalities)
    records = [Record(f"{i}", Path(), {}, None) for i in range(len(drive))]
    items = [LabelledFrame(r, f, None) for r, f in zip(records, drive, strict=True)]
    assert Checked(spec)([corrupt(item, name, frames).frame for item in items]) == {}


@pytest.mark.parametrize("mode", ["resize", "slide"])
def test_nothing_is_said_with_another_geometry(spec: Spec, drive: list[Frame], mode: str) -> None:
    stride = (96, 128) if mode == "slide" else None
    other = replace(spec, geometry=Geometry(mode, spec.geometry.size, stride))  # type: ignore[arg-type]
    assert Checked(other)(drive) == {}


@pytest.mark.parametrize(
    ("change", "back"),
    [
        (turned(rolled(180), known=True), rolled(-180)),
        (turned(rolled(90), known=True), rolled(-90)),
        (turned(OPTICAL, known=True), np.linalg.inv(OPTICAL)),
        (turned(BASE, known=True), np.linalg.inv(BASE)),
        (turned(ODOM, known=True), np.linalg.inv(ODOM)),
    ],
)
def test_points_in_a_frame_of_the_sensor_are_right_again(
    spec: Spec, drive: list[Frame], change: Change, back: NDArray[np.float64]
) -> None:
    assert Checked(spec)(drive, lambda f: turned(back, known=True)(change(f))) == {}


def test_rasters_are_not_told_to_move(spec: Spec, drive: list[Frame]) -> None:
    """A raster of the same cloud, as `lidar/image`; there is no frame to set."""

    def raster(given: Frame, scale: float = 1.0) -> Frame:
        found = frame_planes(given, spec.modalities, given.size).auxiliaries["lidar"]
        found = found * np.array([1, scale, 1], np.float32)
        return replace(given, sensors={**given.sensors, "lidar": SensorImage(found)})

    assert Checked(spec)(drive, raster) == {}
    found = Checked(spec)(drive, lambda f: raster(f, 1 / 255))
    assert set(found) == {"lidar.intensity"}
    assert "lidar.intensity_scale" in found["lidar.intensity"]


def test_few_near_things_are_no_other_unit(spec: Spec, drive: list[Frame]) -> None:
    def near(given: LidarPoints) -> LidarPoints:
        there = np.linalg.norm(given.xyz, axis=1) < 8
        return replace(given, xyz=given.xyz[there], intensity=given.intensity[there])

    assert Checked(spec)(drive, cloud(near)) == {}


@pytest.mark.parametrize("level", [0, 17])
def test_a_camera_that_shows_nothing_is_said(spec: Spec, drive: list[Frame], level: int) -> None:
    def dark(given: Frame) -> Frame:
        noise = RNG.integers(0, 2, given.rgb.shape).astype(np.uint8)
        return replace(given, rgb=np.full_like(given.rgb, level) + noise)

    strict = Checked(spec, "refuse")
    assert set(strict(drive, dark)) == {"camera.image"}
    assert len(strict.logged) == 1
    assert strict.planes is not None
    assert set(strict.planes.auxiliaries) == {"lidar", "thermal"}, "the others go on"
    assert strict(drive) == {}


def test_a_sensor_is_doubted_as_long_as_it_cannot_be_true(spec: Spec, drive: list[Frame]) -> None:
    """Which the mode tells; a finding that a scene may explain is no doubt."""
    checked = Checked(spec)
    look, black = checked.plausibility, lambda f: replace(f, rgb=np.zeros_like(f.rgb))
    checked(drive)
    assert look.doubted(2.0) == ()
    checked(drive, lambda f: black(turned(rolled(90), known=True)(f)))
    assert look.doubted(2.0) == ("camera", "lidar")
    checked(drive)
    assert (look.doubted(3.5), look.doubted(4.5)) == ((), ("camera", "lidar"))
    look.mode = "off"
    checked(drive[:1], black)
    assert look.doubted(60.0) == ()


def test_polarity_is_a_warning_after_a_while(spec: Spec, drive: list[Frame]) -> None:
    """Scenes look like that, too: it is never refused, and not said at a red light."""
    checked = Checked(spec, "refuse")
    assert checked(drive * (PATIENCE // 4 - 1), BLACK_HOT) == {}
    found = checked(drive, BLACK_HOT)
    assert "black-hot" in found["thermal.value"]
    assert "thermal.invert" in found["thermal.value"]
    assert checked.planes is not None
    assert set(checked.planes.auxiliaries) == {"lidar", "thermal"}


def test_noise_is_a_warning(spec: Spec, drive: list[Frame]) -> None:
    """A wall of one temperature may look like that."""
    strict = Checked(spec, "refuse")
    noise = RNG.integers(0, 255, (48, 64)).astype(np.uint8)
    found = strict(drive, thermal(lambda t: replace(t, data=noise)))
    assert "is noise" in found["thermal.value"]
    assert strict.planes is not None
    assert "thermal" in strict.planes.auxiliaries


def test_frames_of_one_scene_count_once(spec: Spec, drive: list[Frame]) -> None:
    """Three frames are enough to begin with; then only one of each second."""
    checked = Checked(spec)
    checked(drive, intensity(lambda i: i / 255))
    planes, frame = checked.planes, drive[0]
    assert planes is not None
    good = frame_planes(frame, spec.modalities, Plan.of(spec.geometry, frame.size).canvas)
    for number in range(9):
        checked.plausibility(frame, good, IDS, checked.now + 0.1 * number)
    assert "lidar.intensity" in checked.plausibility.findings
    checked(drive * 2)
    assert checked.plausibility.findings == {}


def test_black_hot_images_are_inverted(spec: Spec, drive: list[Frame]) -> None:
    assert (
        Checked(spec)(
            drive * 6, lambda f: thermal(lambda t: replace(t, inverted=True))(BLACK_HOT(f))
        )
        == {}
    )


def info(width: int, height: int, focal: float) -> CameraInfo:
    message = CameraInfo(width=width, height=height, distortion_model="plumb_bob")
    message.d = [0.0] * 5
    message.k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [focal, 0.0, width / 2, 0.0, 0.0, focal, height / 2, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


def test_views_that_differ_need_a_registration(spec: Spec, drive: list[Frame]) -> None:
    infos = CameraInfos()
    infos.update("camera", info(192, 144, float(RIG.camera.K[0, 0])))
    plain = thermal(lambda t: replace(t, registration=Registration()))
    assert "thermal.view" not in Checked(spec, infos=infos)(drive, plain), "not known"
    infos.update("thermal", info(96, 72, float(RIG.thermal.K[0, 0])))
    found = Checked(spec, infos=infos)(drive, plain)
    assert "is 64 degrees wide, the camera's 75" in found["thermal.view"]
    assert "thermal.registration" in found["thermal.view"]
    assert Checked(spec, infos=infos)(drive) == {}, "it is registered"
    infos.update("thermal", info(96, 72, float(RIG.camera.K[0, 0]) / 2))
    assert "thermal.view" not in Checked(spec, infos=infos)(drive, plain), "the same view"


def test_each_finding_is_logged_now_and_then(spec: Spec, drive: list[Frame]) -> None:
    checked, change = Checked(spec), intensity(lambda i: i / 255)
    checked(drive * 3, change)
    assert len(checked.logged) == 1
    checked.now += LOG_PERIOD
    checked(drive, change)
    assert len(checked.logged) == 2
    turn = turned(OPTICAL, known=True)
    poses = Checked(spec)
    for _ in range(3):
        poses(drive, turn)
        poses.now += LOG_PERIOD
    assert sum("lidar pose" in line for line in poses.logged) == 1, "once"


def test_weights_without_statistics_judge_by_the_pose_alone(spec: Spec, drive: list[Frame]) -> None:
    old = replace(spec, seen={})
    checked = Checked(old)
    assert checked(drive, intensity(lambda i: i / 255)) == {}
    assert "no statistics of lidar and thermal" in checked.logged[0]
    assert "mmsam weights seen" in checked.logged[0]
    assert set(Checked(old)(drive, turned(rolled(180), known=True))) == {"lidar.pose"}
    with pytest.raises(RosError, match=r"intensity_scale: found 'auto'.*mmsam weights seen"):
        Checked(old, scale="auto")
    with pytest.raises(RosError, match=r"plausibility: found 'refuse'.*mmsam weights seen"):
        Checked(old, "refuse")
    assert Checked(old, "off").logged == []
    assert Checked(replace(spec, seen={"lidar": spec.seen["lidar"]}), "refuse").logged


def test_dead_pixels_are_a_finding_if_they_are_many(spec: Spec, drive: list[Frame]) -> None:
    """In degrees, with limits of the camera's own."""

    def celsius(share: float) -> Change:
        def change(given: SensorImage) -> SensorImage:
            degrees = given.data.astype(np.float32) / 100 - 273.15
            degrees[: round(share * len(degrees))] = np.nan
            return replace(given, data=degrees, limits=(-10.0, 40.0))

        return thermal(change)

    assert Checked(spec)(drive, celsius(0.05)) == {}
    found = Checked(spec)(drive, celsius(0.2))
    assert "NaN or infinite in 19% of the pixels" in found["thermal.value"]


def test_nothing_to_measure_is_no_finding(spec: Spec, drive: list[Frame]) -> None:
    empty = cloud(lambda c: replace(c, xyz=c.xyz[:0], intensity=c.intensity[:0]))
    assert Checked(spec)(drive, empty) == {}
