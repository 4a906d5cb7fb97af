# SPDX-License-Identifier: Apache-2.0
"""Casts rays into a world: what they hit at what distance, and shadows (Embree, on the CPU)."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from mmsam_ros.world.meshes import Mesh, merge
from mmsam_ros.world.scene import SKY, World
from mmsam_ros.world.style import Floats, Mask, Rows

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
        # of each instance; turn: cosine and sine of its yaw
        self.origin = np.array([thing.origin for thing in things], np.float32)
        yaw = np.array([thing.yaw for thing in things], np.float32)
        self.turn = np.stack([np.cos(yaw), np.sin(yaw)], 1)
        still = sum(thing.motion is None for thing in things)
        self._still = (_embree(merge(meshes[:still])), np.concatenate(rows[:still]))
        movers = [things[i] for i in order[still:]]  # each with the rows of its triangles
        self._movers = list(zip(movers, rows[still:], strict=True))
        self._time: float | None = None
        self._scenes = [self._still]

    def cast(self, origin: Floats, directions: Floats, time: float) -> Hits:
        """Nearest hits of rays from `origin` (3,) along unit `directions` (N, 3)."""
        directions = np.ascontiguousarray(directions, np.float32)
        starts = np.tile(origin.astype(np.float32), (len(directions), 1))
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
        reach = np.where(sky, np.float32(0), distance)[:, None]
        point = (starts + reach * directions).astype(np.float32, copy=False)
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
                    T = body @ limb.at(time)
                    meshes.append(limb.mesh.at(limb.mesh.vertices @ T[:3, :3].T + T[:3, 3]))
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
