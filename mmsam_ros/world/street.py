# SPDX-License-Identifier: Apache-2.0
"""Builds a street, block by block along a straight or curved line, as long as the drive needs.

Every block has its own random numbers, so a longer drive begins with the same street. It has two
lanes, then on each side a parking strip (or none), a kerb, a pavement, and houses, gardens or a
park; side streets cross it.
"""

import math
from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np

from mmsam_ros.data.errors import DataError
from mmsam_ros.world import scene, scenery, traffic
from mmsam_ros.world.meshes import Mesh, box, floor, merge
from mmsam_ros.world.scene import CLASS_IDS, Instance, Light, Limb, Motion, Path, Point, World
from mmsam_ros.world.style import Dice, Range, Surface

DAY = 86400.0  # seconds
EGO_SPEED = 7.0  # m/s
BLOCK = 36.0  # metres along the street
STEP = 0.12  # height of the pavement above the road
_BEHIND, _AHEAD = 2, 5  # blocks before the start and after the end of the drive
_ONCOMING = 2.2  # metres of oncoming traffic for each metre of the drive
_SIDE_ROAD, _SIDE_WALK = 4.0, 2.5  # half width of a side street's road, width of its pavements
_REACH = 70.0  # length of side streets, and how far the land beside the street reaches
_PIECE = 3.0  # the ground follows curves in pieces of this length
_HEADING = {-1: 0.0, 1: math.pi}  # of the traffic on each side, relative to the street's


class Layout:
    """A street of one seed for a drive of `distance`: distances in metres, and densities."""

    def __init__(self, seed: int, distance: float) -> None:
        rng = Dice(seed, 7)
        swing = rng.uniform(0.12, 0.45) if rng.random() < 0.6 else 0.0
        self.traffic = 70 + _ONCOMING * distance  # where it begins at the start of the drive
        known = max(self.traffic + 2 * BLOCK, distance + (_AHEAD + 2) * BLOCK)
        self.path = Path(swing, rng.uniform(320, 520), rng.uniform(0, 6.28), known)
        self.fronts = rng.dirichlet((3.0, 3.0, 2.0))  # shares of houses, houses with gardens, parks
        self.every = int(rng.integers(3, 6))  # blocks between side streets
        self.lane = rng.uniform(3.0, 3.8)  # width
        self.parking = 2.1 if rng.random() < 0.8 else 0.0  # width
        self.kerb = self.lane + self.parking  # distance from the middle line
        self.edge = self.kerb + rng.uniform(2.6, 4.8)  # of the pavement's far side
        self.first = int(rng.integers(self.every))  # block with a side street
        self.cars = rng.uniform(0.3, 0.9)  # share of the places taken
        self.trucks = rng.uniform(0.05, 0.22)  # among the cars
        self.trees = rng.uniform(0.1, 0.8)  # share of the places taken
        self.people = rng.uniform(3.0, 10.0)  # per block and side
        self.signs = rng.uniform(1.0, 3.0)  # per block and side
        self.asphalt = Surface("asphalt", rng.colour((0.08, 0.26), (0.0, 0.18)))
        self.paint = Surface("marking", rng.colour((0.45, 0.72), (0.0, 0.12), (0.08, 0.2)))
        self.paving = Surface("paving", rng.colour((0.15, 0.46), (0.0, 0.35), (0.0, 0.17)))
        self.stone = Surface("kerb", rng.colour((0.2, 0.55), (0.0, 0.15)))
        self.grass = Surface("grass", scenery.plants(rng))


