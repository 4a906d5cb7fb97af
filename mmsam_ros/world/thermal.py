# SPDX-License-Identifier: Apache-2.0
"""The thermal camera: temperatures of the surfaces that rays hit, seen through the air."""

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.world.camera import PinholeSpec, view
from mmsam_ros.world.meshes import MATERIALS, by_material
from mmsam_ros.world.scene import Conditions
from mmsam_ros.world.style import Dice, Floats
from mmsam_ros.world.surfaces import Caster, Hits, facade, mirrored

COUNTS_PER_KELVIN = 100
ZERO_CELSIUS = 27315  # counts
_NETD = 0.07  # kelvin
_PIVOT = 14.0  # degrees Celsius; low contrast brings all temperatures closer to it
_FOG = 0.12  # extinction of thermal radiation as a share of that of visible light
_FULL_SUN = 2.6  # irradiance that the materials' gain in the sun refers to


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
