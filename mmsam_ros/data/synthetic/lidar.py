# SPDX-License-Identifier: Apache-2.0
"""The LiDAR's physics: returns from its own position, range noise, intensity and dropout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.synthetic.materials import MATERIAL_IDS, column
from mmsam_ros.data.synthetic.raycast import Caster
from mmsam_ros.data.synthetic.rig import LidarSpec
from mmsam_ros.data.synthetic.textures import facade

_RANGE_NOISE = 0.015  # metres
_GLASS = 0.05  # reflectance of window panes


@dataclass(frozen=True, eq=False)
class Cloud:
    """Returns of one turn in firing order, in the LiDAR's frame at the stamp (motion compensated).

    xyz (N, 3) float32 m; intensity (N,) float32 0..255; ring (N,) uint16, 0 the top beam; time
    (N,) float32 s since the stamp; label (N,) uint8 class ids (truth, no sensor output).
    """

    xyz: NDArray[np.float32]
    intensity: NDArray[np.float32]
    ring: NDArray[np.uint16]
    time: NDArray[np.float32]
    label: NDArray[np.uint8]


def scan(
    caster: Caster, spec: LidarSpec, T_world_lidar: NDArray[np.float64], time: float,
    rng: np.random.Generator, *, turn: float = 0.1,
) -> Cloud:  # fmt: skip
    """One turn of `turn` seconds; the world stands still at `time`, as after ideal compensation."""
    rays = spec.rays
    T = T_world_lidar.astype(np.float32)
    directions = rays @ T[:3, :3].T
    hits = caster.cast(T[:3, 3], directions, time)
    reflectance = column("reflectance")[caster.material[hits.triangle]]
    walls = np.flatnonzero(caster.material[hits.triangle] == MATERIAL_IDS["facade"])
    reflectance[walls[facade(caster, hits, walls).window]] = _GLASS
    facing = np.abs(np.einsum("ij,ij->i", hits.normal, directions))
    intensity = 255 * reflectance * (0.25 + 0.75 * facing)
    intensity *= 1 + 0.08 * rng.standard_normal(len(rays), np.float32)
    # the share of returns that are strong enough falls with range and weak reflection
    lost = 0.01 + np.exp(-reflectance * (0.15 + facing) * 2.2e5 / (hits.distance**2 + 900) / 10)
    near, far = spec.range
    kept = (hits.distance > near) & (hits.distance < far) & (rng.random(len(rays)) > lost)
    rows = np.flatnonzero(kept)
    measured = hits.distance[rows] + _RANGE_NOISE * rng.standard_normal(len(rows), np.float32)
    beams = len(spec.elevations)
    return Cloud(
        xyz=rays[rows] * measured[:, None],
        intensity=np.clip(intensity[rows], 0, 255).astype(np.float32),
        ring=(rows % beams).astype(np.uint16),
        time=(rows // beams * (turn / spec.steps)).astype(np.float32),
        label=caster.label[hits.triangle[rows]],
    )