def build_street(
    seed: int, weather: str = "sun", case: str = "ordinary", seconds: float = 10.0
) -> World:
    """The street of one seed, long enough for a drive of `seconds` at 7 m/s."""
    if not 0 < seconds <= DAY:
        raise DataError(f"seconds is {seconds}, expected a finite time above 0, at most a day")
    layout, rng = Layout(seed, EGO_SPEED * seconds), Dice(seed, 0)
    trees = [scenery.tree(rng) for _ in range(4)]
    last = math.ceil(EGO_SPEED * seconds / BLOCK) + _AHEAD
    blocks = [_Block(seed, index, layout, trees).build() for index in range(-_BEHIND, last)]
    blocks.append(_traffic(seed, layout))
    blocks.append(_ends(seed, layout, -_BEHIND * BLOCK, last * BLOCK))
    instances = tuple(chain.from_iterable(blocks))
    height, bearing = math.radians(rng.uniform(28, 55)), rng.uniform(0.35, 1.25)
    bearing += math.pi / 2 * rng.integers(4)
    level = math.cos(height)
    sun = np.array([math.cos(bearing) * level, math.sin(bearing) * level, math.sin(height)])
    start, sway = (0.0, -layout.lane / 2, 0.0), rng.uniform(0.05, 0.35)
    ego = Motion(start, 0.0, EGO_SPEED, sway, path=layout.path)
    conditions = scene.Conditions.draw(seed, weather, case)
    return World(seed, conditions, instances, ego, traffic.HEADLIGHTS, sun, layout.path)


