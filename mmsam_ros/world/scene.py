# SPDX-License-Identifier: Apache-2.0
"""The scene: instances (class, shape, motion), lights, the sun and the ego vehicle's path.

World frame: z up, metres; the road's surface is z = 0, its middle line a `Path`. Street
coordinates: s along that line, n to its left. Time in seconds from the start of the scene. How a
sensor sees the scene is not defined here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmsam_ros.sensors import SYNTHETIC_CLASSES
from mmsam_ros.world.meshes import Mesh
from mmsam_ros.world.style import Floats, Style
from mmsam_ros.world.weather import Conditions

Point = tuple[float, float, float]

CLASSES = SYNTHETIC_CLASSES
CLASS_IDS = {info.topic: info.id for info in CLASSES}
SKY = CLASS_IDS["sky"]
_FIRST, _STEP, _COUNT = -800.0, 0.5, 8192  # the tabulated part of a path, metres


@dataclass(frozen=True)
class Path:
    """A line through the world's origin (s = 0), along x where it does not swing."""

    swing: float = 0.0  # of the heading, radians, up to 0.5
    period: float = 400.0  # of the swing, metres
    phase: float = 0.0

    @cached_property
    def _table(self) -> NDArray[np.float32]:
        """(count, 4) x, y, heading, 1 / radius at every step of s."""
        s = _FIRST + _STEP * np.arange(_COUNT)
        turn = 2 * np.pi * s / self.period + self.phase
        heading = self.swing * (np.sin(turn) - np.sin(self.phase))
        bend = self.swing * 2 * np.pi / self.period * np.cos(turn)
        x, y = np.cumsum(np.stack([np.cos(heading), np.sin(heading)]) * _STEP, axis=1)
        zero = round(-_FIRST / _STEP)
        return np.stack([x - x[zero], y - y[zero], heading, bend], 1).astype(np.float32)

    def _look_up(self, s: Floats) -> NDArray[np.float32]:
        """(4, …) the table's columns, interpolated between its steps."""
        at = np.clip((s - _FIRST) / _STEP, 0, _COUNT - 2)
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
        s = np.interp(x, self._table[:, 0], _FIRST + _STEP * np.arange(_COUNT)).astype(np.float32)
        n = y
        for _ in range(2):
            px, py, heading, bend = self._look_up(s)
            cosine, sine = np.cos(heading), np.sin(heading)
            along, n = (x - px) * cosine + (y - py) * sine, (y - py) * cosine - (x - px) * sine
            s = s + along / np.maximum(1 - bend * n, 0.3)
        return s, n

    def bend(self, mesh: Mesh) -> Mesh:
        """A mesh from street to world coordinates; its edges should be short."""
        s, n, z = mesh.vertices.T
        x, y, _ = self.world(s, n)
        return mesh.at(np.stack([x, y, z], 1))


STRAIGHT = Path()


def pose(
    position: Sequence[float], yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0
) -> NDArray[np.float64]:
    """(4, 4) transform parent <- child: turned about x (roll), y (pitch), z (yaw), then shifted."""
    T = np.eye(4)
    for angle, plane in ((yaw, (0, 1)), (pitch, (2, 0)), (roll, (1, 2))):
        turn, c, s = np.eye(4), np.cos(angle), np.sin(angle)
        turn[np.ix_(plane, plane)] = [[c, -s], [s, c]]
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
    path: Path = STRAIGHT

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


@dataclass(frozen=True, eq=False)
class World:
    """The scene of one seed: all that the sensors render; `style` has its textures."""

    seed: int
    conditions: Conditions
    instances: tuple[Instance, ...]
    ego: Motion
    ego_lights: tuple[Light, ...]
    sun: NDArray[np.float64]  # unit vector towards the sun
    path: Path = STRAIGHT

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
