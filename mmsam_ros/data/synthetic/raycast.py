# SPDX-License-Identifier: Apache-2.0
"""Rays into a world: what they hit, how far, and what is in whose shadow (Embree, on the CPU)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from mmsam_ros.data.synthetic.meshes import Mesh, merge
from mmsam_ros.data.synthetic.world import SKY, Instance, World

_SIGHT = (-35.0, 90.0)  # what moves is left out farther behind and ahead of the ego vehicle, metres


@dataclass(frozen=True, eq=False)
class Hits:
    """Per ray: distance (inf: sky), triangle row of the caster's tables, unit normal, point."""

    distance: NDArray[np.float32]
    triangle: NDArray[np.int64]
    normal: NDArray[np.float32]
    point: NDArray[np.float32]


class Caster:
    """Casts rays into a world at any time.

    Tables by triangle, the last row for the sky: `label` (class id), `material`, `albedo` (3),
    `instance`; by instance: `origin` (3) and `turn` (2), cosine and sine of its yaw. What stands
    still is built once, what moves is rebuilt for every new time.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        order = sorted(
            range(len(world.instances)), key=lambda i: world.instances[i].motion is not None
        )
        meshes = [limb.mesh for i in order for limb in world.instances[i].limbs]
        owners = [i for i in order for _ in world.instances[i].limbs]
        counts = [len(mesh.triangles) for mesh in meshes]
        labels = np.array([instance.label for instance in world.instances], np.uint8)
        self.instance = np.append(np.repeat(owners, counts), -1).astype(np.int32)
        self.label = np.append(labels[self.instance[:-1]], SKY).astype(np.uint8)
        self.material = np.append(np.concatenate([m.material for m in meshes]), 0).astype(np.int16)
        self.albedo = np.concatenate([m.albedo for m in meshes] + [np.zeros((1, 3), np.float32)])
        self.origin = np.array([instance.origin for instance in world.instances], np.float32)
        yaw = np.array([instance.yaw for instance in world.instances], np.float32)
        self.turn = np.stack([np.cos(yaw), np.sin(yaw)], 1)
        still = [
            m for m, i in zip(meshes, owners, strict=True) if world.instances[i].motion is None
        ]
        self._still = _embree(merge(still))
        starts = np.cumsum([0, *counts[:-1]])
        self._movers: list[tuple[Instance, list[int]]] = []
        at = len(still)
        for i in order:
            instance = world.instances[i]
            if instance.motion is not None:
                rows = [int(start) for start in starts[at : at + len(instance.limbs)]]
                self._movers.append((instance, rows))
                at += len(rows)
        self._time: float | None = None
        self._moving: EmbreeScene | None = None
        self._rows = np.zeros(0, np.int64)

    def cast(
        self, origins: NDArray[np.float32], directions: NDArray[np.float32], time: float
    ) -> Hits:
        """Nearest hits of rays from `origins` (3,) or (N, 3) along unit `directions` (N, 3)."""
        directions = np.ascontiguousarray(directions, np.float32)
        starts = np.ascontiguousarray(np.broadcast_to(origins, directions.shape), np.float32)
        still = self._still.run(starts, directions, output=1)
        distance, triangle, normal = still["tfar"], still["primID"].astype(np.int64), still["Ng"]
        distance = np.where(triangle < 0, np.float32(np.inf), distance)
        moving = self._at(time)
        if moving is not None:
            found = moving.run(starts, directions, output=1)
            nearer = (found["primID"] >= 0) & (found["tfar"] < distance)
            distance[nearer] = found["tfar"][nearer]
            triangle[nearer] = self._rows[found["primID"][nearer]]
            normal[nearer] = found["Ng"][nearer]
        sky = triangle < 0
        triangle[sky] = len(self.label) - 1
        length = np.sqrt(np.einsum("ij,ij->i", normal, normal))
        length *= np.where(np.einsum("ij,ij->i", normal, directions) > 0, -1, 1)
        length[sky] = np.inf
        normal = normal / length[:, None]
        reach = np.where(sky, np.float32(0), distance)
        return Hits(
            distance,
            triangle,
            normal,
            (starts + reach[:, None] * directions).astype(np.float32, copy=False),
        )

    def occluded(
        self, points: NDArray[np.float32], directions: NDArray[np.float32],
        reach: NDArray[np.float32], time: float,
    ) -> NDArray[np.bool_]:  # fmt: skip
        """Whether anything stands within `reach` (N,) metres of points along unit directions."""
        directions = np.ascontiguousarray(np.broadcast_to(directions, points.shape), np.float32)
        starts = np.ascontiguousarray(points + 2e-3 * directions, np.float32)
        reach = np.ascontiguousarray(reach, np.float32)
        shadow = self._still.run(starts, directions, reach, query="OCCLUDED") >= 0
        moving = self._at(time)
        if moving is not None:
            shadow |= moving.run(starts, directions, reach, query="OCCLUDED") >= 0
        return shadow

    def _at(self, time: float) -> EmbreeScene | None:
        """The moving things at `time`; None where there are none in sight."""
        if time != self._time:
            ego = np.linalg.inv(self.world.ego.at(time))
            vertices, triangles, rows, base = [], [], [], 0
            for instance, starts in self._movers:
                assert instance.motion is not None
                body = instance.motion.at(time)
                if not _SIGHT[0] < ego[0] @ body[:, 3] < _SIGHT[1]:
                    continue
                for limb, start in zip(instance.limbs, starts, strict=True):
                    T = body @ limb.at(time)
                    vertices.append(limb.mesh.vertices @ T[:3, :3].T + T[:3, 3])
                    triangles.append(limb.mesh.triangles + base)
                    rows.append(np.arange(start, start + len(limb.mesh.triangles)))
                    base += len(limb.mesh.vertices)
            self._moving = None
            if rows:
                self._moving = EmbreeScene()
                TriangleMesh(
                    self._moving,
                    np.concatenate(vertices).astype(np.float32),
                    np.concatenate(triangles).astype(np.int32),
                )
                self._rows = np.concatenate(rows)
            self._time = time
        return self._moving


def _embree(mesh: Mesh) -> EmbreeScene:
    scene = EmbreeScene()
    TriangleMesh(scene, mesh.vertices, mesh.triangles)
    return scene
