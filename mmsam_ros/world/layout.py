# SPDX-License-Identifier: Apache-2.0
"""What one scene's street is like: its line, widths, how full it is, and its ground's colours."""

from __future__ import annotations

from dataclasses import dataclass

from mmsam_ros.world.meshes import Surface
from mmsam_ros.world.scene import Path
from mmsam_ros.world.scenery import plants
from mmsam_ros.world.style import Dice

BLOCK = 36.0  # metres along the street


@dataclass(frozen=True)
class Layout:
    """Widths in metres, shares in 0..1.

    lane, parking, pavement: widths; kerb, edge: distance of the kerb and of the pavement's far
    edge from the middle line. every, first: blocks between side streets, and the first of them.
    cars, trees: share of the places taken; people, signs: by block and side; fronts: shares of
    houses, houses with gardens, and parks.
    """

    path: Path
    lane: float
    parking: float
    pavement: float
    every: int
    first: int
    cars: float
    trucks: float
    trees: float
    people: float
    signs: float
    fronts: tuple[float, float, float]
    asphalt: Surface
    paint: Surface
    paving: Surface
    stone: Surface
    grass: Surface

    @property
    def kerb(self) -> float:
        return self.lane + self.parking

    @property
    def edge(self) -> float:
        return self.kerb + self.pavement

    @classmethod
    def draw(cls, seed: int) -> Layout:
        rng = Dice(seed, 7)
        swing = rng.uniform(0.12, 0.45) if rng.random() < 0.6 else 0.0
        path = Path(swing, rng.uniform(320, 520), rng.uniform(0, 6.28))
        houses, gardens, park = rng.dirichlet((3.0, 3.0, 2.0))
        every = int(rng.integers(3, 6))
        return cls(
            path=path,
            lane=rng.uniform(3.0, 3.8),
            parking=2.1 if rng.random() < 0.75 else 0.0,
            pavement=rng.uniform(2.6, 4.8),
            every=every,
            first=int(rng.integers(every)),
            cars=rng.uniform(0.2, 0.75),
            trucks=rng.uniform(0.12, 0.3),
            trees=rng.uniform(0.1, 0.8),
            people=rng.uniform(1.5, 6.0),
            signs=rng.uniform(1.0, 3.0),
            fronts=(float(houses), float(gardens), float(park)),
            asphalt=Surface("asphalt", rng.colour((0.08, 0.26), (0.0, 0.18))),
            paint=Surface("marking", rng.colour((0.45, 0.72), (0.0, 0.12), (0.08, 0.2))),
            paving=Surface("paving", rng.colour((0.15, 0.46), (0.0, 0.35), (0.0, 0.17))),
            stone=Surface("kerb", rng.colour((0.2, 0.55), (0.0, 0.15))),
            grass=Surface("grass", plants(rng)),
        )
