# SPDX-License-Identifier: Apache-2.0
"""The thermal camera's physics: apparent temperature of materials, sun, windows, sky and noise.

Counts are hundredths of a kelvin: raw = 100 * T, so 27315 is 0 degrees Celsius.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.synthetic.camera import view
from mmsam_ros.data.synthetic.materials import MATERIAL_IDS, column
from mmsam_ros.data.synthetic.raycast import Caster, Hits
from mmsam_ros.data.synthetic.rig import PinholeSpec
from mmsam_ros.data.synthetic.textures import Floats, facade, noise
from mmsam_ros.data.synthetic.world import World, generator

COUNTS_PER_KELVIN = 100
ZERO_CELSIUS = 27315  # counts
LIMITS = (26000, 31500)  # counts; -13 to 42 degrees Celsius: fits day and night, for fixed scaling
_NETD = 0.07  # kelvin


def render(
    caster: Caster, spec: PinholeSpec, T_world_optical: NDArray[np.float64], time: float,
    rng: np.random.Generator,
) -> NDArray[np.uint16]:  # fmt: skip
    """One image (H, W) uint16, hundredths of a kelvin."""
    world = caster.world
    hits, rays = view(caster, spec, T_world_optical, time)
    celsius = _sky(world, rays)
    solid = np.flatnonzero(np.isfinite(hits.distance))
    seen = Hits(hits.distance[solid], hits.triangle[solid], hits.normal[solid], hits.point[solid])
    body = _surface(caster, seen, time)
    material = caster.material[seen.triangle]
    emissivity = column("emissivity")[material]
    mirrored = rays[solid]
    mirrored = mirrored - 2 * np.einsum("ij,ij->i", mirrored, seen.normal)[:, None] * seen.normal
    body = emissivity * body + (1 - emissivity) * _sky(world, mirrored)
    through = np.exp(-seen.distance / 900)
    celsius[solid] = body * through + (9.0 if world.night else 19.0) * (1 - through)
    image = cv2.GaussianBlur(celsius.reshape(spec.height, spec.width), (3, 3), 0.6)
    fixed = generator(world.seed, 6).standard_normal((2, spec.width)).astype(np.float32)
    image += _NETD * rng.standard_normal(image.shape, np.float32) + 0.03 * fixed[0]
    return np.round(np.clip(image * COUNTS_PER_KELVIN + ZERO_CELSIUS, 0, 65535)).astype(np.uint16)


def _sky(world: World, rays: Floats) -> Floats:
    """Apparent temperature of the sky (Celsius); near the air's at the horizon, cold above."""
    horizon, zenith = (4.0, -38.0) if world.night else (14.0, -22.0)
    up = np.clip(rays[:, 2], 0, 1)
    return (horizon + (zenith - horizon) * up**0.5).astype(np.float32)


def _surface(caster: Caster, seen: Hits, time: float) -> Floats:
    """Temperature of what was hit (Celsius)."""
    world = caster.world
    material = caster.material[seen.triangle]
    celsius = column("night" if world.night else "day")[material]
    walls = np.flatnonzero(material == MATERIAL_IDS["facade"])
    cells = facade(caster, seen, walls)
    warm = np.where(cells.lit > 0, 5.0, 2.5) if world.night else np.float32(-1.5)
    celsius[walls] += np.where(cells.window, warm, 0) + 1.0 * cells.frame * world.night
    if not world.night:
        sun = world.sun.astype(np.float32)
        facing = seen.normal @ sun
        lit = np.flatnonzero(facing > 0)
        start = seen.point[lit] + 4e-3 * seen.normal[lit]
        shadow = caster.occluded(start, sun, np.full(len(lit), 200, np.float32), time)
        # shadows are softened: the ground still remembers the sun
        celsius[lit] += column("sun")[material[lit]] * facing[lit] * np.where(shadow, 0.25, 1.0)
    rough = noise(
        seen.point[:, 0] + 0.5 * seen.point[:, 2], seen.point[:, 1] + seen.point[:, 2], 19.0
    )
    return celsius + 0.35 * rough
