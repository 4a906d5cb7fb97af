# SPDX-License-Identifier: Apache-2.0
"""What drives on the street: vehicles and riders ahead, and those coming the other way."""

from __future__ import annotations

import math

from mmsam_ros.data.synthetic import people, vehicles
from mmsam_ros.data.synthetic.layout import Layout
from mmsam_ros.data.synthetic.style import Dice
from mmsam_ros.data.synthetic.world import CLASS_IDS, Instance, Limb, Motion

EGO_SPEED = 7.0  # m/s


def traffic(seed: int, distance: float, layout: Layout) -> list[Instance]:
    """Moving vehicles and riders for a drive of `distance` metres."""
    rng = Dice(seed, 2)
    right = -(layout.lane - 0.7)
    found = _rider(rng, layout, rng.uniform(7, 14), right, rng.uniform(6.4, 7.4))
    if rng.random() < 0.6:
        gap = rng.uniform(16, 34)
        found.append(_vehicle(rng, layout, gap, EGO_SPEED + rng.uniform(-0.3, 0.6), ahead=True))
    s, number = 18.0, 0
    while s < 70 + 2.2 * distance:
        rng = Dice(seed, 3, number)
        s += rng.uniform(12, 36)
        if rng.random() < 0.5:
            found += _rider(rng, layout, s, -right, rng.uniform(3.5, 6.0), heading=math.pi)
        else:
            found.append(_vehicle(rng, layout, s, 8.5, ahead=False))
        number += 1
    return found


def _vehicle(rng: Dice, layout: Layout, s: float, speed: float, *, ahead: bool) -> Instance:
    lorry = rng.random() < 0.35
    mesh = (vehicles.truck if lorry else vehicles.car)(rng, running=True)
    n, heading = (-layout.lane / 2, 0.0) if ahead else (layout.lane / 2, math.pi)
    motion = Motion((s, n, 0.0), heading, speed, path=layout.path)
    label = CLASS_IDS["truck" if lorry else "car"]
    return Instance(label, (Limb(mesh),), motion, vehicles.HEADLIGHTS)


def _rider(
    rng: Dice, layout: Layout, s: float, n: float, speed: float, heading: float = 0.0
) -> list[Instance]:
    """Somebody on a bicycle, and the bicycle: two instances of two classes."""
    motion = Motion((s, n, 0.0), heading, speed, 0.08, 5.0, layout.path)
    return [
        Instance(CLASS_IDS["rider"], people.rider(rng), motion),
        Instance(CLASS_IDS["bicycle"], (Limb(people.bicycle(rng)),), motion),
    ]
