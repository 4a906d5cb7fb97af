# SPDX-License-Identifier: Apache-2.0
"""The first kind of scene: a street that is built block by block, as long as the drive needs.

Every block draws its own random numbers, so a longer drive sees the same beginning. Seen across:
two lanes of 3.5 m, parking strips of 2 m, kerbs, pavements, then houses, gardens or a park; a
side street crosses every fourth block.
"""

from __future__ import annotations

import math

import numpy as np

from mmsam_ros.data.synthetic import people, scenery, vehicles
from mmsam_ros.data.synthetic.meshes import Mesh, Surface, box, floor, merge
from mmsam_ros.data.synthetic.world import (
    CLASS_IDS,
    Instance,
    Light,
    Limb,
    Motion,
    World,
    generator,
)

BLOCK = 36.0
LANE, KERB, WALK = 1.75, 5.5, 9.0  # y of the lane's middle, the kerb and the pavement's far edge
STEP = 0.12  # height of the pavement above the road
EGO_SPEED = 7.0
_BEHIND, _AHEAD = 2, 5  # blocks built behind the start and ahead of the end of the drive
_SIDE_ROAD, _REACH = 4.0, 70.0  # half width and length of a side street

_ASPHALT = Surface("asphalt", (0.115, 0.115, 0.12))
_PAINT = Surface("marking", (0.62, 0.62, 0.60))
_PAVING = Surface("paving", (0.34, 0.32, 0.30))
_STONE = Surface("kerb", (0.44, 0.43, 0.41))
_GRASS = Surface("grass", (0.11, 0.17, 0.045))


def _thing(name: str, mesh: Mesh, at: tuple[float, float, float] = (0, 0, 0), yaw: float = 0.0,
           lights: tuple[Light, ...] = ()) -> Instance:  # fmt: skip
    """Something that stands still."""
    return Instance(CLASS_IDS[name], (Limb(mesh.moved(at, yaw=yaw)),), None, lights, at)


