# SPDX-License-Identifier: Apache-2.0
"""Materials, triangle meshes and basic shapes. Metres; x forward, y left, z up.

The order of a triangle's corners does not matter: the ray caster turns normals to the viewer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmsam_ros.world.style import Range, Surface


@dataclass(frozen=True)
class Material:
    """Properties of a surface besides its albedo; temperatures in Celsius."""

    name: str
    # range over instances of the LiDAR's light (905 nm) that is sent back at normal incidence, as a
    # share of what a white surface sends; retroreflectors exceed 1
    reflectance: Range
    day: float  # temperature by day, in the shade
    sun: float  # kelvin gained in full perpendicular sun
    night: float  # temperature at night
    gloss: float = 0.0  # share of mirror-like reflection at normal incidence (camera)
    glow: float = 0.0  # radiance of the surface itself at night, times its albedo (camera)
    emissivity: float = 0.95  # share of own radiation (thermal); the rest mirrors the sky


MATERIALS = (
    Material("sky", (0, 0), 0, 0, 0),
    Material("asphalt", (0.08, 0.4), 23, 13, 13.5),
    Material("marking", (0.15, 1), 22, 9, 12.5),
    Material("paving", (0.12, 0.5), 22, 10, 12),
    Material("kerb", (0.15, 0.5), 22, 10, 12),
    Material("grass", (0.2, 0.55), 18.5, 4, 7.5),
    Material("bark", (0.15, 0.45), 19, 6, 10.5),
    Material("leaves", (0.2, 0.6), 18, 3, 10),
    Material("facade", (0.1, 0.65), 20, 11, 12),
    Material("stone", (0.15, 0.6), 20, 10, 11),
    Material("roof", (0.1, 0.5), 23, 20, 7),
    Material("steel", (0.08, 0.6), 20, 9, 8.5, gloss=0.05),
    Material("plate", (0.25, 2), 20, 8, 8, gloss=0.03),
    Material("paint", (0.02, 0.65), 21, 14, 8.5, gloss=0.10, emissivity=0.9),
    Material("warm_paint", (0.02, 0.65), 36, 12, 27, gloss=0.10, emissivity=0.9),
    Material("trim", (0.03, 0.25), 22, 8, 10),
    Material("warm_trim", (0.03, 0.25), 46, 2, 40),
    Material("glass", (0.02, 0.12), 21, 4, 10.5, gloss=0.35, emissivity=0.85),
    Material("tyre", (0.03, 0.12), 22, 7, 10),
    Material("warm_tyre", (0.03, 0.12), 33, 4, 24),
    Material("rim", (0.15, 0.7), 21, 6, 9, gloss=0.10, emissivity=0.8),
    Material("headlamp", (0.2, 0.9), 22, 6, 10, gloss=0.20),
    Material("headlamp_on", (0.2, 0.9), 34, 4, 30, gloss=0.20, glow=14.0),
    Material("tail_lamp", (0.2, 1.8), 22, 6, 10, gloss=0.05),
    Material("tail_lamp_on", (0.2, 1.8), 26, 4, 18, gloss=0.05, glow=2.5),
    Material("street_lamp", (0.1, 0.5), 20, 8, 38, glow=12.0),
    Material("skin", (0.25, 0.6), 33.5, 0.5, 32.0, emissivity=0.98),
    Material("hair", (0.05, 0.4), 28, 5, 24),
    Material("cloth", (0.04, 0.65), 27.5, 4, 23),
    Material("canvas", (0.1, 0.6), 21, 9, 9.5),
    Material("shoe", (0.05, 0.4), 25, 4, 17),
)
MATERIAL_IDS = {material.name: index for index, material in enumerate(MATERIALS)}


def by_material(field: str) -> NDArray[np.float32]:
    """One property of all materials, (M,) or of a range (M, 2), indexed by material id."""
    return np.array([getattr(material, field) for material in MATERIALS], np.float32)


@dataclass(frozen=True, eq=False)
class Mesh:
    """Vertices (V, 3), triangles (T, 3) of vertex rows, material ids (T,), albedo (T, 3)."""

    vertices: NDArray[np.float32]
    triangles: NDArray[np.int32]
    material: NDArray[np.int16]
    albedo: NDArray[np.float32]

    def moved(self, offset: ArrayLike = (0, 0, 0), *, yaw: float = 0.0, scale: float = 1.0) -> Self:
        """The mesh scaled, then turned about z by `yaw` radians, then shifted by `offset`."""
        c, s = np.cos(yaw), np.sin(yaw)
        turn = scale * np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        return self.at(self.vertices @ turn.T + np.asarray(offset))

    def moved_by(self, T: NDArray[np.float64]) -> Self:
        """The mesh after a transform (4, 4)."""
        return self.at(self.vertices @ T[:3, :3].T + T[:3, 3])

    def at(self, vertices: NDArray[np.floating]) -> Self:
        """The mesh with other vertices."""
        return replace(self, vertices=vertices.astype(np.float32))


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh of several, triangles in the order given."""
    starts = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.triangles + int(s) for m, s in zip(meshes, starts, strict=True)]),
        np.concatenate([m.material for m in meshes]),
        np.concatenate([m.albedo for m in meshes]),
    )