class _Block:
    """One block of the street; collects instances. Positions are street coordinates s, n."""

    def __init__(self, seed: int, index: int, layout: Layout, trees: Sequence[Mesh]) -> None:
        self.rng = Dice(seed, 1, index + 1000)
        self.layout, self.trees = layout, trees
        self.start = index * BLOCK
        self.end, self.middle = self.start + BLOCK, self.start + BLOCK / 2
        self.crossing = index % layout.every == layout.first
        self.found: list[Instance] = []

    def build(self) -> list[Instance]:
        self._ground()
        for side in (1, -1):
            for add in self._frontage, self._furniture, self._signs, self._parked, self._walkers:
                add(side)
        return self.found

    def spans(self, gap: float) -> list[Range]:
        """The block's length, without `gap` on both sides of a side street's middle."""
        if not self.crossing:
            return [(self.start, self.end)]
        return [(self.start, self.middle - gap), (self.middle + gap, self.end)]

    def blocked(self, s: float, gap: float) -> bool:
        return self.crossing and abs(s - self.middle) < gap

    def place(self, name: str, mesh: Mesh, at: Point, yaw: float = 0.0, *lights: Light) -> None:
        """Adds something rigid at s, n, z, turned by `yaw` relative to the street."""
        self.found.append(_placed(self.layout.path, name, mesh, at, yaw, *lights))

    def lay(self, name: str, pieces: Sequence[Mesh]) -> None:
        """Adds meshes in street coordinates with short edges, bent along the street's curve."""
        mesh = merge(pieces)
        s, n, z = mesh.vertices.T
        x, y, _ = self.layout.path.world(s, n)
        bent = Limb(mesh.at(np.stack([x, y, z], 1)))
        self.found.append(Instance(CLASS_IDS[name], (bent,)))

    def _ground(self) -> None:
        lay, mid, w = self.layout, self.middle, _SIDE_ROAD
        road = strip((self.start, self.end), (-lay.kerb, lay.kerb), 0, lay.asphalt)
        walk, land = list[Mesh](), list[Mesh]()
        for side in (1, -1):
            far = (side * lay.edge, side * _REACH)
            for span in self.spans(w):
                walk += strip(span, (side * lay.kerb, side * lay.edge), STEP, lay.paving)
                walk += _kerb(span, side * (lay.kerb - 0.16), side * lay.kerb, lay.stone)
            for span in self.spans(w + _SIDE_WALK):
                land += strip(span, far, STEP, lay.grass)
            if self.crossing:
                across = (side * lay.kerb, side * _REACH)
                road += strip((mid - w, mid + w), across, 0, lay.asphalt)
                for one in (-1, 1):
                    near = mid + one * w
                    walk += strip((near, mid + one * (w + _SIDE_WALK)), far, STEP, lay.paving)
                    walk += _kerb((near, mid + one * (w + 0.16)), *across, lay.stone)
        self.lay("road", road)
        self.lay("sidewalk", walk)
        self.lay("terrain", land)
        self.lay("lane_mark", self._marks())

    def _marks(self) -> list[Mesh]:
        lay, mid, w, z = self.layout, self.middle, _SIDE_ROAD, 0.005
        marks = []
        for s in np.arange(self.start, self.end, 7.2):
            if not self.blocked(s + 1.5, 10.0):
                marks += strip((s, s + 3.6), (-0.08, 0.08), z, lay.paint)
        for side in (1, -1):
            line = side * (lay.lane - (0.0 if lay.parking else 0.4))
            for span in self.spans(w + 4.5):
                marks += strip(span, (line - 0.08, line + 0.08), z, lay.paint)
            for s in np.arange(self.start, self.end, 6.0):
                if lay.parking and not self.blocked(s, w + 5.0):
                    tick = (side * (lay.lane + 0.08), side * (lay.kerb - 0.2))
                    marks += strip((s, s + 0.12), tick, z, lay.paint)
            if self.crossing:
                stop = mid - side * (w + 5.4)
                half = (-side * 0.2, -side * (lay.lane - 0.1))
                marks += strip((stop - 0.2, stop + 0.2), half, z, lay.paint)
                near = (mid - side * (w + 1.0), mid - side * (w + 4.0))
                for n in np.arange(0.3 - lay.kerb, lay.kerb - 0.6, 1.0):
                    marks += strip(near, (n, n + 0.5), z, lay.paint)
        return marks

    def _frontage(self, side: int) -> None:
        rng = self.rng
        kind = rng.choice(["houses", "gardens", "park"], p=self.layout.fronts)
        if kind == "park" and not self.crossing:
            self._park(side)
            return
        garden = kind == "gardens"
        curve = 0.6 if self.layout.path.swing else 0.0  # straight fronts at a curved pavement
        setback = self.layout.edge + curve + (rng.uniform(3, 8) if garden else 0.05)
        for a, b in self.spans(_SIDE_ROAD + _SIDE_WALK + 0.1):
            s = a + 0.2
            while (bays := min(int(rng.integers(3, 8)), int((b - 0.2 - s) / scenery.BAY))) >= 2:
                storeys, half = int(rng.integers(2, 4 if garden else 7)), bays * scenery.BAY / 2
                house = scenery.building(rng, bays, int(rng.integers(4, 6)), storeys)
                at = (s + half, side * setback, STEP)
                self.place("building", house.moved((-half, 0, 0)), at, _HEADING[-side])
                s += 2 * half + (rng.uniform(1.5, 4.0) if garden else 0.3)
            if garden:
                self._hedge(side, a + 1.0, b - a - 3.0, self.layout.edge + 0.6)

    def _hedge(self, side: int, start: float, length: float, n: float) -> None:
        hedge = scenery.hedge(self.rng, length, self.rng.uniform(0.7, 1.4))
        self.lay("vegetation", [hedge.moved((start, side * n, STEP))])

    def _park(self, side: int) -> None:
        rng, edge = self.rng, self.layout.edge
        for _ in range(14):
            n, s = rng.uniform(edge + 2.0, 32), self.start + rng.uniform(1, BLOCK - 1)
            self._tree(s, side * n, rng.uniform(0.9, 1.5))
        for a in (2.0, 20.0):
            self._hedge(side, self.start + a, rng.uniform(6, 13), edge + 0.8)

    def _tree(self, s: float, n: float, scale: float) -> None:
        mesh = self.trees[int(self.rng.integers(len(self.trees)))].moved(scale=scale)
        self.place("vegetation", mesh, (s, n, STEP), self.rng.uniform(0, 2 * math.pi))

    def _furniture(self, side: int) -> None:
        rng, lay = self.rng, self.layout
        lamp, light = scenery.street_lamp(rng)
        s, n = self.start + (6.0 if side > 0 else 24.0), side * (lay.kerb + 0.5)
        x, y, heading = map(float, lay.path.world(s, n - side * light.position[1]))
        aim = (0.15 * side * math.sin(heading), -0.15 * side * math.cos(heading), -1.0)
        placed = Light((x, y, light.position[2] + STEP), aim, light.power, light.focus)
        self.place("pole", lamp, (s, n, STEP), _HEADING[side], placed)
        for s in np.arange(self.start + rng.uniform(0, 5), self.end, 8.0):
            if not self.blocked(s, _SIDE_ROAD + 5) and rng.random() < lay.trees:
                self._tree(s, side * (lay.kerb + 1.1), rng.uniform(0.75, 1.05))
        if self.crossing:
            for gap in (-6.5, -5.0, 5.0, 6.5):
                at = (self.middle + gap, side * (lay.kerb + 0.25), STEP)
                self.place("pole", scenery.bollard(rng), at)
        if rng.random() < 0.6:
            s = self.start + rng.uniform(8, 20)
            for i in range(int(rng.integers(2, 6))):
                at = (s + 0.75 * i, side * (lay.kerb + 1.3), STEP)
                self.place("bicycle", traffic.bicycle(rng), at, 1.2 + rng.uniform(-0.3, 0.3))

    def _signs(self, side: int) -> None:
        """Signs that face the traffic on their side."""
        rng = self.rng
        for _ in range(rng.poisson(self.layout.signs)):
            s = self.start + rng.uniform(0, BLOCK)
            if self.blocked(s, _SIDE_ROAD + 1.5):
                continue
            post, plate = scenery.guide(rng) if rng.random() < 0.25 else scenery.sign(rng)
            at = (s, side * (self.layout.kerb + 0.45), STEP)
            self.place("pole", post, at, _HEADING[side])
            self.place("traffic_sign", plate, at, _HEADING[side])

    def _parked(self, side: int) -> None:
        rng, lay = self.rng, self.layout
        if not lay.parking:
            return
        for slot in range(6):
            s = self.start + 6.0 * slot + 3.1 + rng.uniform(-0.4, 0.4)
            if self.blocked(s, _SIDE_ROAD + 7.0):
                continue
            if rng.random() > lay.cars:
                if rng.random() < 0.3:
                    self._stander((s, side * (lay.kerb - 0.8), 0.0))
                continue
            kind = "truck" if rng.random() < lay.trucks and slot % 2 == 0 else "car"
            mesh = traffic.VEHICLES[kind](rng, rng.random() < 0.2)
            yaw = _HEADING[side] + rng.uniform(-0.03, 0.03)
            at = (s, side * (lay.kerb - (1.35 if kind == "truck" else 1.0)), 0.0)
            self.place(kind, mesh, at, yaw)
            if rng.random() < 0.12:  # the driver gets in
                self._stander((s + rng.uniform(-1, 1), side * (lay.lane - 0.1), 0.0))

    def _walkers(self, side: int) -> None:
        rng, lay = self.rng, self.layout
        for _ in range(rng.poisson(lay.people)):
            s, n = self.start + rng.uniform(0, BLOCK), rng.uniform(lay.kerb + 0.9, lay.edge - 0.3)
            if rng.random() < 0.5:
                self._stander((s, side * n, STEP))
            else:
                heading = float(rng.choice([0.0, math.pi]))
                self._walker((s, side * n, STEP), heading, rng.uniform(1.0, 1.6))
        if self.crossing and rng.random() < 0.8:  # cross as the ego vehicle approaches
            s, pace = self.middle - _SIDE_ROAD - rng.uniform(1.2, 3.8), rng.uniform(1.0, 1.5)
            near = max(0.0, (s - 12) / EGO_SPEED)
            n = rng.uniform(-lay.lane, lay.lane) - side * pace * near
            self._walker((s, n, 0.0), side * math.pi / 2, pace)
        elif rng.random() < 0.6:  # cross anywhere, out of the ego vehicle's way when it comes
            s, pace = rng.uniform(self.start, self.end), rng.uniform(0.9, 1.8)
            passed = rng.choice((-1, 1)) * rng.uniform(1.9, 4.0) - lay.lane / 2
            n = passed - side * pace * max(0.0, (s - 5) / EGO_SPEED)
            self._walker((s, n, 0.0), side * math.pi / 2, pace)

    def _walker(self, at: Point, heading: float, speed: float) -> None:
        motion = Motion(at, heading, speed, path=self.layout.path)
        self.found.append(Instance(CLASS_IDS["person"], traffic.person(self.rng), motion))

    def _stander(self, at: Point) -> None:
        limbs = traffic.person(self.rng, walking=False)
        body = merge([limb.mesh.moved_by(limb.at(0.0)) for limb in limbs])
        self.place("person", body, at, self.rng.uniform(0, 2 * math.pi))