class _Block:
    """One block from x0 on; collects instances."""

    def __init__(self, seed: int, index: int, trees: list[Mesh]) -> None:
        self.rng = generator(seed, 1, index + 1000)
        self.index, self.x0, self.trees = index, index * BLOCK, trees
        self.crossing = index % 4 == 2
        self.found: list[Instance] = []

    @property
    def middle(self) -> float:
        return self.x0 + BLOCK / 2

    def spans(self, gap: float) -> list[tuple[float, float]]:
        """The block's stretch along x, without `gap` to both sides of a side street's middle."""
        end = self.x0 + BLOCK
        if not self.crossing:
            return [(self.x0, end)]
        return [(self.x0, self.middle - gap), (self.middle + gap, end)]

    def blocked(self, x: float, gap: float) -> bool:
        return self.crossing and abs(x - self.middle) < gap

    def build(self) -> list[Instance]:
        self._ground()
        for side in (1, -1):
            self._frontage(side)
            self._furniture(side)
            self._parked(side)
            self._walkers(side)
        return self.found

    def _ground(self) -> None:
        end, mid, w = self.x0 + BLOCK, self.middle, _SIDE_ROAD
        road = [floor((self.x0, end), (-KERB, KERB), 0, _ASPHALT)]
        walk: list[Mesh] = []
        land: list[Mesh] = []
        for side in (1, -1):
            far = (side * WALK, side * _REACH)
            for a, b in self.spans(w):
                walk.append(floor((a, b), (side * KERB, side * WALK), STEP, _PAVING))
                edge = sorted((side * (KERB - 0.16), side * KERB))
                walk.append(box((a, edge[0], 0), (b, edge[1], STEP + 0.004), _STONE))
            for a, b in self.spans(w + 2.5):
                land.append(floor((a, b), far, STEP, _GRASS))
            if self.crossing:
                road.append(floor((mid - w, mid + w), (side * KERB, side * _REACH), 0, _ASPHALT))
                for one in (-1, 1):
                    strip = (mid + one * w, mid + one * (w + 2.5))
                    walk.append(floor(strip, far, STEP, _PAVING))
                    edge = sorted((mid + one * w, mid + one * (w + 0.16)))
                    y = sorted((side * KERB, side * _REACH))
                    walk.append(box((edge[0], y[0], 0), (edge[1], y[1], STEP + 0.004), _STONE))
        self.found += [
            _thing("road", merge(road)), _thing("sidewalk", merge(walk)),
            _thing("terrain", merge(land)), _thing("lane_mark", self._marks()),
        ]  # fmt: skip

    def _marks(self) -> Mesh:
        mid, w, z = self.middle, _SIDE_ROAD, 0.005
        marks = []
        for x in np.arange(self.x0, self.x0 + BLOCK, 7.2):
            if not self.blocked(x + 1.5, 10.0):
                marks.append(floor((x, x + 3.2), (-0.07, 0.07), z, _PAINT))
        for side in (1, -1):
            edge = (side * 3.45, side * 3.57)
            marks += [floor(span, edge, z, _PAINT) for span in self.spans(w + 4.5)]
            for x in np.arange(self.x0, self.x0 + BLOCK, 6.0):
                if not self.blocked(x, w + 5.0):
                    tick = (side * 3.57, side * (KERB - 0.2))
                    marks.append(floor((x, x + 0.1), tick, z, _PAINT))
            if self.crossing:
                line = mid - side * (w + 5.4)
                lane = (-side * 0.2, -side * 3.4)
                marks.append(floor((line - 0.2, line + 0.2), lane, z, _PAINT))
                near = sorted((mid - side * (w + 1.0), mid - side * (w + 4.0)))
                for y in np.arange(-5.0, 5.0, 1.0):
                    marks.append(floor((near[0], near[1]), (y, y + 0.5), z, _PAINT))
        return merge(marks)

    def _frontage(self, side: int) -> None:
        kind = self.rng.choice(["houses", "gardens", "park"], p=(0.5, 0.3, 0.2))
        if self.index == 1:  # every class is seen early in the drive
            kind = "park" if side > 0 else "houses"
        elif self.crossing:
            kind = "houses"
        if kind == "park":
            self._park(side)
            return
        setback = WALK + (3.5 if kind == "gardens" else 0.05)
        for a, b in self.spans(_SIDE_ROAD + 2.6):
            x = a + 0.2
            while (
                bays := min(int(self.rng.integers(3, 8)), int((b - 0.2 - x) / scenery.BAY))
            ) >= 2:
                storeys = int(self.rng.integers(2, 4 if kind == "gardens" else 7))
                mesh = scenery.building(self.rng, bays, int(self.rng.integers(4, 6)), storeys)
                width = bays * scenery.BAY
                yaw, corner = (0.0, x) if side > 0 else (math.pi, x + width)
                self.found.append(_thing("building", mesh, (corner, side * setback, STEP), yaw))
                x += width + (self.rng.uniform(1.5, 4.0) if kind == "gardens" else 0.3)
            if kind == "gardens":
                height = self.rng.uniform(0.9, 1.4)
                hedge = scenery.hedge(self.rng, b - a - 3.0, height)
                self.found.append(_thing("vegetation", hedge, (a + 1.0, side * (WALK + 0.6), STEP)))

    def _park(self, side: int) -> None:
        for _ in range(14):
            x = self.x0 + self.rng.uniform(1, BLOCK - 1)
            self._tree(x, side * self.rng.uniform(WALK + 2.0, 32), self.rng.uniform(0.9, 1.5))
        for a in (2.0, 20.0):
            hedge = scenery.hedge(self.rng, self.rng.uniform(6, 13), self.rng.uniform(0.6, 1.0))
            self.found.append(_thing("vegetation", hedge, (self.x0 + a, side * 9.8, STEP)))

    def _tree(self, x: float, y: float, scale: float) -> None:
        shape = self.trees[self.rng.integers(len(self.trees))]
        mesh = shape.moved(scale=scale)
        at = (x, y, STEP)
        self.found.append(_thing("vegetation", mesh, at, self.rng.uniform(0, 2 * math.pi)))

    def _furniture(self, side: int) -> None:
        lamp, light = scenery.street_lamp()
        x = self.x0 + (6.0 if side > 0 else 24.0)
        _, reach, height = light.position
        placed = Light(
            (x, side * (6.0 - reach), height + STEP),
            (0.0, -0.15 * side, -1.0),
            light.power,
            light.focus,
        )
        at = (x, side * 6.0, STEP)
        self.found.append(_thing("pole", lamp, at, math.pi if side > 0 else 0.0, (placed,)))
        for x in np.arange(self.x0 + self.rng.uniform(0, 5), self.x0 + BLOCK, 9.5):
            if not self.blocked(x, _SIDE_ROAD + 5) and self.rng.random() < 0.6:
                self._tree(x, side * 6.6, self.rng.uniform(0.8, 1.05))
        places = [self.x0 + self.rng.uniform(1, 9), self.x0 + self.rng.uniform(24, 35)]
        for x in places:
            if self.blocked(x, _SIDE_ROAD + 1.5):
                continue
            post, plate = scenery.sign(self.rng)
            yaw, at = (0.0 if side < 0 else math.pi), (x, side * 5.95, STEP)
            self.found += [_thing("pole", post, at, yaw), _thing("traffic_sign", plate, at, yaw)]
        if self.crossing:
            for x in (self.middle - 6.5, self.middle - 5.0, self.middle + 5.0, self.middle + 6.5):
                self.found.append(_thing("pole", scenery.bollard(), (x, side * 5.75, STEP)))
        if self.index == 1 or self.rng.random() < 0.35:
            x = self.x0 + self.rng.uniform(10, 14)
            for i in range(int(self.rng.integers(2, 5))):
                mesh = people.bicycle(self.rng)
                at = (x + 0.75 * i, side * 6.9, STEP)
                self.found.append(_thing("bicycle", mesh, at, 1.2 + self.rng.uniform(-0.1, 0.1)))

    def _parked(self, side: int) -> None:
        for slot in range(6):
            x = self.x0 + 6.0 * slot + 3.1 + self.rng.uniform(-0.4, 0.4)
            lorry = self.index == 1 and slot == 2 and side < 0
            if self.blocked(x, _SIDE_ROAD + 7.0):
                continue
            if not (lorry or self.rng.random() < 0.5):
                if self.rng.random() < 0.35:
                    self._walker(x, side * 4.7, self.rng.uniform(0, 2 * math.pi), 0.0, step=0.0)
                continue
            mesh = (vehicles.truck if lorry else vehicles.car)(self.rng, running=False)
            yaw = (0.0 if side < 0 else math.pi) + self.rng.uniform(-0.03, 0.03)
            at = (x, side * (4.2 if lorry else 4.5), 0.0)
            self.found.append(_thing("truck" if lorry else "car", mesh, at, yaw))

    def _walkers(self, side: int) -> None:
        for i in range(int(self.rng.integers(2, 5))):
            x, y = self.x0 + self.rng.uniform(0, BLOCK), side * self.rng.uniform(7.2, 8.5)
            if self.crossing or i == 0:
                x = self.middle + self.rng.uniform(5, 12) * self.rng.choice([-1, 1])
                self._walker(x, side * 6.0, self.rng.uniform(0, 2 * math.pi), 0.0)
            else:
                heading = self.rng.choice([0, math.pi])
                self._walker(x, y, heading, self.rng.uniform(1.0, 1.6))

    def _walker(self, x: float, y: float, heading: float, speed: float, step: float = STEP) -> None:
        limbs = people.person(self.rng, walking=speed > 0)
        if speed > 0:
            motion = Motion((x, y, step), heading, speed)
            self.found.append(Instance(CLASS_IDS["person"], limbs, motion))
        else:
            body = merge([limb.mesh for limb in limbs])
            self.found.append(_thing("person", body, (x, y, step), heading))


