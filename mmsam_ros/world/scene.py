# SPDX-License-Identifier: Apache-2.0
"""The scene: instances (class, shape, motion), lights, weather and the ego vehicle's path.

World frame: z up, metres; the road's surface is z = 0, its middle line a `Path`. Street
coordinates: s along that line, n to its left. Time in seconds from the start of the scene.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmsam_ros._util import check_word
from mmsam_ros.data.errors import DataError
from mmsam_ros.sensors import SYNTHETIC_CLASSES
from mmsam_ros.world.meshes import Mesh
from mmsam_ros.world.style import Dice, Floats, Style

Point = tuple[float, float, float]

CLASSES = SYNTHETIC_CLASSES
CLASS_IDS = {info.topic: info.id for info in CLASSES}
SKY = CLASS_IDS["sky"]
_FIRST, _STEP = -800.0, 0.5  # where the table of a path begins, and its steps, metres


@dataclass(frozen=True)
class Path:
    """A line through the world's origin (s = 0), along x where it does not swing."""

    swing: float = 0.0  # of the heading, radians, up to 0.5
    period: float = 400.0  # of the swing, metres
    phase: float = 0.0
    end: float = 1000.0  # s up to which it is known

    @cached_property
    def _s(self) -> Floats:
        """Arc lengths of the rows of `_table`, metres."""
        return _FIRST + _STEP * np.arange(math.ceil((self.end - _FIRST) / _STEP) + 2)

    @cached_property
    def _table(self) -> NDArray[np.float32]:
        """(count, 4) x, y, heading, 1 / radius at every step of s."""
        turn = 2 * np.pi * self._s / self.period + self.phase
        heading = self.swing * (np.sin(turn) - np.sin(self.phase))
        bend = self.swing * 2 * np.pi / self.period * np.cos(turn)
        x, y = np.cumsum(np.stack([np.cos(heading), np.sin(heading)]) * _STEP, axis=1)
        zero = round(-_FIRST / _STEP)
        return np.stack([x - x[zero], y - y[zero], heading, bend], 1).astype(np.float32)

    def _look_up(self, s: Floats) -> NDArray[np.float32]:
        """(4, …) the table's columns, interpolated between its steps."""
        at = np.clip((s - _FIRST) / _STEP, 0, len(self._s) - 2)
        low = at.astype(np.int32)
        share = (at - low)[..., None].astype(np.float32)
        return np.moveaxis(self._table[low] * (1 - share) + self._table[low + 1] * share, -1, 0)

    def world(self, s: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Street coordinates -> x, y and the street's heading there."""
        s, n = np.asarray(s, float), np.asarray(n, float)
        if not self.swing:
            return s, n, np.zeros_like(s)
        x, y, heading, _ = self._look_up(s)
        return x - n * np.sin(heading), y + n * np.cos(heading), heading

    def street(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """x, y -> street coordinates, for points well within a radius of the line."""
        if not self.swing:
            return x, y
        s = np.interp(x, self._table[:, 0], self._s).astype(np.float32)
        n = y
        for _ in range(2):
            px, py, heading, bend = self._look_up(s)
            cosine, sine = np.cos(heading), np.sin(heading)
            along, n = (x - px) * cosine + (y - py) * sine, (y - py) * cosine - (x - px) * sine
            s = s + along / np.maximum(1 - bend * n, 0.3)
        return s, n


def pose(
    position: Sequence[float], yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0
) -> NDArray[np.float64]:
    """(4, 4) transform parent <- child: turned about x (roll), y (pitch), z (yaw), then shifted."""
    T = np.eye(4)
    for angle, i, j in ((yaw, 0, 1), (pitch, 2, 0), (roll, 1, 2)):
        if angle:
            turn, c, s = np.eye(4), np.cos(angle), np.sin(angle)
            turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
            T = T @ turn
    T[:3, 3] = position
    return T


@dataclass(frozen=True)
class Motion:
    """Travel at constant speed along a street, or at an angle to it."""

    start: Point  # street coordinates s, n and height
    heading: float = 0.0  # radians, relative to the street's
    speed: float = 0.0  # m/s
    sway: float = 0.0  # of a slow sideways swing, metres
    period: float = 9.0  # of that swing, seconds
    path: Path = Path()

    def at(self, time: float) -> NDArray[np.float64]:
        """(4, 4) world <- body at `time`."""
        rate, along = 2 * np.pi / self.period, self.speed * time
        side = self.sway * np.sin(rate * time)
        c, s = np.cos(self.heading), np.sin(self.heading)
        turn = np.arctan2(self.sway * rate * np.cos(rate * time), max(self.speed, 1e-6))
        s0, n0, height = self.start
        x, y, street = self.path.world(s0 + c * along - s * side, n0 + s * along + c * side)
        yaw = self.heading + float(street) + (turn if self.sway else 0.0)
        return pose((float(x), float(y), height), yaw)


@dataclass(frozen=True, eq=False)
class Limb:
    """A rigid part; it swings about the y axis through `pivot` by `swing` radians at `rate` Hz."""

    mesh: Mesh
    pivot: Point = (0.0, 0.0, 0.0)
    swing: float = 0.0
    phase: float = 0.0
    rate: float = 0.9

    def at(self, time: float) -> NDArray[np.float64]:
        """(4, 4) body <- limb at `time`."""
        if not self.swing:
            return np.eye(4)
        angle = self.swing * np.sin(2 * np.pi * self.rate * time + self.phase)
        return pose(self.pivot, pitch=angle) @ pose([-p for p in self.pivot])


@dataclass(frozen=True)
class Light:
    """Irradiance power * cos(angle to direction)^focus / distance^2; cast at night only."""

    position: Point
    direction: Point
    power: float
    focus: float


@dataclass(frozen=True, eq=False)
class Instance:
    """One thing of one class. Without motion its mesh is given in the world frame."""

    label: int
    limbs: tuple[Limb, ...]
    motion: Motion | None = None
    lights: tuple[Light, ...] = ()
    origin: Point = (0.0, 0.0, 0.0)  # where its texture starts
    yaw: float = 0.0  # and how it is turned about z


CASES = (
    "ordinary", "motionblur", "overexposure", "underexposure", "lidarjitter", "thermallowres",
)  # fmt: skip


class Sky(NamedTuple):
    """Light of sun and sky, linear RGB."""

    sun: Sequence[float]  # irradiance of the sun
    above: Sequence[float]  # irradiance from the sky
    below: Sequence[float]  # irradiance from the ground
    low: Sequence[float]  # radiance of the sky at the horizon
    high: Sequence[float]  # radiance of the sky overhead


_SUN = (2.6, 2.35, 2.0)
# light by weather: above, below, low, high
_SKIES = {
    "sun": ((0.62, 0.74, 0.95), (0.22, 0.20, 0.17), (1.05, 1.12, 1.18), (0.20, 0.42, 0.88)),
    "cloud": ((1.30, 1.34, 1.42), (0.35, 0.34, 0.32), (0.95, 0.98, 1.02), (0.62, 0.66, 0.72)),
    "fog": ((1.05, 1.07, 1.10), (0.35, 0.35, 0.35), (0.80, 0.82, 0.84), (0.78, 0.80, 0.83)),
    "rain": ((0.72, 0.76, 0.82), (0.20, 0.20, 0.20), (0.52, 0.55, 0.59), (0.34, 0.37, 0.42)),
    "night": ((0.005, 0.0055, 0.0075), (0.005, 0.005, 0.0055),
              (0.040, 0.033, 0.032), (0.006, 0.008, 0.014)),
}  # fmt: skip
# ranges of sight (m over which the air takes 63 % of the light), cover, rain; wet, day, contrast
_AIR = {
    "sun": ((500, 1200), (0.0, 0.7), (0.0, 0.0), 0.0, 1.0, 1.0),
    "cloud": ((300, 700), (0.9, 1.0), (0.0, 0.0), 0.0, 0.75, 0.75),
    "fog": ((11, 42), (1.0, 1.0), (0.0, 0.0), 0.25, 0.5, 0.6),
    "rain": ((90, 220), (1.0, 1.0), (0.35, 1.0), 1.0, 0.5, 0.5),
    "night": ((500, 1200), (0.0, 0.0), (0.0, 0.0), 0.0, 0.0, 1.0),
}
WEATHERS = tuple(_AIR)


@dataclass(frozen=True)
class Conditions:
    """Weather and case of one scene, as numbers that the sensors' physics use."""

    weather: str
    sky: Sky
    fog: float  # extinction of visible light, 1/m
    cover: float  # share of the sky that clouds cover
    wet: float  # of the ground, 0..1
    rain: float  # drops in the air, 0..1
    day: float  # 1: surfaces have their temperature of the day, 0: of the night
    contrast: float  # of temperatures, relative to a dry day or night
    air: float  # kelvin above the materials' nominal temperatures
    exposure: float  # factor on the metered exposure
    shutter: float  # seconds
    shake: tuple[float, float] = (0.0, 0.0)  # of the picture along x and y, rad/s of the camera
    jitter: float = 0.0  # deviation of the LiDAR's beams, degrees
    coarse: int = 1  # side of the square of thermal pixels of one detector

    @property
    def night(self) -> bool:
        return self.weather == "night"

    @property
    def lamps(self) -> bool:
        """Whether vehicles have their lights on."""
        return self.weather in ("night", "fog", "rain")

    @classmethod
    def draw(cls, seed: int, weather: str = "sun", case: str = "ordinary") -> Self:
        """The conditions of a seed's scene; DataError for an unknown weather or case."""
        check_word("weather", weather, WEATHERS, DataError)
        check_word("case", case, CASES, DataError)
        sight, cover, rain, wet, day, contrast = _AIR[weather]
        rng = Dice(seed, 21)
        shutter, exposure = 1 / 40 if weather == "night" else 1 / 400, 2 ** rng.uniform(-0.5, 0.5)
        stops, turn, blur = rng.uniform(0, 1), rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.8)
        spoilt: dict[str, dict[str, Any]] = {
            "motionblur": {"shutter": 1 / 14, "shake": (blur * np.sin(turn), blur * np.cos(turn))},
            "overexposure": {"exposure": 2 ** (2.6 + 1.6 * stops)},
            "underexposure": {"exposure": 2 ** (-5.0 - 2.5 * stops)},
            "lidarjitter": {"jitter": 0.5 + 0.9 * stops},
            "thermallowres": {"coarse": 6},
        }
        level, tint = rng.uniform(0.75, 1.2), rng.uniform(0.93, 1.07, 3)
        lights = np.array([_SUN if weather == "sun" else (0.0, 0.0, 0.0), *_SKIES[weather]])
        sky = Sky(*(lights * level * tint).tolist())
        plain = cls(
            weather, sky, 1 / rng.uniform(*sight), rng.uniform(*cover), wet, rng.uniform(*rain),
            day, contrast, rng.uniform(-12, 7), exposure, shutter,
        )  # fmt: skip
        return replace(plain, **spoilt.get(case, {}))


@dataclass(frozen=True, eq=False)
class World:
    """The scene of one seed: all that the sensors render; `style` has its textures."""

    seed: int
    conditions: Conditions
    instances: tuple[Instance, ...]
    ego: Motion
    ego_lights: tuple[Light, ...]
    sun: NDArray[np.float64]  # unit vector towards the sun
    path: Path = Path()

    @cached_property
    def style(self) -> Style:
        return Style(self.seed)

    def lights_at(self, time: float) -> list[tuple[Floats, Floats, Light]]:
        """Lit lights at `time` as (position, unit direction, light); none in daylight."""
        if not self.conditions.night:
            return []
        owners = [(thing.motion, thing.lights) for thing in self.instances]
        found: list[tuple[Floats, Floats, Light]] = []
        for motion, lights in [(self.ego, self.ego_lights), *owners]:
            for light in lights:
                T = np.eye(4) if motion is None else motion.at(time)
                aim, position = T[:3, :3] @ light.direction, T[:3, :3] @ light.position + T[:3, 3]
                found.append((position, aim / np.linalg.norm(aim), light))
        return found
