# SPDX-License-Identifier: Apache-2.0
"""Pedestrians, bicycles and riders with limbs that swing, facing +x, standing at z = 0."""

import numpy as np

from mmsam_ros.world.meshes import Mesh, Surface, box, ellipsoid, lathe, merge, ring, tube
from mmsam_ros.world.scene import Limb
from mmsam_ros.world.style import Dice


def _skin(rng: Dice) -> Surface:
    return Surface("skin", rng.colour((0.16, 0.66), (0.4, 0.66), (0.03, 0.08)))


def _cloth(rng: Dice) -> Surface:
    """Grey or coloured, dark or light, like walls and cars."""
    saturation = (0.0, 0.25) if rng.random() < 0.5 else (0.3, 0.95)
    return Surface("cloth", rng.colour((0.025, 0.66), saturation))


def _head(rng: Dice, skin: Surface, helmet: bool) -> Mesh:
    hair = Surface("hair", rng.colour((0.015, 0.35), (0.0, 0.6), (0.03, 0.12)))
    top = Surface("trim", rng.colour((0.03, 0.7), (0.0, 0.95))) if helmet else hair
    return merge([
        ellipsoid((0.01, 0, 1.62), (0.095, 0.08, 0.125), skin),
        ellipsoid((-0.02, 0, 1.66), (0.10, 0.09, 0.10), top),
        lathe([(0, 1.46, 0.05, 0.055), (0, 1.54, 0.05, 0.05)], skin),
    ])  # fmt: skip


def _torso(top: Surface, lower: Surface) -> Mesh:
    return merge([
        lathe([(0, 0.86, 0.10, 0.15), (0, 0.98, 0.12, 0.17), (0, 1.02, 0.11, 0.15)], lower),
        lathe([(0, 1.00, 0.115, 0.16), (0, 1.15, 0.11, 0.16), (0, 1.32, 0.12, 0.20),
                (0, 1.42, 0.10, 0.20), (0, 1.48, 0.06, 0.09)], top),
    ])  # fmt: skip


def person(rng: Dice, *, walking: bool = True) -> tuple[Limb, ...]:
    """A pedestrian of about 1.6 to 1.9 m; the limbs swing when walking."""
    skin, top, trousers = _skin(rng), _cloth(rng), _cloth(rng)
    shoe = Surface("shoe", (0.05, 0.04, 0.035))
    scale = rng.uniform(0.93, 1.08)
    trunk = [_torso(top, trousers), _head(rng, skin, False)]
    if rng.random() < 0.35:
        trunk.append(box((-0.28, -0.14, 1.02), (-0.10, 0.14, 1.42), _cloth(rng)))
    limbs = [Limb(merge(trunk).moved(scale=scale))]
    phase, rate = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.0)
    stride = 0.45 if walking else 0.0
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
        limbs.append(Limb(arm.moved(scale=scale), shoulder, 0.8 * stride, gait + np.pi, rate))
    return tuple(limbs)


def bicycle(rng: Dice) -> Mesh:
    """A bicycle of 1.75 m, wheels on the ground."""
    frame = Surface("steel", rng.colour((0.02, 0.6), (0.0, 0.95)))
    tyre = Surface("tyre", (0.03, 0.03, 0.03))
    dark = Surface("trim", (0.03, 0.03, 0.03))
    rear, front, crank = (-0.53, 0, 0.35), (0.53, 0, 0.35), (-0.06, 0, 0.30)
    seat, head = (-0.2, 0, 0.85), (0.36, 0, 0.86)
    rods = [(rear, crank), (crank, seat), (crank, head), (seat, head), (rear, seat), (head, front)]
    parts = [tube(a, b, frame, (0.03, 0.03), sides=6) for a, b in rods]
    parts += [ring(rear, 0.33, 0.035, tyre), ring(front, 0.33, 0.035, tyre)]
    parts += [
        tube((0.34, -0.27, 1.0), (0.34, 0.27, 1.0), dark, (0.02, 0.02), sides=6),
        tube(head, (0.34, 0, 1.0), frame, (0.022, 0.022), sides=6),
        box((-0.34, -0.07, 0.86), (-0.08, 0.07, 0.92), dark),
    ]
    return merge(parts)


def rider(rng: Dice) -> tuple[Limb, ...]:
    """A pedalling rider without the bicycle, which is an instance of its own."""
    skin, top, trousers = _skin(rng), _cloth(rng), _cloth(rng)
    lean = np.array([[0.86, 0, 0.5], [0, 1, 0], [-0.5, 0, 0.86]])
    trunk = merge([_torso(top, trousers), _head(rng, skin, True)])
    leant = (trunk.vertices - (0, 0, 0.9)) @ lean.T + (-0.22, 0, 0.98)
    limbs = [Limb(trunk.at(leant))]
    for side in (-1, 1):
        y = 0.1 * side
        shoulder, hand = (0.05, 0.2 * side, 1.40), (0.34, 0.24 * side, 1.03)
        arm = tube(shoulder, hand, top, (0.055, 0.035))
        leg = merge([
            tube((-0.2, y, 0.96), (0.16, y, 0.7), trousers, (0.09, 0.065)),
            tube((0.16, y, 0.70), (0.0, y, 0.28), trousers, (0.065, 0.05)),
            box((-0.05, y - 0.04, 0.2), (0.19, y + 0.04, 0.28), Surface("shoe", (0.1, 0.1, 0.1))),
        ])  # fmt: skip
        phase = 0.0 if side < 0 else np.pi
        limbs += [Limb(arm), Limb(leg, (-0.2, 0, 0.96), 0.22, phase, 1.2)]
    return tuple(limbs)