def mesh(vertices: ArrayLike, triangles: ArrayLike, surface: Surface) -> Mesh:
    """A mesh of one surface."""
    tris = np.asarray(triangles, np.int32).reshape(-1, 3)
    return Mesh(
        np.asarray(vertices, np.float32).reshape(-1, 3),
        tris,
        np.full(len(tris), MATERIAL_IDS[surface.material], np.int16),
        np.tile(np.asarray(surface.rgb, np.float32), (len(tris), 1)),
    )


def polygon(corners: ArrayLike, surface: Surface) -> Mesh:
    """A flat convex outline, corners (N, 3) in order around the edge."""
    points = np.asarray(corners)
    return mesh(points, [[0, i, i + 1] for i in range(1, len(points) - 1)], surface)


def floor(x: Range, y: Range, z: float, surface: Surface) -> Mesh:
    """A level rectangle."""
    return polygon([(x[i], y[j], z) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))], surface)


_BOX = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]]
_BOX += [[2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]


def box(low: ArrayLike, high: ArrayLike, surface: Surface) -> Mesh:
    """A box along the axes between two opposite corners."""
    return mesh(list(product(*np.array([low, high], float).T)), _BOX, surface)


@cache
def _skin(count: int, sides: int) -> NDArray[np.int32]:
    """Triangles over `count` rings of `sides` points, and over the two middles that follow."""
    i = np.arange(sides)
    j = (i + 1) % sides
    wall = [np.stack([i, j, j + sides], 1), np.stack([i, j + sides, i + sides], 1)]
    walls = np.concatenate(wall) + sides * np.arange(count - 1)[:, None, None]
    last, middle = (count - 1) * sides, count * sides
    bottom = np.stack([i, j, np.full(sides, middle)], 1)
    top = np.stack([last + i, last + j, np.full(sides, middle + 1)], 1)
    return np.concatenate([walls.reshape(-1, 3), bottom, top]).astype(np.int32)


def loft(rings: NDArray[np.float64], surface: Surface) -> Mesh:
    """Skin over (R, S, 3) rings of S points each, with both ends capped."""
    count, sides = rings.shape[:2]
    middles = rings[[0, -1]].sum(1) / sides
    return mesh(np.concatenate([rings.reshape(-1, 3), middles]), _skin(count, sides), surface)


def tube(a: ArrayLike, b: ArrayLike, surface: Surface, radii: Range, sides: int = 8) -> Mesh:
    """A straight round (or conical) rod from a to b with its radii there."""
    start, end = np.asarray(a, float), np.asarray(b, float)
    x, y, z = (end - start) / np.linalg.norm(end - start)
    u = np.array([0, z, -y] if abs(x) < 0.9 else [-z, 0, x])  # across the axis
    u /= np.linalg.norm(u)
    v = np.array([y * u[2] - z * u[1], z * u[0] - x * u[2], x * u[1] - y * u[0]])
    angle = 2 * np.pi / sides * np.arange(sides)[:, None]
    circle = np.cos(angle) * u + np.sin(angle) * v
    return loft(np.stack([start + radii[0] * circle, end + radii[1] * circle]), surface)


def lathe(sections: Sequence[tuple[float, float, float, float]], surface: Surface) -> Mesh:
    """An upright body of elliptical sections (x, z, radius along x, radius along y)."""
    angle = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    x, z, rx, ry = np.array(sections, float).T[..., None]
    rings = [x + rx * np.cos(angle), ry * np.sin(angle), z + 0 * angle]
    return loft(np.stack(rings, -1), surface)


def ellipsoid(centre: ArrayLike, radii: ArrayLike, surface: Surface, *, sides: int = 10) -> Mesh:
    """A latitude-longitude ellipsoid."""
    lat = np.linspace(-np.pi / 2, np.pi / 2, sides // 2 + 2)[1:-1, None]
    lon = np.linspace(0, 2 * np.pi, sides, endpoint=False)[None]
    x, y, z = np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat) + 0 * lon
    return loft(np.stack([x, y, z], -1) * np.asarray(radii) + np.asarray(centre), surface)


def ring(centre: ArrayLike, radius: float, thickness: float, surface: Surface) -> Mesh:
    """A wheel rim (torus) standing in the x-z plane."""
    around = np.linspace(0, 2 * np.pi, 19)[:, None]
    across = np.linspace(0, 2 * np.pi, 6, endpoint=False)[None]
    reach, y = radius + thickness * np.cos(across), thickness * np.sin(across) + 0 * around
    points = np.stack([reach * np.cos(around), y, reach * np.sin(around)], -1)
    return loft(points + np.asarray(centre, float), surface)


def patch(corners: ArrayLike, s: Range, t: Range, surface: Surface) -> Mesh:
    """Part of a counter-clockwise quadrilateral, 12 mm off it; s: corner 0 -> 1, t: 0 -> 3."""
    p = np.asarray(corners, float)
    normal = np.cross(p[1] - p[0], p[3] - p[0])
    normal *= 0.012 / np.linalg.norm(normal)
    u, v = np.array([s[0], s[1], s[1], s[0]])[:, None], np.repeat(t, 2)[:, None]
    low, high = p[0] + u * (p[1] - p[0]), p[3] + u * (p[2] - p[3])
    return polygon(low + v * (high - low) + normal, surface)
