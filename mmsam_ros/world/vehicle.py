# SPDX-License-Identifier: Apache-2.0
"""A vehicle in a world: its sensors' places, rates and clocks, and their frames at any time.

Frames as in ROS (REP 103). `base_link`: on the ground under the rear axle, x forward, y left, z up.
`lidar`: same axes. `camera_optical`, `thermal_optical`: z forward, x right, y down.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import radians
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.errors import DataError
from mmsam_ros.sensors import CameraModel, Registration
from mmsam_ros.world.camera import Picture, PinholeSpec, render_picture
from mmsam_ros.world.lidar import Cloud, LidarSpec, scan
from mmsam_ros.world.scene import World, pose
from mmsam_ros.world.style import Dice
from mmsam_ros.world.surfaces import Caster
from mmsam_ros.world.thermal import render_thermal

OFFSETS = {"camera": 0.05, "lidar": 0.013, "thermal": 0.031}  # time of the first frame, seconds
_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
# What `draw_rig` chooses from: picture formats, thermal sizes, LiDAR beams (number, top, bottom)
_FORMATS = ((4, 3), (3, 2), (16, 9), (1242, 375))
_THERMAL_SIZES = ((160, 120), (256, 192), (320, 240), (320, 256))
_BEAMS = ((16, 15.0, -15.0), (32, 10.7, -30.7), (64, 2.0, -24.8), (128, 15.0, -25.0))
_STEPS = (600, 900, 1024, 1800)  # of a turn
_CYCLE, _DRAWN = 8, 24  # rigs that cover all ranges evenly, properties of each
_Option = TypeVar("_Option")


@dataclass(frozen=True, eq=False)
class Rig:
    """All sensors of the vehicle."""

    camera: PinholeSpec
    thermal: PinholeSpec
    lidar: LidarSpec
    rates: Mapping[str, float]  # of every sensor, Hz

    @property
    def T_camera_lidar(self) -> NDArray[np.float64]:
        """(4, 4) camera_optical <- lidar."""
        return np.linalg.inv(self.camera.T_base) @ self.lidar.T_base

    @property
    def T_camera_thermal(self) -> NDArray[np.float64]:
        """(4, 4) camera_optical <- thermal_optical."""
        return np.linalg.inv(self.camera.T_base) @ self.thermal.T_base

    @property
    def camera_model(self) -> CameraModel:
        """The camera as `sensors` describes it."""
        size = self.camera.width, self.camera.height
        return CameraModel(*size, self.camera.K, np.zeros(0), "none", np.eye(3), np.zeros(3))

    @property
    def registration(self) -> Registration:
        """The thermal camera's registration by rotation."""
        R = self.T_camera_thermal[:3, :3]
        return Registration.from_rotation(self.camera.K, R, self.thermal.K)

    def stamps(self, sensor: str, seconds: float) -> NDArray[np.int64]:
        """Times of a sensor's frames within `seconds`, nanoseconds from the start."""
        rate, start = self.rates[sensor], OFFSETS[sensor]
        count = max(0, int(np.ceil((seconds - start) * rate - 1e-9)))
        return np.round((start + np.arange(count) / rate) * 1e9).astype(np.int64)

    def nearest(self, sensor: str, time: float) -> float:
        """Time (s) of a sensor's frame that is nearest to `time`."""
        rate, start = self.rates[sensor], OFFSETS[sensor]
        return float(start + max(0, round((time - start) * rate)) / rate)


