# SPDX-License-Identifier: Apache-2.0
"""Materials of surfaces: one table for camera, LiDAR and thermal camera."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Material:
    """Properties of a surface besides its albedo, which meshes have; temperatures in Celsius."""

    name: str
    reflectance: float  # share of the LiDAR's light (905 nm) sent back at normal incidence, 0..1
    day: float  # temperature by day, in the shade
    sun: float  # kelvin gained in full perpendicular sun
    night: float  # temperature at night
    gloss: float = 0.0  # share of mirror-like reflection at normal incidence (camera)
    glow: float = 0.0  # radiance of the surface itself at night, times its albedo (camera)
    emissivity: float = 0.95  # share of own radiation (thermal); the rest mirrors the sky


MATERIALS: tuple[Material, ...] = (
    Material("sky", 0.0, 0, 0, 0),
    Material("asphalt", 0.12, 23, 13, 13.5),
    Material("marking", 0.75, 22, 9, 12.5),
    Material("paving", 0.28, 22, 10, 12),
    Material("kerb", 0.35, 22, 10, 12),
    Material("grass", 0.45, 18.5, 4, 7.5),
    Material("bark", 0.30, 19, 6, 10.5),
    Material("leaves", 0.50, 18, 3, 10),
    Material("facade", 0.35, 20, 11, 12),
    Material("stone", 0.40, 20, 10, 11),
    Material("roof", 0.25, 23, 20, 7),
    Material("steel", 0.45, 20, 9, 8.5, gloss=0.05),
    Material("plate", 0.95, 20, 8, 8, gloss=0.03),
    Material("paint", 0.50, 21, 14, 8.5, gloss=0.10, emissivity=0.9),
    Material("warm_paint", 0.50, 36, 12, 27, gloss=0.10, emissivity=0.9),
    Material("trim", 0.10, 22, 8, 10),
    Material("warm_trim", 0.10, 46, 2, 40),
    Material("glass", 0.05, 21, 4, 10.5, gloss=0.35, emissivity=0.85),
    Material("tyre", 0.08, 22, 7, 10),
    Material("warm_tyre", 0.08, 33, 4, 24),
    Material("rim", 0.55, 21, 6, 9, gloss=0.10, emissivity=0.8),
    Material("headlamp", 0.60, 22, 6, 10, gloss=0.20),
    Material("headlamp_on", 0.60, 34, 4, 30, gloss=0.20, glow=14.0),
    Material("tail_lamp", 0.70, 22, 6, 10, gloss=0.05),
    Material("tail_lamp_on", 0.70, 26, 4, 18, gloss=0.05, glow=2.5),
    Material("street_lamp", 0.30, 20, 8, 38, glow=12.0),
    Material("skin", 0.45, 33.5, 0.5, 32.0, emissivity=0.98),
    Material("hair", 0.25, 28, 5, 24),
    Material("cloth", 0.40, 27.5, 4, 23),
    Material("canvas", 0.40, 21, 9, 9.5),
    Material("shoe", 0.20, 25, 4, 17),
)
MATERIAL_IDS = {material.name: index for index, material in enumerate(MATERIALS)}


def column(field: str) -> NDArray[np.float32]:
    """One property of all materials, indexed by material id."""
    return np.array([getattr(material, field) for material in MATERIALS], np.float32)