def _traffic(seed: int, distance: float) -> list[Instance]:
    """A rider and a car ahead of the ego vehicle, and vehicles coming the other way."""
    rng = generator(seed, 2)
    found = []
    cycle = Motion((14.0, -3.0, 0.0), 0.0, 5.9, sway=0.08, period=5.0)
    found.append(Instance(CLASS_IDS["rider"], people.rider(rng), cycle))
    found.append(Instance(CLASS_IDS["bicycle"], (Limb(people.bicycle(rng)),), cycle))
    lead = Motion((26.0, -LANE, 0.0), 0.0, EGO_SPEED + 0.4)
    body = Limb(vehicles.car(rng, running=True))
    found.append(Instance(CLASS_IDS["car"], (body,), lead, vehicles.HEADLIGHTS))
    for i in range(2 + int(2.3 * distance / 34.0)):
        rng = generator(seed, 3, i)
        lorry = i == 1 or rng.random() < 0.15
        mesh = (vehicles.truck if lorry else vehicles.car)(rng, running=True)
        x = 24.0 + 34.0 * i + rng.uniform(-8, 8)
        motion = Motion((x, LANE, 0.0), math.pi, 8.5)
        name = "truck" if lorry else "car"
        found.append(Instance(CLASS_IDS[name], (Limb(mesh),), motion, vehicles.HEADLIGHTS))
    return found


def build_street(seed: int, *, night: bool = False, seconds: float = 10.0) -> World:
    """The street of one seed, long enough for a drive of `seconds` at 7 m/s."""
    distance = EGO_SPEED * seconds
    rng = generator(seed, 0)
    trees = [scenery.tree(rng) for _ in range(4)]
    last = math.ceil(distance / BLOCK) + _AHEAD
    instances: list[Instance] = []
    for index in range(-_BEHIND, last):
        instances += _Block(seed, index, trees).build()
    instances += _traffic(seed, distance)
    instances += _ends(seed, -_BEHIND * BLOCK, last * BLOCK)
    height, bearing = math.radians(rng.uniform(28, 55)), rng.uniform(0.35, 1.25)
    bearing += math.pi / 2 * rng.integers(4)
    sun = np.array([math.cos(bearing), math.sin(bearing), 0]) * math.cos(height)
    sun[2] = math.sin(height)
    ego = Motion((0.0, -LANE, 0.0), 0.0, EGO_SPEED, sway=0.12)
    return World(seed, night, tuple(instances), ego, vehicles.HEADLIGHTS, sun)


def _ends(seed: int, start: float, end: float) -> list[Instance]:
    """Land as far as the eye reaches, and houses across both ends of the street."""
    land = floor((start - 900, end + 900), (-900, 900), -0.06, _GRASS)
    found = [_thing("terrain", land)]
    for i, (x, yaw) in enumerate([(end + 9.0, -math.pi / 2), (start - 9.0, math.pi / 2)]):
        rng = generator(seed, 4, i)
        for y in (-30.0, -10.5, 9.0):
            house = scenery.building(rng, 8, 4, int(rng.integers(3, 6)))
            at = (x, -y if yaw < 0 else y, 0.0)
            found.append(_thing("building", house, at, yaw))
    return found
