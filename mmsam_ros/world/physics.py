# SPDX-License-Identifier: Apache-2.0
"""The physics of camera, thermal camera and LiDAR: what they make of the surfaces that rays hit."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import radians, tan

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.world.meshes import MATERIALS, by_material
from mmsam_ros.world.scene import Conditions, World
from mmsam_ros.world.style import Dice, Floats
from mmsam_ros.world.surfaces import Caster, Hits, facade, look, mirrored

_LAMP_TINT = np.array([1.0, 0.76, 0.46], np.float32)
_BEAM_TINT = np.array([1.0, 0.93, 0.80], np.float32)
_LIT = 65.0  # lights farther from the ego vehicle than this are ignored, metres
_POOL, _BEAM = (-15.0, 15.0, 15.0), (0.0, 36.0, 7.5)  # reach of lamp and headlight: x, x, |y|
_FAINT = 0.03  # irradiance subtracted from every lamp's, so that its pool has a soft edge
_SHADOW = 300.0  # things farther away cast no shadow, metres
_GREY = 0.45  # mean radiance after automatic exposure
_GAIN = (0.35, 4.0)  # limits of the exposure's gain

COUNTS_PER_KELVIN = 100
ZERO_CELSIUS = 27315  # counts
_NETD = 0.07  # kelvin
_PIVOT = 14.0  # degrees Celsius; low contrast brings all temperatures closer to it
_FOG = 0.12  # extinction of thermal radiation as a share of that of visible light
_FULL_SUN = 2.6  # irradiance that the materials' gain in the sun refers to

AIR = 255  # label of echoes of fog and rain
_NEAR, _FAR = 0.8, 110.0  # metres
_RANGE_NOISE = 0.015  # metres
_GLASS = 0.05  # reflectance of window panes
_SLICES = 3  # of a turn; moving things are at one place within each
_HAZE = 0.004  # extinction up to which the air returns no echoes, 1/m
_PENETRATION = 0.35  # extinction at 905 nm, with multiple echoes, relative to visible light


def _light(rgb: Sequence[float]) -> Floats:
    return np.array(rgb, np.float32)


@dataclass(frozen=True, eq=False)
class PinholeSpec:
    """An undistorted camera; pixel i covers [i, i + 1)."""

    width: int
    height: int
    fov: float  # horizontal, degrees
    T_base: NDArray[np.float64]  # base_link <- optical frame

    @property
    def K(self) -> NDArray[np.float64]:
        """(3, 3) square pixels, principal point in the middle."""
        f = self.width / 2 / tan(radians(self.fov / 2))
        return np.array([[f, 0, self.width / 2], [0, f, self.height / 2], [0, 0, 1]])

    @cached_property
    def rays(self) -> Floats:
        """(height * width, 3) unit directions in the optical frame, row by row."""
        v, u = np.indices((self.height, self.width)).reshape(2, -1) + 0.5
        (f, _, cx), (_, _, cy) = self.K[:2]
        rays = np.stack([(u - cx) / f, (v - cy) / f, np.ones_like(u)], 1)
        return (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Picture:
    """An image with its ground truth, each (H, W)."""

    rgb: NDArray[np.uint8]  # (H, W, 3)
    labels: NDArray[np.uint8]  # class ids
    distance: Floats  # float32 m; sky: inf
    instance: NDArray[np.int32]  # number of the thing in the world; sky: -1


def view(caster: Caster, spec: PinholeSpec, time: float) -> tuple[Hits, Floats]:
    """First hits of all pixels, row by row, and the rays' directions in the world."""
    T = (caster.world.ego.at(time) @ spec.T_base).astype(np.float32)
    directions = spec.rays @ T[:3, :3].T
    return caster.cast(T[:3, 3], directions, time), directions


def render_picture(caster: Caster, spec: PinholeSpec, time: float, rng: Dice) -> Picture:
    """The camera's picture at `time`, in seconds."""
    world, shape = caster.world, (spec.height, spec.width)
    hits, rays = view(caster, spec, time)
    solid, seen = hits.solid()
    albedo, gloss, glow = look(caster, seen)
    colour = albedo * (_lamps if world.conditions.night else _daylight)(caster, seen, time)
    _reflect(world, seen, rays[solid], gloss, colour)
    clear = np.exp(-seen.distance * world.conditions.fog)[:, None]
    radiance, away = np.empty_like(rays), np.isinf(hits.distance)
    radiance[solid] = (colour + glow) * clear + _light(world.conditions.sky.low) * (1 - clear)
    radiance[away] = _sky(world, rays[away])
    image = radiance.reshape(*shape, 3)
    if world.conditions.rain:
        _rain(image, world.conditions, rng)
    rgb = _expose(_shaken(image, world.conditions, spec), world.conditions, rng)
    labels, instance = caster.label[hits.triangle], caster.instance[hits.triangle]
    distance = hits.distance.reshape(shape)
    return Picture(rgb, labels.reshape(shape), distance, instance.reshape(shape))


