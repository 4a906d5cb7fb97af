# SPDX-License-Identifier: Apache-2.0
"""The camera: light on the surfaces that rays hit, and the picture that a sensor makes of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import radians, tan

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.world.scene import Conditions, World
from mmsam_ros.world.style import Dice, Floats
from mmsam_ros.world.surfaces import Caster, Hits, look, mirrored

_LAMP_TINT = np.array([1.0, 0.76, 0.46], np.float32)
_BEAM_TINT = np.array([1.0, 0.93, 0.80], np.float32)
_LIT = 65.0  # lights farther from the ego vehicle than this are ignored, metres
_POOL, _BEAM = (-15.0, 15.0, 15.0), (0.0, 36.0, 7.5)  # reach of lamp and headlight: x, x, |y|
_FAINT = 0.03  # irradiance subtracted from every lamp's, so that its pool has a soft edge
_SHADOW = 300.0  # things farther away cast no shadow, metres
_GREY = 0.45  # mean radiance after automatic exposure
_GAIN = (0.35, 4.0)  # limits of the exposure's gain


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
