# SPDX-License-Identifier: Apache-2.0
"""What rays hit in a world (Embree, on the CPU), and the procedural patterns on these surfaces."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from mmsam_ros.world.meshes import MATERIAL_IDS, MATERIALS, Mesh, by_material, merge
from mmsam_ros.world.scene import SKY, World
from mmsam_ros.world.scenery import BAY, STOREY
from mmsam_ros.world.style import Dice, Floats, Mask, Rows, Style

_SIGHT = (-35.0, 90.0)  # metres behind and ahead of the ego vehicle in which moving things are cast


@dataclass(frozen=True, eq=False)
class Hits:
    """What each of N rays hits."""

    distance: Floats  # (N,) m; sky: inf
    triangle: NDArray[np.int64]  # (N,) row in the caster's tables
    normal: Floats  # (N, 3) of unit length, towards the viewer
    point: Floats  # (N, 3) in the world

    def solid(self) -> tuple[Rows, Self]:
        """Rows of the rays that hit something, and their hits."""
        at = np.flatnonzero(np.isfinite(self.distance))
        return at, replace(self, **{name: array[at] for name, array in vars(self).items()})


class Caster:
    """Casts rays into a world at any time; only moving things are built again for a new time."""

    def __init__(self, world: World) -> None:
        self.world, things = world, world.instances
        order = sorted(range(len(things)), key=lambda i: things[i].motion is not None)
        meshes = [merge([limb.mesh for limb in things[i].limbs]) for i in order]
        counts = [len(mesh.triangles) for mesh in meshes]
        whole, rows = merge(meshes), np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
        # of each triangle; the last row is the sky
        self.instance = np.append(np.repeat(order, counts), -1).astype(np.int32)
        self.label = np.array([*(thing.label for thing in things), SKY], np.uint8)[self.instance]
        self.material = np.append(whole.material, np.int16(0))
        self.albedo = np.append(whole.albedo, np.zeros((1, 3), np.float32), axis=0)
        self.reflectance = self._reflectance()
        # of each instance; turn: cosine and sine of its yaw
        self.origin = np.array([thing.origin for thing in things], np.float32)
        yaw = np.array([thing.yaw for thing in things], np.float32)
        self.turn = np.stack([np.cos(yaw), np.sin(yaw)], 1)
        still = sum(thing.motion is None for thing in things)
        self._still = (_embree(merge(meshes[:still])), np.concatenate(rows[:still]))
        self._movers = list(zip([things[i] for i in order[still:]], rows[still:], strict=True))
        self._time, self._scenes = np.nan, [self._still]

    def _reflectance(self) -> Floats:
        """(T,) of each triangle for LiDAR; drawn by instance, for the ground by world."""
        shares = Dice(self.world.seed, 23).shares(len(self.world.instances) + 1, len(MATERIALS))
        ground = [MATERIAL_IDS[name] for name in (*_GROUND, "grass")]
        shares[:, ground] = shares[0, ground]
        low, high = by_material("reflectance")[self.material].T
        return (low + (high - low) * shares[self.instance, self.material]).astype(np.float32)

    def cast(self, origin: Floats, directions: Floats, time: float) -> Hits:
        """Nearest hits of rays from `origin`, (3,) or (N, 3), along unit `directions` (N, 3)."""
        directions = np.ascontiguousarray(directions, np.float32)
        starts = np.ascontiguousarray(np.broadcast_to(origin, directions.shape), np.float32)
        distance, normal = np.full(len(starts), np.inf, np.float32), np.zeros_like(starts)
        triangle = np.full(len(starts), len(self.label) - 1)
        for scene, rows in self._at(time):
            found = scene.run(starts, directions, output=1)
            nearer = (found["primID"] >= 0) & (found["tfar"] < distance)
            distance[nearer], normal[nearer] = found["tfar"][nearer], found["Ng"][nearer]
            triangle[nearer] = rows[found["primID"][nearer]]
        sky = np.isinf(distance)
        length = np.sqrt(np.einsum("ij,ij->i", normal, normal))
        length *= np.where(np.einsum("ij,ij->i", normal, directions) > 0, -1, 1)
        length[sky] = np.inf
        point = starts + np.where(sky, np.float32(0), distance)[:, None] * directions
        return Hits(distance, triangle, normal / length[:, None], point)

    def occluded(
        self, hits: Hits, at: Rows, directions: Floats, reach: Floats | float, time: float
    ) -> Mask:
        """Whether there is anything within `reach` metres of the hits `at` along `directions`."""
        points = hits.point[at] + 4e-3 * hits.normal[at]
        directions = np.full(points.shape, directions, np.float32)
        starts, limit = points + 2e-3 * directions, np.full(len(at), reach, np.float32)
        shadow = np.zeros(len(at), bool)
        for scene, _ in self._at(time):
            shadow |= scene.run(starts, directions, limit, query="OCCLUDED") >= 0
        return shadow

    def sunlit(self, hits: Hits, reach: float, time: float) -> tuple[Rows, Floats, Mask]:
        """Rows of hits that face the sun, cosine of the angle to it, and which are in shadow."""
        sun = self.world.sun.astype(np.float32)
        facing = hits.normal @ sun
        at = np.flatnonzero(facing > 0)
        return at, facing[at], self.occluded(hits, at, sun, reach, time)

    def _at(self, time: float) -> list[tuple[EmbreeScene, Rows]]:
        """Static things, and moving ones in sight at `time`, with the rows of their triangles."""
        if time != self._time:
            ego = np.linalg.inv(self.world.ego.at(time))
            meshes, rows = [], []
            for thing, own in self._movers:
                assert thing.motion is not None
                body = thing.motion.at(time)
                if not _SIGHT[0] < ego[0] @ body[:, 3] < _SIGHT[1]:
                    continue
                for limb in thing.limbs:
                    meshes.append(limb.mesh.moved_by(body @ limb.at(time)))
                rows.append(own)
            self._time, self._scenes = time, [self._still]
            if meshes:
                self._scenes.append((_embree(merge(meshes)), np.concatenate(rows)))
        return self._scenes


def mirrored(rays: Floats, normals: Floats) -> tuple[Floats, Floats]:
    """Unit rays after mirror reflection, and the cosine of their angle to the normals."""
    cosine = -np.einsum("ij,ij->i", rays, normals)
    return rays + 2 * cosine[:, None] * normals, cosine


def _embree(mesh: Mesh) -> EmbreeScene:
    scene = EmbreeScene()
    TriangleMesh(scene, mesh.vertices, mesh.triangles)
    return scene


@dataclass(frozen=True, eq=False)
class Facade:
    """All hits on walls."""

    at: Rows
    instance: NDArray[np.int32]
    window: Mask
    frame: Mask  # of a window
    door: Mask
    lit: Floats  # radiance of the light behind a window; 0: dark
    u: Floats  # metres along the wall
    v: Floats  # metres up the wall


def facade(caster: Caster, hits: Hits) -> Facade:
    """The pattern of windows and doors of all hits on walls."""
    hash01 = caster.world.style.hash01
    at = _rows(caster, hits, "facade")
    instance = caster.instance[hits.triangle[at]]
    local, normal = hits.point[at] - caster.origin[instance], hits.normal[at]
    cosine, sine = caster.turn[instance].T
    along = cosine * local[:, 0] + sine * local[:, 1]
    inward = cosine * local[:, 1] - sine * local[:, 0]
    front = np.abs(cosine * normal[:, 1] - sine * normal[:, 0]) > 0.7
    u, v = np.where(front, along, inward), local[:, 2]
    wall = np.abs(normal[:, 2]) < 0.5
    bay, storey = np.floor(u / BAY).astype(np.int32), np.floor(v / STOREY).astype(np.int32)
    fu, fv = u / BAY - bay, v / STOREY - storey
    shop = (hash01(instance, 1) < 0.4) & (storey == 0)
    door = (storey == 0) & (bay % 4 == (4 * hash01(instance, 4)).astype(np.int32)) & wall
    kinds = [door, shop]
    low = np.select(kinds, [0.03, 0.16], 0.26)
    half = np.select(kinds, [0.22, 0.44], 0.19 + 0.13 * hash01(instance, 2))
    high = np.select(kinds, [0.74, 0.80], 0.70 + 0.15 * hash01(instance, 3))
    across = np.abs(fu - 0.5)
    outer = wall & (across < half + 0.035) & (fv > low - 0.03) & (fv < high + 0.03)
    inner = wall & (across < half) & (fv > low) & (fv < high)
    bar = (across < 0.015) | (np.abs(fv - (low + 0.68 * (high - low))) < 0.012)
    window = inner & ~(bar & ~shop) & ~door
    chance = hash01(instance, bay, storey, front, 5)
    lit = np.where(window & (chance < np.where(shop, 0.7, 0.3)), 0.35 + 2.0 * chance, 0)
    door &= inner
    frame = outer & ~window & ~door
    return Facade(at, instance, window, frame, door, lit.astype(np.float32), u, v)


def look(caster: Caster, hits: Hits) -> tuple[Floats, Floats, Floats]:
    """Albedo (N, 3), share of mirror reflection (N,) and emitted radiance (N, 3) of all hits."""
    world = caster.world
    material, albedo = caster.material[hits.triangle], caster.albedo[hits.triangle]
    gloss = by_material("gloss")[material]
    share = 1.0 if world.conditions.night else 0.15 * world.conditions.lamps
    glow = albedo * (share * by_material("glow"))[material][:, None]
    tone, sheen = texture(caster, hits)
    albedo *= tone[:, None]
    gloss += sheen
    _paint_facades(caster, hits, albedo, gloss, glow)
    return np.clip(albedo, 0.005, 0.95), gloss, glow


def texture(caster: Caster, hits: Hits) -> tuple[Floats, Floats]:
    """Factor (N,) of patterns and wetness on what is sent back, and gloss (N,) of wet ground."""
    world, style, wet = caster.world, caster.world.style, caster.world.conditions.wet
    tone, sheen = np.ones_like(hits.distance), np.zeros_like(hits.distance)
    for name, pattern in _PATTERNS.items():
        at = _rows(caster, hits, name)
        x, y, z = hits.point[at].T
        if ground := name in _GROUND:
            x, y = world.path.street(x, y)
        tone[at] = pattern(style, x, y, z, _fade(hits, at))
        if ground and wet:  # darker and glossy, most of all in puddles
            puddle = np.clip(style.noise(x, y, 47.0) - 0.3, 0, 1)
            tone[at] *= 1 - wet * (0.3 + 0.3 * puddle)
            sheen[at] = wet * (0.03 + 0.35 * puddle)
    return tone, sheen


def _fade(hits: Hits, at: Rows) -> Floats:
    """Contrast of patterns: less at a distance, where a pixel covers several of their cells."""
    return np.minimum(np.float32(1), 14 / hits.distance[at])


def _rows(caster: Caster, hits: Hits, name: str) -> Rows:
    """The hits on one material."""
    return np.flatnonzero(caster.material[hits.triangle] == MATERIAL_IDS[name])


def _paint_facades(caster: Caster, hits: Hits, albedo: Floats, gloss: Floats, glow: Floats) -> None:
    style, cells = caster.world.style, facade(caster, hits)
    hash01, at, instance, u, v = style.hash01, cells.at, cells.instance, cells.u, cells.v
    fade = _fade(hits, at)
    row = np.floor(v / style["brick_y"]).astype(np.int32)
    shifted = u / style["brick_x"] + 0.5 * (row & 1)
    stone = np.floor(shifted).astype(np.int32)
    joint = (v / style["brick_y"] - row < 0.14) | (shifted - stone < 0.06)
    brick = 1 + fade * np.where(joint, style["mortar"], style["brick"] * (hash01(row, stone) - 0.5))
    plaster = 1 + style["plaster"] * fade * style.noise(u, v, 3.0)
    shade = np.where(hash01(instance, 6) < 0.5, brick, plaster)
    albedo[at] *= (shade * (1 + 0.06 * style.noise(u, v, 23.0)))[:, None].astype(np.float32)
    white = np.where(hash01(instance, 7) < 0.7, 0.62, 0.12)
    albedo[at[cells.frame]] = white[cells.frame, None]
    wood = np.stack([hash01(instance, key) for key in (8, 9, 10)], 1)
    albedo[at[cells.door]] = 0.03 + 0.3 * wood[cells.door] ** 2
    pane = at[cells.window]
    blind = hash01(instance, np.floor(u / BAY), np.floor(v / STOREY), 11)[cells.window]
    drawn = (v / STOREY % 1)[cells.window] > 0.95 - 0.5 * np.maximum(0, blind - 0.6)
    albedo[pane] = np.where(drawn, 0.4, 0.025)[:, None]
    gloss[pane] = 0.30
    if caster.world.conditions.night:
        warm = np.array([1.0, 0.72, 0.38], np.float32)
        glow[pane] = cells.lit[cells.window, None] * warm * np.where(drawn, 0.5, 0.8)[:, None]


def _asphalt(style: Style, s: Floats, n: Floats, z: Floats, fade: Floats) -> Floats:
    hash01, noise = style.hash01, style.noise
    grain = style["grain"] * fade * noise(s, n, 3.1) + style["stain"] * noise(s, n, 57.0)
    grit = hash01(np.floor(s * 60), np.floor(n * 60)) - 0.5
    grain += style["grit"] * np.minimum(1, 0.5 * fade) * grit
    track = np.minimum(np.abs(np.abs(n) - 1.0), np.abs(np.abs(n) - 2.5)) / 0.28
    crack = (np.abs(noise(s, n, 29.0)) < 0.012) & (noise(n, s, 61.0) > 0.4)
    patch = (hash01(np.floor(s / 5.3), np.floor(n / 1.9)) < style["patches"]) * np.float32(0.22)
    tone = 1 + grain - patch - style["track"] * np.exp(-track * track)
    return tone * (1 - style["crack"] * fade * crack)


def _marking(style: Style, s: Floats, n: Floats, z: Floats, fade: Floats) -> Floats:
    worn = style.noise(s, n, 6.0) + 0.6 * style.noise(s, n, 1.7)
    return 1 - 0.6 * fade * (worn > style["wear"]) - 0.06 * np.abs(worn)


def _paving(style: Style, s: Floats, n: Floats, z: Floats, fade: Floats) -> Floats:
    u, v = s / style["slab_x"], n / style["slab_y"]
    i, j = np.floor(u), np.floor(v)
    joint = (u - i < 0.04) | (v - j < 0.06)
    slab = style["slab"] * (style.hash01(i, j) - 0.5) * fade + 0.07 * style.noise(s, n, 13.0)
    return (1 + slab) * (1 - style["joint"] * fade * joint)


def _kerb(style: Style, s: Floats, n: Floats, z: Floats, fade: Floats) -> Floats:
    joint = np.where(s % 1.0 < 0.03, 1 - 0.4 * fade, np.float32(1))
    return (1 + 0.10 * style.noise(s, n, 7.0)) * joint


def _grass(style: Style, x: Floats, y: Floats, z: Floats, fade: Floats) -> Floats:
    blades = style["tuft"] * fade * style.noise(x, y, 2.3)
    return 1 + blades + style["meadow"] * style.noise(x, y, 31.0)


def _roof(style: Style, x: Floats, y: Floats, z: Floats, fade: Floats) -> Floats:
    row, tile = np.floor(z / 0.17), np.floor((x + y) / 0.25)
    edge = np.where(z / 0.17 - row < 0.25, 1 - 0.35 * fade, np.float32(1))
    return (1 + style["tile"] * (style.hash01(row, tile) - 0.5) * fade) * edge


# those of the ground are in street coordinates s, n instead of x, y, so that they follow its curves
_GROUND = {"asphalt": _asphalt, "marking": _marking, "paving": _paving, "kerb": _kerb}
_PATTERNS = _GROUND | {
    "grass": _grass,
    "roof": _roof,
    "leaves": lambda s, x, y, z, fade: 1 + s["leaf"] * fade * s.noise(x + 0.6 * y, z, 3.1),
    "bark": lambda s, x, y, z, fade: 1 + 0.3 * fade * s.noise(x + y, z * 0.2, 0.9),
    "stone": lambda s, x, y, z, fade: 1 + 0.07 * s.noise(x + y, z, 4.0),
}