def _placed(path: Path, name: str, mesh: Mesh, at: Point, yaw: float, *lights: Light) -> Instance:
    x, y, heading = map(float, path.world(*at[:2]))
    there, yaw = (x, y, at[2]), yaw + heading
    return Instance(CLASS_IDS[name], (Limb(mesh.moved(there, yaw=yaw)),), None, lights, there, yaw)


def strip(s: Range, n: Range, z: float, surface: Surface) -> list[Mesh]:
    """A level rectangle in street coordinates, in pieces short enough to be bent."""
    return [floor(piece, n, z, surface) for piece in _pieces(s)]


def _kerb(s: Range, n0: float, n1: float, surface: Surface) -> list[Mesh]:
    """A kerb stone's upright faces and top between two distances from the middle line."""
    low, high = sorted((n0, n1))
    return [box((a, low, 0), (b, high, STEP + 0.004), surface) for a, b in _pieces(s)]


def _pieces(s: Range) -> list[Range]:
    """Short pieces of an interval; either end may come first."""
    start, end = sorted(s)
    count = max(1, math.ceil((end - start) / _PIECE))
    return list(pairwise(np.linspace(start, end, count + 1).tolist()))


def _ends(seed: int, layout: Layout, start: float, end: float) -> list[Instance]:
    """Land up to the horizon, and houses across both ends of the street."""
    _, y, _ = layout.path.world(np.arange(start, end), 0.0)  # a curved street also drifts
    sides = min(-900.0, float(y.min()) - 300), max(900.0, float(y.max()) + 300)
    land = floor((start - 900, end + 900), sides, -0.06, layout.grass)
    found = [Instance(CLASS_IDS["terrain"], (Limb(land),))]
    for i, (s, yaw) in enumerate([(end + 9.0, -math.pi / 2), (start - 9.0, math.pi / 2)]):
        rng = Dice(seed, 4, i)
        for n in (-30.0, -10.5, 9.0):
            house = scenery.building(rng, 8, 4, int(rng.integers(3, 6))).moved((n, 0, 0))
            found.append(_placed(layout.path, "building", house, (s, 0.0, 0.0), yaw))
    return found


