# SPDX-License-Identifier: Apache-2.0
"""Pedestrians, riders, bicycles, cars and trucks, facing +x, standing at z = 0.

People have limbs that swing. Vehicles are centred over their wheels.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from mmsam_ros.world.meshes import Mesh, box, ellipsoid, lathe, loft, merge, mesh, patch, ring, tube
from mmsam_ros.world.scene import Light, Limb
from mmsam_ros.world.style import RGB, Dice, Range, Surface

_GLASS = Surface("glass", (0.02, 0.025, 0.03))
_DARK = (0.025, 0.025, 0.028)
_TRIM = Surface("trim", _DARK)

HEADLIGHTS = (Light((2.3, 0.0, 0.75), (1.0, -0.01, -0.05), 260.0, 45.0),)  # both as one beam
Cabin = tuple[Range, Range, Range]  # x of the lower and of the upper ends, both heights
_CABINS: tuple[Cabin, ...] = (
    ((-1.75, 1.00), (-1.20, 0.25), (0.93, 1.44)),  # saloon
    ((-2.05, 1.05), (-1.75, 0.30), (0.93, 1.50)),  # estate
    ((-2.10, 1.45), (-1.95, 0.75), (0.98, 1.80)),  # van
)


def _skin(rng: Dice) -> Surface:
    return Surface("skin", rng.colour((0.16, 0.66), (0.4, 0.66), (0.03, 0.08)))


def _cloth(rng: Dice) -> Surface:
    """Grey or coloured, dark or light, like walls and cars."""
    saturation = (0.0, 0.25) if rng.random() < 0.5 else (0.3, 0.95)
    return Surface("cloth", rng.colour((0.025, 0.66), saturation))


def _trunk(rng: Dice, skin: Surface, top: Surface, lower: Surface, helmet: bool) -> Mesh:
    """Torso and head."""
    crown = Surface("hair", rng.colour((0.015, 0.35), (0.0, 0.6), (0.03, 0.12)))
    if helmet:
        crown = Surface("trim", rng.colour((0.03, 0.7), (0.0, 0.95)))
    return merge([
        lathe([(0, 0.86, 0.10, 0.15), (0, 0.98, 0.12, 0.17), (0, 1.02, 0.11, 0.15)], lower),
        lathe([(0, 1.00, 0.115, 0.16), (0, 1.15, 0.11, 0.16), (0, 1.32, 0.12, 0.20),
                (0, 1.42, 0.10, 0.20), (0, 1.48, 0.06, 0.09)], top),
        ellipsoid((0.01, 0, 1.62), (0.095, 0.08, 0.125), skin),
        ellipsoid((-0.02, 0, 1.66), (0.10, 0.09, 0.10), crown),
        lathe([(0, 1.46, 0.05, 0.055), (0, 1.54, 0.05, 0.05)], skin),
    ])  # fmt: skip


def person(rng: Dice, *, walking: bool = True) -> tuple[Limb, ...]:
    """A pedestrian of about 1.6 to 1.9 m, or a child; the limbs swing when walking."""
    skin, top, trousers = _skin(rng), _cloth(rng), _cloth(rng)
    shoe = Surface("shoe", (0.05, 0.04, 0.035))
    scale = rng.uniform(0.6, 0.9) if rng.random() < 0.15 else rng.uniform(0.9, 1.1)
    trunk = [_trunk(rng, skin, top, trousers, False)]
    if rng.random() < 0.3:  # a coat or a skirt
        hem, flare = rng.uniform(0.4, 0.75), rng.uniform(0.02, 0.08)
        cut = [(0, hem, 0.13 + flare, 0.18 + flare), (0, 1.02, 0.125, 0.175)]
        trunk.append(lathe(cut, top if rng.random() < 0.5 else _cloth(rng)))
    if rng.random() < 0.25:  # carries something
        low = np.array((-0.12, 0.3, rng.uniform(0.3, 0.6)))
        trunk.append(box(low, low + rng.uniform((0.15, 0.08, 0.2), (0.4, 0.2, 0.45)), _cloth(rng)))
    if rng.random() < 0.35:
        trunk.append(box((-0.28, -0.14, 1.02), (-0.10, 0.14, 1.42), _cloth(rng)))
    limbs = [Limb(merge(trunk).moved(scale=scale))]
    phase, rate = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.0)
    stride = rng.uniform(0.3, 0.55) if walking else 0.0
    for side in (-1, 1):
        hip, hand, gait = 0.09 * side, 0.25 * side, phase + (np.pi if side > 0 else 0.0)
        leg = merge([
            tube((0, hip, 0.92), (0.01, hip, 0.48), trousers, (0.09, 0.065)),
            tube((0.01, hip, 0.48), (-0.01, hip, 0.08), trousers, (0.065, 0.05)),
            box((-0.09, hip - 0.045, 0), (0.17, hip + 0.045, 0.09), shoe),
        ])  # fmt: skip
        arm = merge([
            tube((0, 0.8 * hand, 1.42), (-0.02, hand, 1.13), top, (0.06, 0.05)),
            tube((-0.02, hand, 1.13), (0.06, hand, 0.90), top, (0.05, 0.04)),
            ellipsoid((0.08, hand, 0.85), (0.035, 0.03, 0.07), skin, sides=8),
        ])  # fmt: skip
        joint, shoulder = (0, 0, 0.9 * scale), (0, 0, 1.42 * scale)
        limbs.append(Limb(leg.moved(scale=scale), joint, stride, gait, rate))
        moving = (0.8 * stride, gait + np.pi, rate)
        still = (-rng.uniform(0, 1.5) * (rng.random() < 0.4), np.pi / 2, 0.0)  # raised or hanging
        limbs.append(Limb(arm.moved(scale=scale), shoulder, *(moving if walking else still)))
    return tuple(limbs)


def bicycle(rng: Dice) -> Mesh:
    """A bicycle of 1.75 m, wheels on the ground."""
    frame = Surface("steel", rng.colour((0.02, 0.6), (0.0, 0.95)))
    tyre, dark = (Surface(name, (0.03, 0.03, 0.03)) for name in ("tyre", "trim"))
    rear, front, crank = (-0.53, 0, 0.35), (0.53, 0, 0.35), (-0.06, 0, 0.30)
    seat, head = (-0.2, 0, 0.85), (0.36, 0, 0.86)
    rods = [(rear, crank), (crank, seat), (crank, head), (seat, head), (rear, seat), (head, front)]
    return merge([
        *(tube(a, b, frame, (0.03, 0.03), sides=6) for a, b in rods),
        *(ring(centre, 0.33, 0.035, tyre) for centre in (rear, front)),
        tube((0.34, -0.27, 1.0), (0.34, 0.27, 1.0), dark, (0.02, 0.02), sides=6),
        tube(head, (0.34, 0, 1.0), frame, (0.022, 0.022), sides=6),
        box((-0.34, -0.07, 0.86), (-0.08, 0.07, 0.92), dark),
    ])  # fmt: skip


def rider(rng: Dice) -> tuple[Limb, ...]:
    """A pedalling rider without the bicycle, which is an instance of its own."""
    skin, top, trousers = _skin(rng), _cloth(rng), _cloth(rng)
    lean = np.array([[0.86, 0, 0.5], [0, 1, 0], [-0.5, 0, 0.86]])
    trunk = _trunk(rng, skin, top, trousers, True)
    limbs = [Limb(trunk.at((trunk.vertices - (0, 0, 0.9)) @ lean.T + (-0.22, 0, 0.98)))]
    for side in (-1, 1):
        y, shoulder, hand = 0.1 * side, (0.05, 0.2 * side, 1.40), (0.34, 0.24 * side, 1.03)
        arm = tube(shoulder, hand, top, (0.055, 0.035))
        leg = merge([
            tube((-0.2, y, 0.96), (0.16, y, 0.7), trousers, (0.09, 0.065)),
            tube((0.16, y, 0.70), (0.0, y, 0.28), trousers, (0.065, 0.05)),
            box((-0.05, y - 0.04, 0.2), (0.19, y + 0.04, 0.28), Surface("shoe", (0.1, 0.1, 0.1))),
        ])  # fmt: skip
        limbs += [Limb(arm), Limb(leg, (-0.2, 0, 0.96), 0.22, 0.0 if side < 0 else np.pi, 1.2)]
    return tuple(limbs)


def _paint(rng: Dice) -> RGB:
    """Six of ten are white, grey or black."""
    return rng.colour((0.02, 0.66), (0.0, 0.12) if rng.random() < 0.6 else (0.4, 0.95))


def _frustum(cabin: Cabin, widths: Range, surface: Surface) -> tuple[Mesh, list[ArrayLike]]:
    """A box with sloping sides, and its right, front, left and back face (see `patch`)."""
    ((x0, x1), (u0, u1), (z0, z1)), (w, v) = cabin, widths
    p = [[x0, -w, z0], [x1, -w, z0], [x1, w, z0], [x0, w, z0]]
    q = [[u0, -v, z1], [u1, -v, z1], [u1, v, z1], [u0, v, z1]]
    tris, faces = [[4, 5, 6], [4, 6, 7]], list[ArrayLike]()
    for i, j in (0, 1), (1, 2), (2, 3), (3, 0):
        tris += [[i, j, 4 + j], [i, 4 + j, 4 + i]]
        faces.append([p[i], p[j], q[j], q[i]])
    return mesh(p + q, tris, surface), faces


def _wheels(xs: Sequence[float], outer: float, radius: float, running: bool) -> list[Mesh]:
    tyre = Surface("warm_tyre" if running else "tyre", _DARK)
    rim = Surface("rim", (0.45, 0.45, 0.46))
    discs = ((-0.22, 0.0, tyre, 1.0, 18), (0.0, 0.012, rim, 0.62, 10), (0.0, 0.02, tyre, 0.2, 8))
    wheels = []
    for x, side, (a, b, surface, share, sides) in product(xs, (-1, 1), discs):
        start, end = ((x, side * outer + y * side, radius) for y in (a, b))
        wheels.append(tube(start, end, surface, (share * radius, share * radius), sides))
    return wheels


def _lamps(x_front: float, x_back: float, y: float, z: float, running: bool) -> list[Mesh]:
    front = Surface("headlamp_on" if running else "headlamp", (0.85, 0.85, 0.8))
    back = Surface("tail_lamp_on" if running else "tail_lamp", (0.55, 0.02, 0.02))
    plate = Surface("plate", (0.75, 0.75, 0.72))
    parts = []
    for low, high in (-y - 0.15, 0.17 - y), (y - 0.17, y + 0.15):
        parts.append(box((x_front - 0.15, low, z - 0.07), (x_front + 0.02, high, z + 0.07), front))
        parts.append(box((x_back - 0.02, low, z - 0.06), (x_back + 0.15, high, z + 0.10), back))
    parts.append(box((x_front, -0.26, 0.40), (x_front + 0.04, 0.26, 0.51), plate))
    parts.append(box((x_back - 0.035, -0.26, 0.60), (x_back, 0.26, 0.71), plate))
    return parts


def _car(rng: Dice, running: bool) -> Mesh:
    """A saloon, estate or van of about 4.4 m; running: warm engine and tyres, lamps on at night."""
    paint = Surface("paint", _paint(rng))
    bonnet = Surface("warm_paint" if running else "paint", paint.rgb)
    grille = Surface("warm_trim" if running else "trim", _DARK)
    cabin = _CABINS[rng.choice(3, p=(0.45, 0.4, 0.15))]
    low, _, (belt, _) = cabin
    profile = [
        (-2.10, 0.24), (-2.19, 0.42), (-2.20, 0.78), (-2.12, belt), (low[1], belt + 0.01),
        (1.60, belt - 0.06), (1.98, belt - 0.15), (2.17, belt - 0.27), (2.21, 0.42), (2.12, 0.22),
    ]  # fmt: skip
    shell, (right, front, left, rear) = _frustum(cabin, (0.85, 0.66), paint)
    panes = product((left, right), [(0.08, 0.30), (0.33, 0.61), (0.64, 0.93)])
    back, axles = low[1] + 0.1, (-1.32, 1.38)
    lid = [(back, -0.7, belt), (1.6, -0.7, belt - 0.06), (1.6, 0.7, belt - 0.06), (back, 0.7, belt)]
    parts = [
        loft(np.stack([np.insert(profile, 1, y, axis=1) for y in (-0.88, 0.88)]), paint),
        shell,
        *(patch(face, (0.07, 0.93), (0.08, 0.88), _GLASS) for face in (front, rear)),
        *(patch(face, pane, (0.06, 0.86), _GLASS) for face, pane in panes),
        patch(lid, (0, 1), (0, 1), bonnet),
        box((2.0, -0.42, 0.46), (2.225, 0.42, 0.62), grille),
        box((2.0, -0.75, 0.24), (2.20, 0.75, 0.34), _TRIM),
        box((-2.205, -0.80, 0.30), (-2.0, 0.80, 0.44), _TRIM),
        box((-1.0, -0.89, 0.20), (1.0, 0.89, 0.30), _TRIM),
        *(box((0.72, y, belt), (0.86, y + 0.18, belt + 0.14), paint) for y in (-1.02, 0.84)),
        *(tube((x, -0.885, 0.34), (x, 0.885, 0.34), _TRIM, (0.38, 0.38), 18) for x in axles),
        *_wheels(axles, 0.89, 0.32, running),
        *_lamps(2.19, -2.20, 0.62, 0.70, running),
    ]
    if running:
        parts.append(tube((-2.25, -0.5, 0.26), (-2.1, -0.5, 0.26), grille, (0.035, 0.035)))
    return merge(parts)


def _truck(rng: Dice, running: bool) -> Mesh:
    """A box truck of about 7 m."""
    cab, load = Surface("paint", _paint(rng)), Surface("paint", rng.colour((0.15, 0.7), (0.0, 0.6)))
    stripe = Surface("paint", rng.colour((0.02, 0.6), (0.0, 1.0)))
    grille = Surface("warm_trim" if running else "trim", _DARK)
    cabin = (1.7, 3.45), (1.7, 3.1), (1.35, 2.55)
    shell, (right, front, left, _) = _frustum(cabin, (1.12, 1.02), cab)
    return merge([
        box((-3.4, -1.2, 0.95), (1.55, 1.2, 3.25), load),
        box((-3.42, -1.21, 0.9), (1.56, 1.21, 1.0), _TRIM),
        box((-3.3, -0.5, 0.55), (3.2, 0.5, 0.95), _TRIM),
        box((-3.45, -1.1, 0.5), (-3.3, 1.1, 0.62), _TRIM),
        box((1.7, -1.12, 0.45), (3.45, 1.12, 1.35), cab),
        shell,
        patch(front, (0.06, 0.94), (0.08, 0.86), _GLASS),
        patch(right, (0.2, 0.85), (0.06, 0.8), _GLASS),
        patch(left, (0.15, 0.8), (0.06, 0.8), _GLASS),
        box((3.3, -0.7, 0.62), (3.47, 0.7, 1.15), grille),
        box((-3.35, -1.207, 1.5), (1.5, 1.207, 1.95), stripe),
        *(box((-3.41, -1.0, z), (-3.40, 1.0, z + 0.04), _TRIM) for z in (1.6, 2.6)),
        box((-3.412, -0.02, 1.05), (-3.40, 0.02, 3.2), _TRIM),
        *_wheels((-2.5, -1.5, 2.5), 1.15, 0.46, running),
        *_lamps(3.45, -3.44, 0.85, 0.78, running),
    ])  # fmt: skip


VEHICLES = {"car": _car, "truck": _truck}
