# SPDX-License-Identifier: Apache-2.0
"""The camera's physics: sun and shadows or lamps at night, sky, haze, exposure, gamma and noise."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.synthetic.raycast import Caster, Hits
from mmsam_ros.data.synthetic.rig import PinholeSpec
from mmsam_ros.data.synthetic.textures import Floats, Look, look, noise
from mmsam_ros.data.synthetic.world import World, generator

_SUN = np.array([2.6, 2.35, 2.0], np.float32)
_ABOVE, _BELOW = np.array([0.62, 0.74, 0.95], np.float32), np.array([0.22, 0.20, 0.17], np.float32)
_NIGHT = np.array([0.010, 0.011, 0.015], np.float32)
_LAMP_TINT = np.array([1.0, 0.76, 0.46], np.float32)
_BEAM_TINT = np.array([1.0, 0.93, 0.80], np.float32)
_HAZE = 800.0  # metres over which haze takes 63 % of the light
_LIT = 65.0  # lights farther than this from the ego vehicle light nothing, metres
_POOL, _BEAM = (-15.0, 15.0, 15.0), (0.0, 36.0, 7.5)  # what a lamp, a headlight reaches: x, x, |y|
_FAINT = 0.03  # irradiance taken off every lamp, so that its reach ends without an edge
_FAR = 300.0


def view(
    caster: Caster, spec: PinholeSpec, T_world_optical: NDArray[np.float64], time: float
) -> tuple[Hits, Floats]:
    """First hits of all pixels, row by row, and the rays' directions in the world."""
    directions = spec.rays @ T_world_optical[:3, :3].T.astype(np.float32)
    return caster.cast(T_world_optical[:3, 3].astype(np.float32), directions, time), directions


def render(
    caster: Caster, spec: PinholeSpec, T_world_optical: NDArray[np.float64], time: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Floats]:  # fmt: skip
    """One picture: rgb (H, W, 3) uint8, labels (H, W) uint8 ids, ray length (H, W) m (sky: inf)."""
    world = caster.world
    hits, rays = view(caster, spec, T_world_optical, time)
    solid = np.flatnonzero(np.isfinite(hits.distance))
    seen = Hits(hits.distance[solid], hits.triangle[solid], hits.normal[solid], hits.point[solid])
    surface = look(caster, seen, night=world.night)
    light = _lamps(caster, seen, time) if world.night else _daylight(caster, seen, time)
    colour = surface.albedo * light
    _reflect(world, seen, rays[solid], surface, colour)
    colour += surface.glow
    haze = np.exp(-seen.distance / _HAZE)[:, None]
    air = sky(world, np.array([[1.0, 0.0, 0.04]], np.float32), clouds=False)
    colour = colour * haze + air * (1 - haze)
    radiance = np.empty_like(rays)
    radiance[solid] = colour
    away = np.isinf(hits.distance)
    radiance[away] = sky(world, rays[away])
    rgb = _expose(radiance.reshape(spec.height, spec.width, 3), world, rng)
    labels = caster.label[hits.triangle].reshape(spec.height, spec.width)
    return rgb, labels, hits.distance.reshape(spec.height, spec.width)


def sky(world: World, rays: Floats, *, clouds: bool = True) -> Floats:
    """Radiance (N, 3) of the sky along unit rays."""
    up = np.clip(rays[:, 2:], 0, 1)
    if world.night:
        glow = np.exp(-up / 0.12) * np.array([0.035, 0.026, 0.020], np.float32)
        return glow + np.array([0.006, 0.008, 0.014], np.float32)
    blend = up**0.55
    low, high = np.array([1.05, 1.12, 1.18], np.float32), np.array([0.20, 0.42, 0.88], np.float32)
    blue = low * (1 - blend) + high * blend
    if not clouds:
        return blue
    shift = generator(world.seed, 5).uniform(0, 90, 3)
    plane = rays[:, :2] / (up + 0.12) + shift[:2].astype(np.float32)
    thick = noise(plane[:, 0], plane[:, 1], 23.0) + 0.2 * noise(plane[:, 0], plane[:, 1], 5.0)
    cover = np.clip(0.9 * (thick - 0.9 + shift[2] / 70), 0, 1)[:, None]
    cover = cover * cover * (3 - 2 * cover)
    white = np.array([1.35, 1.35, 1.38], np.float32) - 0.12 * np.clip(thick, 0, 3)[:, None]
    return (blue * (1 - 0.9 * cover) + 0.9 * cover * white).astype(np.float32)