def render_thermal(caster: Caster, spec: PinholeSpec, time: float, rng: Dice) -> NDArray[np.uint16]:
    """The thermal image (H, W) at `time`: counts of hundredths of a kelvin, 27315 is 0 Celsius."""
    conditions = caster.world.conditions
    hits, rays = view(caster, spec, time)
    celsius = _sky_temperature(conditions, rays)
    solid, seen = hits.solid()
    emissivity = by_material("emissivity")[caster.material[seen.triangle]]
    mirror = _sky_temperature(conditions, mirrored(rays[solid], seen.normal)[0])
    body = emissivity * _temperature(caster, seen, time) + (1 - emissivity) * mirror
    through = np.exp(-seen.distance * (1 / 900 + _FOG * conditions.fog))
    air = 9.0 + 10.0 * conditions.day + conditions.air
    celsius[solid] = body * through + air * (1 - through)
    size = (spec.width, spec.height)
    detectors = [max(pixels // conditions.coarse, 1) for pixels in size]
    image = cv2.GaussianBlur(celsius.reshape(size[::-1]), (3, 3), 0.6)
    image = cv2.resize(image, detectors, interpolation=cv2.INTER_AREA)
    image = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
    fixed = Dice(caster.world.seed, 6).standard_normal(spec.width).astype(np.float32)
    noise = _NETD * rng.standard_normal(image.shape, np.float32) + 0.03 * fixed
    counts = (image + noise) * COUNTS_PER_KELVIN + ZERO_CELSIUS
    return np.round(np.clip(counts, 0, 65535)).astype(np.uint16)


def _sky(world: World, rays: Floats, *, clouds: bool = True) -> Floats:
    """Radiance (N, 3) of the sky along unit rays."""
    conditions = world.conditions
    up = np.clip(rays[:, 2:], 0, 1)
    low, blend = _light(conditions.sky.low), up ** (0.2 if conditions.night else 0.55)
    clear = low * (1 - blend) + _light(conditions.sky.high) * blend
    if not clouds or not conditions.cover:
        return clear
    shift = Dice(world.seed, 5).uniform(0, 90, 2).astype(np.float32)
    plane = rays[:, :2] / (up + 0.12) + shift
    noise = world.style.noise
    thick = noise(plane[:, 0], plane[:, 1], 23.0) + 0.2 * noise(plane[:, 0], plane[:, 1], 5.0)
    cover = np.clip(0.9 * (thick + 2.6 * conditions.cover - 1.6), 0, 1)[:, None]
    cover = 0.9 * cover * cover * (3 - 2 * cover)
    white = low * (1.22 - 0.14 * np.clip(thick + 0.5, 0, 3)[:, None])
    return (clear * (1 - cover) + cover * white).astype(np.float32)


def _daylight(caster: Caster, seen: Hits, time: float) -> Floats:
    """Irradiance (N, 3) of sky and sun."""
    conditions = caster.world.conditions
    up = (0.5 + 0.5 * seen.normal[:, 2:]).astype(np.float32)
    light = _light(conditions.sky.above) * up + _light(conditions.sky.below) * (1 - up)
    if max(conditions.sky.sun) > 0:
        at, facing, shadow = caster.sunlit(seen, _SHADOW, time)
        light[at[~shadow]] += facing[~shadow, None] * _light(conditions.sky.sun)
    return light


def _lamps(caster: Caster, seen: Hits, time: float) -> Floats:
    """Irradiance (N, 3) at night: street lamps and headlights, with their shadows."""
    light = np.tile(_light(caster.world.conditions.sky.above), (len(seen.distance), 1))
    x, y, _ = np.ascontiguousarray(seen.point.T)
    centre = caster.world.ego.at(time)[:3, 3]
    for position, aim, lamp in caster.world.lights_at(time):
        if np.hypot(*(position[:2] - centre[:2])) > _LIT:
            continue
        beam = lamp.focus > 10
        spot, axis = position.astype(np.float32), aim.astype(np.float32)
        back, ahead, aside = _BEAM if beam else _POOL
        ux, uy = axis[:2] / np.hypot(axis[0], axis[1]) if beam else (np.float32(1), np.float32(0))
        along = (x - spot[0]) * ux + (y - spot[1]) * uy
        across = (y - spot[1]) * ux - (x - spot[0]) * uy
        at = np.flatnonzero((along > back) & (along < ahead) & (np.abs(across) < aside))
        to = spot - seen.point[at]
        square = np.einsum("ij,ij->i", to, to)
        gap = np.sqrt(square)
        cone = np.maximum(-(to @ axis) / gap, 0) ** np.float32(lamp.focus)
        facing = np.einsum("ij,ij->i", to, seen.normal[at]) / gap
        power = np.float32(lamp.power) * cone / square * facing - _FAINT
        lit = np.flatnonzero(power > 0)
        at, to, gap, power = at[lit], to[lit], gap[lit], power[lit]
        shadow = caster.occluded(seen, at, to / gap[:, None], gap - 0.4, time)
        light[at] += (power * ~shadow)[:, None] * (_BEAM_TINT if beam else _LAMP_TINT)
    return light


def _reflect(world: World, seen: Hits, rays: Floats, gloss: Floats, colour: Floats) -> None:
    """Adds the mirror image of sky and street to glossy surfaces."""
    at = np.flatnonzero(gloss > 0)
    away, cosine = mirrored(rays[at], seen.normal[at])
    share = gloss[at] + (1 - gloss[at]) * (1 - np.clip(cosine, 0, 1)) ** 5 * 0.8
    street = 0.02 if world.conditions.night else 0.28 * float(np.mean(world.conditions.sky.low))
    seen_sky = np.clip((away[:, 2:] - 0.12) / 0.3, 0, 1)
    image = _sky(world, away, clouds=False) * seen_sky + street * (1 - seen_sky)
    colour[at] = colour[at] * (1 - share[:, None]) + share[:, None] * image


def _rain(image: Floats, conditions: Conditions, rng: Dice) -> None:
    """Draws falling drops as bright streaks, in place; near ones are long and out of focus."""
    height, width = image.shape[:2]
    streaks = np.zeros((height, width), np.float32)
    for _ in range(int(conditions.rain * width * height / 900)):
        x, y = rng.uniform(0, width), rng.uniform(-0.1, 1) * height
        length = height * (0.015 + 0.03 * rng.exponential())
        end = (int(x + rng.normal(0.08, 0.05) * length), int(y + length))
        cv2.line(streaks, (int(x), int(y)), end, rng.uniform(0.1, 0.5), 1 + (length > height / 11))
    veil = cv2.GaussianBlur(streaks, (3, 3), 0.7)[..., None]
    image += veil * (0.7 * _light(conditions.sky.low) - 0.3 * image)


def _shaken(image: Floats, conditions: Conditions, spec: PinholeSpec) -> Floats:
    """Motion blur: smears the picture along its motion while the shutter is open."""
    move = np.array(conditions.shake) * conditions.shutter * spec.K[0, 0]  # pixels, x and y
    half = int(np.ceil(np.abs(move).max() / 2))
    if not half:
        return image
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    for share in np.linspace(-0.5, 0.5, 8 * half + 1):
        column, row = np.round(half + share * move).astype(int)
        kernel[row, column] += 1
    kernel /= kernel.sum()
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE).astype(np.float32)


def _expose(radiance: Floats, conditions: Conditions, rng: Dice) -> NDArray[np.uint8]:
    """Lens blur, bloom, exposure, film curve, gamma and sensor noise: linear radiance to rgb8."""
    height, width = radiance.shape[:2]
    image = cv2.GaussianBlur(radiance, (3, 3), 0.55)
    if conditions.lamps:
        size = (width // 4, height // 4)
        small = cv2.resize(np.minimum(image, 8), size, interpolation=cv2.INTER_AREA)
        spread = cv2.GaussianBlur(np.maximum(small - 0.5, 0), (0, 0), max(width / 200, 0.6))
        image += 0.25 * cv2.resize(spread, (width, height), interpolation=cv2.INTER_LINEAR)
    metered = float(np.clip(_GREY / max(np.minimum(image, 2).mean(), 1e-3), *_GAIN))
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    gain = metered * conditions.exposure * (1 - 0.12 * (x * x + y * y))
    image *= gain[..., None].astype(np.float32)
    image = 1 - np.exp(-image * (0.75 + 0.25 * np.minimum(image, 1.5)))
    grain = rng.standard_normal(image.shape, np.float32)
    shot, read = 0.012 * metered**0.5, 0.0028 * metered**0.6  # amplified with the signal
    image = image + grain * (shot * np.sqrt(np.maximum(image, 0)) + read)
    image = np.power(np.clip(image, 0, 1), np.float32(1 / 2.2))
    return (image * 255 + 0.5).astype(np.uint8)


def _sky_temperature(conditions: Conditions, rays: Floats) -> Floats:
    """Apparent temperature of the sky (Celsius): cold overhead, except in clouds, fog and rain."""
    horizon = 4.0 + 10.0 * conditions.day + conditions.air
    depth = (34.0 + 8.0 * (1 - conditions.day)) * (1 - 0.8 * conditions.cover)
    return (horizon - depth * np.clip(rays[:, 2], 0, 1) ** 0.5).astype(np.float32)


def _temperature(caster: Caster, seen: Hits, time: float) -> Floats:
    """Temperature of what was hit (Celsius)."""
    world, conditions = caster.world, caster.world.conditions
    material, instance = caster.material[seen.triangle], caster.instance[seen.triangle]
    drift = Dice(world.seed, 22).normal(0, 1.6, len(MATERIALS))
    nominal = conditions.day * by_material("day") + (1 - conditions.day) * by_material("night")
    celsius = (_PIVOT + conditions.contrast * (nominal - _PIVOT) + drift)[material]
    celsius += 5.0 * (world.style.hash01(instance, 30) - 0.5)  # things of one material differ
    cells = facade(caster, seen)
    warm = np.where(cells.lit > 0, 5.0, 2.5) if conditions.night else np.float32(-1.5)
    celsius[cells.at] += np.where(cells.window, warm, 0) + 1.0 * cells.frame * conditions.night
    if max(conditions.sky.sun) > 0:
        lit, facing, shadow = caster.sunlit(seen, 200.0, time)
        # what is in shadow now has been in the sun before
        gain = max(conditions.sky.sun) / _FULL_SUN * by_material("sun")[material[lit]]
        celsius[lit] += gain * facing * np.where(shadow, 0.25, 1.0)
    x, y, z = seen.point.T
    rough = world.style.noise(x + 0.5 * z, y + z, 19.0)
    return (celsius + 0.35 * rough + conditions.air).astype(np.float32)


@dataclass(frozen=True, eq=False)
class LidarSpec:
    """A spinning LiDAR."""

    elevations: NDArray[np.float64]  # of the beams, degrees, top first
    steps: int  # a turn
    T_base: NDArray[np.float64]  # base_link <- lidar

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

    The ego vehicle's motion within the turn is compensated, as drivers do; others' motion is not.
    """

    xyz: Floats  # (N, 3) float32 m
    intensity: Floats  # (N,) float32, 0..255
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
        rays = actual[rows] @ T[:3, :3].T
        hits = caster.cast(T[:3, 3], rays, middle)
        distance, intensity, label = _returns(caster, hits, rays, rng)
        kept = np.flatnonzero(distance > 0)
        points = (nominal[rows[kept]] * distance[kept, None]) @ back[:3, :3].T + back[:3, 3]
        parts.append((points, intensity[kept], rows[kept], label[kept]))
    xyz, intensity, rows, label = (np.concatenate(part) for part in zip(*parts, strict=True))
    ring, stamps = rows % beams, rows // beams * (turn / spec.steps)
    intensity = np.clip(intensity, 0, 255).astype(np.float32)
    return Cloud(xyz, intensity, ring.astype(np.uint16), stamps.astype(np.float32), label)


def _returns(
    caster: Caster, hits: Hits, rays: Floats, rng: Dice
) -> tuple[Floats, Floats, NDArray[np.uint8]]:
    """Measured range (0: none), intensity and true label of every ray."""
    conditions, count = caster.world.conditions, len(hits.distance)
    material = caster.material[hits.triangle]
    reflectance = by_material("reflectance")[material]
    cells = facade(caster, hits)
    reflectance[cells.at[cells.window]] = _GLASS
    facing = np.abs(np.einsum("ij,ij->i", hits.normal, rays))
    through = np.exp(-2 * _PENETRATION * conditions.fog * np.minimum(hits.distance, 500))
    intensity = 255 * reflectance * (0.25 + 0.75 * facing) * through
    intensity *= 1 + 0.08 * rng.standard_normal(count, np.float32)
    # fewer returns are strong enough at a long range or weak reflection
    power = reflectance * (0.15 + facing) * through
    lost = 0.01 + np.exp(-power * 2.2e4 / (hits.distance**2 + 900))
    seen = (hits.distance > _NEAR) & (hits.distance < _FAR) & (rng.random(count) > lost)
    measured = hits.distance + _RANGE_NOISE * rng.standard_normal(count, np.float32)
    label = caster.label[hits.triangle]
    distance = np.where(seen, measured, np.float32(0))
    echo = _NEAR + rng.exponential(4.0, count).astype(np.float32)
    chance = 0.2 * (1 - np.exp(-12 * max(0, conditions.fog - _HAZE))) + 0.02 * conditions.rain
    air = (rng.random(count) < chance) & (echo < hits.distance)
    distance[air], intensity[air], label[air] = echo[air], 4 + 8 * rng.random(air.sum()), AIR
    return distance, intensity, label
