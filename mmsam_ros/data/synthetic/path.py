# SPDX-License-Identifier: Apache-2.0
"""The middle line of a street. Street coordinates: s along it, n to its left, metres."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmsam_ros.data.synthetic.meshes import Mesh

Floats = NDArray[np.floating]
_FIRST, _STEP, _COUNT = -800.0, 0.5, 8192  # the tabulated part of the line, metres


@dataclass(frozen=True)
class Path:
    """A line whose heading swings by `swing` radians (up to 0.5) every `period` metres.

    It passes the world's origin at s = 0, along x where it does not swing.
    """

    swing: float = 0.0
    period: float = 400.0
    phase: float = 0.0

    @cached_property
    def _table(self) -> NDArray[np.float32]:
        """(count, 4) x, y, heading, 1 / radius at every step of s."""
        s = _FIRST + _STEP * np.arange(_COUNT)
        turn = 2 * np.pi * s / self.period + self.phase
        heading = self.swing * (np.sin(turn) - np.sin(self.phase))
        bend = self.swing * 2 * np.pi / self.period * np.cos(turn)
        x, y = np.cumsum(np.stack([np.cos(heading), np.sin(heading)]) * _STEP, axis=1)
        zero = round(-_FIRST / _STEP)
        return np.stack([x - x[zero], y - y[zero], heading, bend], 1).astype(np.float32)

    def _look_up(self, s: Floats) -> NDArray[np.float32]:
        """(…, 4) as the table, between its steps."""
        at = np.clip((s - _FIRST) / _STEP, 0, _COUNT - 2)
        low = at.astype(np.int32)
        share = (at - low)[..., None].astype(np.float32)
        return self._table[low] * (1 - share) + self._table[low + 1] * share

    def world(self, s: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Street coordinates -> x, y and the street's heading there."""
        s, n = np.asarray(s, float), np.asarray(n, float)
        if not self.swing:
            return s, n, np.zeros_like(s)
        x, y, heading, _ = np.moveaxis(self._look_up(s), -1, 0)
        return x - n * np.sin(heading), y + n * np.cos(heading), heading

    def street(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """x, y -> street coordinates, for points well within a radius of the line."""
        if not self.swing:
            return x, y
        s = np.interp(x, self._table[:, 0], _FIRST + _STEP * np.arange(_COUNT)).astype(np.float32)
        n = y
        for _ in range(2):
            px, py, heading, bend = np.moveaxis(self._look_up(s), -1, 0)
            cosine, sine = np.cos(heading), np.sin(heading)
            along, n = (x - px) * cosine + (y - py) * sine, (y - py) * cosine - (x - px) * sine
            s = s + along / np.maximum(1 - bend * n, 0.3)
        return s, n

    def bend(self, mesh: Mesh) -> Mesh:
        """A mesh given in street coordinates, in the world; its edges should be short."""
        x, y, _ = self.world(mesh.vertices[:, 0], mesh.vertices[:, 1])
        vertices = np.stack([x, y, mesh.vertices[:, 2]], 1).astype(np.float32)
        return Mesh(vertices, mesh.triangles, mesh.material, mesh.albedo)