def _daylight(caster: Caster, seen: Hits, time: float) -> Floats:
    """Irradiance (N, 3) of sky and sun."""
    sun = caster.world.sun.astype(np.float32)
    up = (0.5 + 0.5 * seen.normal[:, 2:]).astype(np.float32)
    light = _ABOVE * up + _BELOW * (1 - up)
    facing = seen.normal @ sun
    bright = np.flatnonzero(facing > 0)
    start = seen.point[bright] + 4e-3 * seen.normal[bright]
    shadow = caster.occluded(start, sun, np.full(len(bright), _FAR, np.float32), time)
    bright = bright[~shadow]
    light[bright] += facing[bright, None] * _SUN
    return light


def _lamps(caster: Caster, seen: Hits, time: float) -> Floats:
    """Irradiance (N, 3) at night: street lamps and headlights, with the shadows they throw."""
    light = np.tile(_NIGHT, (len(seen.distance), 1))
    x, y, z = np.ascontiguousarray(seen.point.T)
    nx, ny, nz = np.ascontiguousarray(seen.normal.T)
    centre = caster.world.ego.at(time)[:3, 3]
    for position, aim, lamp in caster.world.lights_at(time):
        if np.hypot(*(position[:2] - centre[:2])) > _LIT:
            continue
        beam = lamp.focus > 10
        spot, axis = position.astype(np.float32), aim.astype(np.float32)
        back, ahead, aside = _BEAM if beam else _POOL
        along = np.sign(axis[0]) * (x - spot[0]) if beam else x - spot[0]
        box = (along > back) & (along < ahead) & (np.abs(y - spot[1]) < aside)
        at = np.flatnonzero(box)
        to = spot - np.stack([x[at], y[at], z[at]], 1)
        square = to[:, 0] ** 2 + to[:, 1] ** 2 + to[:, 2] ** 2
        cone = np.maximum(-(to @ axis) / np.sqrt(square), 0) ** np.float32(lamp.focus)
        power = np.float32(lamp.power) * cone / square
        lit = np.flatnonzero(power > _FAINT)
        at, to, gap = at[lit], to[lit], np.sqrt(square[lit])
        facing = (to[:, 0] * nx[at] + to[:, 1] * ny[at] + to[:, 2] * nz[at]) / gap
        power = power[lit] * facing - _FAINT
        lit = np.flatnonzero(power > 0)
        at, to, gap, power = at[lit], to[lit], gap[lit], power[lit]
        start = seen.point[at] + 4e-3 * seen.normal[at]
        shadow = caster.occluded(start, to / gap[:, None], gap - 0.4, time)
        light[at] += (power * ~shadow)[:, None] * (_BEAM_TINT if beam else _LAMP_TINT)
    return light


def _reflect(world: World, seen: Hits, rays: Floats, surface: Look, colour: Floats) -> None:
    """Adds the mirror image of sky and street to glossy surfaces."""
    at = np.flatnonzero(surface.gloss > 0)
    ray, normal = rays[at], seen.normal[at]
    cosine = -np.einsum("ij,ij->i", ray, normal)
    mirrored = ray + 2 * cosine[:, None] * normal
    share = surface.gloss[at] + (1 - surface.gloss[at]) * (1 - np.clip(cosine, 0, 1)) ** 5 * 0.8
    street = 0.02 if world.night else 0.28
    seen_sky = np.clip((mirrored[:, 2:] - 0.12) / 0.3, 0, 1)
    image = sky(world, mirrored, clouds=False) * seen_sky + street * (1 - seen_sky)
    colour[at] = colour[at] * (1 - share[:, None]) + share[:, None] * image


def _expose(radiance: Floats, world: World, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Lens blur, bloom, film curve, gamma and sensor noise: linear radiance to rgb8."""
    height, width = radiance.shape[:2]
    gain, shot, read = (5.5, 0.035, 0.008) if world.night else (1.15, 0.012, 0.003)
    image = cv2.GaussianBlur(radiance.astype(np.float32), (3, 3), 0.55)
    if world.night:
        small = cv2.resize(
            np.minimum(image, 8), (width // 4, height // 4), interpolation=cv2.INTER_AREA
        )
        spread = cv2.GaussianBlur(np.maximum(small - 0.5, 0), (0, 0), max(width / 200, 0.6))
        image += 0.25 * cv2.resize(spread, (width, height), interpolation=cv2.INTER_LINEAR)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    image *= (gain * (1 - 0.12 * (x * x + y * y)))[..., None].astype(np.float32)
    image = 1 - np.exp(-image * (0.75 + 0.25 * np.minimum(image, 1.5)))
    grain = rng.standard_normal(image.shape, np.float32)
    image = image + grain * (shot * np.sqrt(np.maximum(image, 0)) + read)
    image = np.power(np.clip(image, 0, 1), np.float32(1 / 2.2))
    return (image * 255 + 0.5).astype(np.uint8)