def make_rig(
    width: int = 640, height: int = 480, *, steps: int = 1024, camera_rate: float = 5.0,
    compensated: bool = True,
) -> Rig:  # fmt: skip
    """The standard rig; the thermal camera has half the camera's resolution, the LiDAR 32 beams,
    whose own motion is `compensated` in its clouds or not.

    DataError: a size below 32 pixels or a rate that is not positive.
    """
    if min(width, height) < 32:
        raise DataError(f"size is {width}x{height}, expected at least 32x32")
    if not 0 < camera_rate <= 1000:
        raise DataError(
            f"camera rate is {camera_rate}, expected a positive number of Hz up to 1000"
        )
    camera = PinholeSpec(width, height, 75.0, pose((1.25, 0.0, 1.6), pitch=radians(1.5)) @ _OPTICAL)
    place = pose((1.25, -0.2, 1.60), radians(0.8), radians(1.1), radians(0.3))
    thermal = PinholeSpec(width // 2, height // 2, 64.0, place @ _OPTICAL)
    # denser around the horizon
    bands = np.linspace(10, 2, 6), np.linspace(1.2, -8.4, 17), np.linspace(-9.5, -25, 9)
    beams = np.concatenate(bands)
    lidar = LidarSpec(beams, steps, pose((1.50, 0.0, 1.77)), compensated=compensated)
    return Rig(camera, thermal, lidar, {"camera": camera_rate, "lidar": 10.0, "thermal": 9.0})


def draw_rig(
    number: int, width: int = 512, height: int | None = None, *, camera_rate: float = 5.0
) -> Rig:
    """Rig `number`: 0 is the standard one, the others are drawn; 1 to 8 cover all ranges evenly.

    The camera sees 50 to 110 degrees at 1.2 to 2.2 m, in one of several formats unless `height` is
    given; the LiDAR has 16 to 128 beams at 1.5 to 2.6 m; the thermal camera sees 30 to 90 degrees.
    DataError: a negative number, a size below 32 pixels or a rate that is not positive.
    """
    if number < 0:
        raise DataError(f"rig is {number}, expected 0 or more")
    if not number:
        return make_rig(width, height or round(width * 3 / 4), camera_rate=camera_rate)
    draw = _Draw(number)
    wide, high = draw.choose(_FORMATS)
    standard = make_rig(width, height or round(width * high / wide), camera_rate=camera_rate)
    x, y, z = draw.between(0.3, 1.6), draw.between(-0.4, 0.4), draw.between(1.2, 2.2)
    fov, pitch = draw.between(50, 110), draw.between(-2, 6)
    camera = replace(
        standard.camera, fov=fov, T_base=pose((x, y, z), pitch=radians(pitch)) @ _OPTICAL
    )
    beside = (x, y + draw.between(-0.4, 0.4), z + draw.between(-0.15, 0.15))
    yaw, tilt, roll = (draw.between(-1.5, 1.5) for _ in range(3))
    place = pose(beside, radians(yaw), radians(pitch + tilt), radians(roll)) @ _OPTICAL
    thermal = PinholeSpec(*draw.choose(_THERMAL_SIZES), draw.between(30, 90), place)
    beams, top, bottom = draw.choose(_BEAMS)
    top += draw.between(-2, 2)
    mount = (draw.between(-0.2, 1.5), draw.between(-0.3, 0.3), draw.between(1.5, 2.6))
    turned = pose(mount, radians(draw.between(-3, 3)), radians(draw.between(-1, 1)))
    falloff, steps = draw.between(0, 0.9), draw.choose(_STEPS)
    lidar = LidarSpec(np.linspace(top, bottom, beams), steps, turned, falloff)
    return replace(standard, camera=camera, thermal=thermal, lidar=lidar)


class _Draw:
    """Properties of one rig: each of its cycle has another part of a property's range."""

    def __init__(self, number: int) -> None:
        turn, place = divmod(number - 1, _CYCLE)
        rng = np.random.default_rng([41, turn])
        order = rng.permuted(np.tile(np.arange(_CYCLE), (_DRAWN, 1)), axis=1)
        self._shares = iter((order[:, place] + rng.random(_DRAWN)) / _CYCLE)

    def between(self, low: float, high: float) -> float:
        return float(low + (high - low) * next(self._shares))

    def choose(self, options: Sequence[_Option]) -> _Option:
        return options[int(next(self._shares) * len(options))]


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture and the nearest frames of the other sensors; calibration is in `rig`."""

    picture: Picture
    cloud: Cloud
    thermal: NDArray[np.uint16]
    rig: Rig


class Vehicle:
    """Renders any sensor's frame at any time (s); the same time gives the same frame."""

    def __init__(self, world: World, rig: Rig) -> None:
        self.world, self.rig, self.caster = world, rig, Caster(world)

    def camera(self, time: float) -> Picture:
        """The camera's picture, with true labels."""
        return render_picture(self.caster, self.rig.camera, time, self._noise(10, time))

    def lidar(self, time: float) -> Cloud:
        """The LiDAR's turn that begins at `time`."""
        turn, noise = 1 / self.rig.rates["lidar"], self._noise(11, time)
        return scan(self.caster, self.rig.lidar, time, turn, noise)

    def thermal(self, time: float) -> NDArray[np.uint16]:
        """The thermal image (H, W), hundredths of a kelvin."""
        return render_thermal(self.caster, self.rig.thermal, time, self._noise(12, time))

    def twist(self, time: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Linear (m/s) and angular (rad/s) velocity of `base_link` in itself."""
        ego, step = self.world.ego, 1e-3
        here = ego.at(time)[:3, :3].T
        change = here @ (ego.at(time + step) - ego.at(time - step))[:3] / (2 * step)
        return change[:, 3], np.array([change[2, 1], change[0, 2], change[1, 0]])

    def samples(self, count: int, interval: float) -> Iterator[Sample]:
        """`count` pictures, `interval` seconds apart, with the other sensors' nearest frames."""
        for i in range(count):
            time = OFFSETS["camera"] + i * interval
            cloud = self.lidar(self.rig.nearest("lidar", time))
            heat = self.thermal(self.rig.nearest("thermal", time))
            yield Sample(self.camera(time), cloud, heat, self.rig)

    def _noise(self, sensor: int, time: float) -> Dice:
        return Dice(self.world.seed, sensor, round(time * 1e9))
