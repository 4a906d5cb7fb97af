# SPDX-License-Identifier: Apache-2.0
"""What a scene is: instances (class, shape, motion), lights, the sun and the ego vehicle's path.

World frame: z up, metres; the road's surface is z = 0, its middle line a `Path`. Time in seconds
from the start of the scene. Nothing here knows how any sensor sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.synthetic.meshes import Mesh
from mmsam_ros.data.synthetic.path import Path
from mmsam_ros.data.synthetic.style import Style
from mmsam_ros.data.synthetic.weather import Conditions
from mmsam_ros.sensors import CLASS_SETS

CLASSES = CLASS_SETS["synthetic"]
CLASS_IDS = {info.topic: info.id for info in CLASSES}
SKY = CLASS_IDS["sky"]
STRAIGHT = Path()


def pose(position: Sequence[float] | NDArray[np.float64], yaw: float = 0.0, pitch: float = 0.0,
         roll: float = 0.0) -> NDArray[np.float64]:  # fmt: skip
    """(4, 4) transform parent <- child: turned about x (roll), y (pitch), z (yaw), then shifted."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    cr, sr = np.cos(roll), np.sin(roll)
    T = np.eye(4)
    T[:3, :3] = (
        np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
        @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
        @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    )
    T[:3, 3] = position
    return T


@dataclass(frozen=True)
class Motion:
    """Travel at constant speed along a street, or at an angle to it.

    start: street coordinates s, n and height; heading: radians, against the street's; sway, period:
    of a slow sideways swing, metres and seconds.
    """

    start: tuple[float, float, float]
    heading: float = 0.0
    speed: float = 0.0
    sway: float = 0.0
    period: float = 9.0
    path: Path = STRAIGHT

    def at(self, time: float) -> NDArray[np.float64]:
        """(4, 4) world <- body at `time`."""
        rate = 2 * np.pi / self.period
        side = self.sway * np.sin(rate * time)
        c, s = np.cos(self.heading), np.sin(self.heading)
        along = self.speed * time
        turn = np.arctan2(self.sway * rate * np.cos(rate * time), max(self.speed, 1e-6))
        x, y, street = self.path.world(
            self.start[0] + c * along - s * side, self.start[1] + s * along + c * side
        )
        yaw = self.heading + float(street) + (turn if self.sway else 0.0)
        return pose((float(x), float(y), self.start[2]), yaw)


@dataclass(frozen=True, eq=False)
class Limb:
    """A rigid part; it swings about the y axis through `pivot` by `swing` radians at `rate` Hz."""

    mesh: Mesh
    pivot: tuple[float, float, float] = (0.0, 0.0, 0.0)
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

    position: tuple[float, float, float]
    direction: tuple[float, float, float]
    power: float
    focus: float


@dataclass(frozen=True, eq=False)
class Instance:
    """One thing of one class. Without motion its mesh stands in the world frame."""

    label: int
    limbs: tuple[Limb, ...]
    motion: Motion | None = None
    lights: tuple[Light, ...] = ()
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)  # where its texture starts
    yaw: float = 0.0  # and how it is turned about z


@dataclass(frozen=True, eq=False)
class World:
    """A scene of one seed: everything the sensors may ask."""

    seed: int
    conditions: Conditions
    instances: tuple[Instance, ...]
    ego: Motion
    ego_lights: tuple[Light, ...]
    sun: NDArray[np.float64]  # unit vector towards the sun
    path: Path = STRAIGHT

    @cached_property
    def style(self) -> Style:
        """Its textures."""
        return Style.draw(self.seed)

    @property
    def night(self) -> bool:
        return self.conditions.night

    def lights_at(
        self, time: float
    ) -> list[tuple[NDArray[np.float64], NDArray[np.float64], Light]]:
        """Lit lights at `time` as (position, unit direction, light); none in daylight."""
        if not self.night:
            return []
        owners = [(self.ego.at(time), self.ego_lights)]
        owners += [
            (np.eye(4) if i.motion is None else i.motion.at(time), i.lights)
            for i in self.instances
            if i.lights
        ]
        found = []
        for T, lights in owners:
            for light in lights:
                aim = T[:3, :3] @ np.asarray(light.direction)
                position = T[:3, :3] @ np.asarray(light.position) + T[:3, 3]
                found.append((position, aim / np.linalg.norm(aim), light))
        return found