def _traffic(seed: int, layout: Layout) -> list[Instance]:
    """Moving vehicles and riders."""
    rng = Dice(seed, 2)
    found = list[Instance]()
    if rng.random() < 0.7:
        found += _rider(rng, layout, rng.uniform(5, 18), -1, rng.uniform(6.2, 7.4))
    if rng.random() < 0.65:
        gap, speed = rng.uniform(11, 34), EGO_SPEED + rng.uniform(-0.3, 0.6)
        found.append(_vehicle(rng, layout, gap, -1, speed))
    s, number = 18.0, 0
    while s < layout.traffic:
        rng = Dice(seed, 3, number)
        if rng.random() < 0.5:  # one that the ego vehicle passes
            found += _rider(rng, layout, s + rng.uniform(0, 20), -1, rng.uniform(2.5, 5.5))
        s += rng.uniform(12, 36)
        if rng.random() < 0.5:
            found += _rider(rng, layout, s, 1, rng.uniform(3.5, 6.0))
        else:
            found.append(_vehicle(rng, layout, s, 1, 8.5))
        number += 1
    return found


def _vehicle(rng: Dice, layout: Layout, s: float, side: int, speed: float) -> Instance:
    kind = "truck" if rng.random() < 0.25 else "car"
    body = Limb(traffic.VEHICLES[kind](rng, True))
    motion = Motion((s, side * layout.lane / 2, 0.0), _HEADING[side], speed, path=layout.path)
    return Instance(CLASS_IDS[kind], (body,), motion, traffic.HEADLIGHTS)


def _rider(rng: Dice, layout: Layout, s: float, side: int, speed: float) -> list[Instance]:
    """A rider and the bicycle, which are two instances of two classes."""
    start = (s, side * (layout.lane - rng.uniform(0.2, 0.8)), 0.0)
    motion = Motion(start, _HEADING[side], speed, 0.08, 5.0, layout.path)
    return [
        Instance(CLASS_IDS["rider"], traffic.rider(rng), motion),
        Instance(CLASS_IDS["bicycle"], (Limb(traffic.bicycle(rng)),), motion),
    ]
