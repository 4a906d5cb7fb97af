# SPDX-License-Identifier: Apache-2.0
"""The LiDAR: range and intensity of the echoes that beams return."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.world.style import Dice, Floats
from mmsam_ros.world.surfaces import Caster, Hits, facade, texture

AIR = 255  # label of echoes of fog and rain
_NEAR, _FAR = 0.8, 110.0  # metres
_RANGE_NOISE = 0.015  # metres
_GLASS = 0.05  # reflectance of window panes
_DEFOCUS = 2.0  # range at which the receiver's focus takes half of the signal, metres
_SLICES = 3  # of a turn; moving things are at one place within each
_HAZE = 0.004  # extinction up to which the air returns no echoes, 1/m
_PENETRATION = 0.35  # extinction at 905 nm, with multiple echoes, relative to visible light


@dataclass(frozen=True, eq=False)
class LidarSpec:
    """A spinning LiDAR."""

    elevations: NDArray[np.float64]  # of the beams, degrees, top first
    steps: int  # a turn
    T_base: NDArray[np.float64]  # base_link <- lidar
    falloff: float = 0.3  # exponent of the signal's loss with range that intensity keeps, 0..1
    compensated: bool = True  # whether the ego vehicle's motion is taken out of the points

    @cached_property
    def gains(self) -> Floats:
        """(beams,) factors on intensity, which differ by a few per cent."""
        beams = len(self.elevations)
        return np.random.default_rng([51, beams]).normal(1, 0.04, beams).astype(np.float32)

    @cached_property
    def rays(self) -> Floats:
        """(steps * beams, 3) unit directions in firing order: clockwise from behind, top first."""
        azimuth = np.pi - 2 * np.pi * (np.arange(self.steps)[:, None] + 0.5) / self.steps
        up = np.radians(self.elevations)[None]
        x, y, z = np.cos(up) * np.cos(azimuth), np.cos(up) * np.sin(azimuth), np.sin(up)
        return np.stack([x, y, z + 0 * azimuth], -1).reshape(-1, 3).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Cloud:
    """Returns of one turn in firing order, in the LiDAR's frame at the stamp, the turn's beginning.

    The ego vehicle's motion within the turn is compensated, as some drivers do; others' motion is
    not. Without `LidarSpec.compensated` each point is in the LiDAR's frame at its own time.
    """

    xyz: Floats  # (N, 3) float32 m
    intensity: Floats  # (N,) float32, 0..255, where it saturates
    ring: NDArray[np.uint16]  # (N,), 0 is the top beam
    time: Floats  # (N,) float32 s since the stamp
    label: NDArray[np.uint8]  # (N,) ground truth: class ids, `AIR` for fog or rain


def scan(caster: Caster, spec: LidarSpec, time: float, turn: float, rng: Dice) -> Cloud:
    """One turn of `turn` seconds from `time` on."""
    nominal, beams, ego = spec.rays, len(spec.elevations), caster.world.ego
    actual, jitter = nominal, caster.world.conditions.jitter
    if jitter:  # of the beams; the points are still computed from the nominal directions
        actual = nominal + np.radians(jitter) * rng.standard_normal(nominal.shape, np.float32)
        actual = (actual / np.linalg.norm(actual, axis=1, keepdims=True)).astype(np.float32)
    stamped = np.linalg.inv(ego.at(time) @ spec.T_base)
    parts = []
    for rows in np.array_split(np.arange(len(nominal)), _SLICES):
        middle = time + (rows[0] + rows[-1]) / 2 / len(nominal) * turn
        place = ego.at(middle) @ spec.T_base
        T, back = place.astype(np.float32), (stamped @ place).astype(np.float32)
        origin, rays = T[:3, 3], actual[rows] @ T[:3, :3].T
        if not spec.compensated:  # each firing from its own place
            firing = rows // beams
            times = time + np.unique(firing) * (turn / spec.steps)
            places = np.stack([ego.at(at) @ spec.T_base for at in times]).astype(np.float32)
            T, back = places[firing - firing[0]], np.eye(4, dtype=np.float32)
            origin, rays = T[:, :3, 3], np.einsum("nij,nj->ni", T[:, :3, :3], actual[rows])
        hits = caster.cast(origin, rays, middle)
        distance, intensity, label = _returns(caster, hits, rays, spec.falloff, rng)
        kept = np.flatnonzero(distance > 0)
        points = (nominal[rows[kept]] * distance[kept, None]) @ back[:3, :3].T + back[:3, 3]
        parts.append((points, intensity[kept], rows[kept], label[kept]))
    xyz, intensity, rows, label = (np.concatenate(part) for part in zip(*parts, strict=True))
    ring, stamps = rows % beams, rows // beams * (turn / spec.steps)
    intensity = np.clip(intensity * spec.gains[ring], 0, 255).astype(np.float32)
    return Cloud(xyz, intensity, ring.astype(np.uint16), stamps.astype(np.float32), label)


def _returns(
    caster: Caster, hits: Hits, rays: Floats, falloff: float, rng: Dice
) -> tuple[Floats, Floats, NDArray[np.uint8]]:
    """Measured range (0: none), intensity and true label of every ray."""
    conditions, count = caster.world.conditions, len(hits.distance)
    reflectance, cells = caster.reflectance[hits.triangle], facade(caster, hits)
    reflectance[cells.at[cells.window]] = _GLASS
    tone, sheen = texture(caster, hits)
    reflectance *= tone * (1 - sheen) ** 2  # water mirrors the beam away
    facing = np.abs(np.einsum("ij,ij->i", hits.normal, rays))
    through = np.exp(-2 * _PENETRATION * conditions.fog * np.minimum(hits.distance, 500))
    square = np.minimum(hits.distance, 500) ** 2
    near = (900 / (square + 900)) ** falloff * square / (square + _DEFOCUS**2)
    intensity = 255 * reflectance * (0.4 + 0.6 * facing) * through * near
    intensity *= 1 + 0.08 * rng.standard_normal(count, np.float32)
    # fewer returns are strong enough at a long range or weak reflection
    power = reflectance * (0.15 + facing) * through
    lost = 0.01 + np.exp(-power * 2.2e4 / (square + 900))
    seen = (hits.distance > _NEAR) & (hits.distance < _FAR) & (rng.random(count) > lost)
    measured = hits.distance + _RANGE_NOISE * rng.standard_normal(count, np.float32)
    label = caster.label[hits.triangle]
    distance = np.where(seen, measured, np.float32(0))
    echo = _NEAR + rng.exponential(4.0, count).astype(np.float32)
    chance = 0.2 * (1 - np.exp(-12 * max(0, conditions.fog - _HAZE))) + 0.02 * conditions.rain
    air = (rng.random(count) < chance) & (echo < hits.distance)
    distance[air], intensity[air], label[air] = echo[air], 4 + 8 * rng.random(air.sum()), AIR
    return distance, intensity, label
