# SPDX-License-Identifier: Apache-2.0
"""Static things: buildings, trees, hedges, street lamps and traffic signs."""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from mmsam_ros.world.meshes import Mesh, box, ellipsoid, lathe, merge, mesh, polygon, tube
from mmsam_ros.world.scene import Light
from mmsam_ros.world.style import RGB, Dice, Floats, Range, Surface

BAY, STOREY = 2.4, 3.1  # width and height of a facade's cell, which has one window, metres

_SIGN_HUES = {"ban": (0.95, 1.02), "order": (0.56, 0.66), "warning": (0.96, 1.12)}
_BACK = (0.3, 0.3, 0.3)  # of a sign
# ranges of a wall's colour, see Dice.colour
_BARE, _PAINTED = ((0.22, 0.70), (0.02, 0.62), (0.0, 0.14)), ((0.10, 0.66), (0.0, 0.5))


def plants(rng: Dice) -> RGB:
    """Leaves and grass, from dark green to dry."""
    return rng.colour((0.08, 0.30), (0.35, 0.85), (0.08, 0.34))


def building(rng: Dice, bays: int, deep: int, storeys: int) -> Mesh:
    """A house with its front corner at the origin, along +x, away from the street along +y."""
    w, d, h = bays * BAY, deep * BAY, storeys * STOREY
    stone = Surface("stone", rng.colour((0.30, 0.58), (0.0, 0.2)))
    wall = Surface("facade", rng.colour(*(_BARE if rng.random() < 0.7 else _PAINTED)))
    parts = [box((0, 0, 0), (w, d, h), wall)]
    roof = Surface("roof", rng.colour((0.08, 0.30), (0.0, 0.8), (0.0, 0.12)))
    if storeys <= 4 and rng.random() < 0.65:
        peak, out = h + 0.36 * d, 0.35
        corners = [(-0.1, -out, h), (w + 0.1, -out, h), (w + 0.1, d + out, h), (-0.1, d + out, h),
                   (-0.1, d / 2, peak), (w + 0.1, d / 2, peak)]  # fmt: skip
        parts.append(mesh(corners, [[0, 1, 5], [0, 5, 4], [2, 3, 4], [2, 4, 5]], roof))
        ends = [(x, y, z) for x in (0, w) for y, z in ((0, h), (d, h), (d / 2, peak - 0.1))]
        parts.append(mesh(ends, [[0, 1, 2], [3, 4, 5]], Surface("stone", wall.rgb)))
        parts.append(box((w * 0.3, d * 0.55, h), (w * 0.3 + 0.7, d * 0.55 + 0.7, peak + 0.9), wall))
        low, high = (0, -out, h - 0.12), (w, -out + 0.14, h + 0.02)
        parts.append(box(low, high, Surface("steel", stone.rgb)))
    else:
        parts.append(box((-0.12, -0.12, h), (w + 0.12, d + 0.12, h + 0.5), stone))
        parts.append(box((w * 0.4, d * 0.4, h), (w * 0.4 + 2.4, d * 0.4 + 2.4, h + 2.2), stone))
    parts.append(box((0, -0.05, 0), (w, 0.0, 0.45), stone))
    if rng.random() < 0.5:
        parts.append(box((0, -0.09, STOREY - 0.2), (w, 0.0, STOREY), stone))
    if storeys > 2 and rng.random() < 0.5:
        parts += _balconies(rng, bays, storeys)
    if rng.random() < 0.4:
        cloth = Surface("canvas", rng.colour((0.08, 0.6), (0.0, 0.95)))
        canopy = [(0.4, 0, 2.9), (w - 0.4, 0, 2.9), (w - 0.4, -1.1, 2.5), (0.4, -1.1, 2.5),
                  (0.4, -1.1, 2.3), (w - 0.4, -1.1, 2.3)]  # fmt: skip
        parts.append(mesh(canopy, [[0, 1, 2], [0, 2, 3], [3, 2, 5], [3, 5, 4]], cloth))
    return merge(parts)


def _balconies(rng: Dice, bays: int, storeys: int) -> list[Mesh]:
    slab = Surface("stone", rng.colour((0.3, 0.55), (0.0, 0.15)))
    rail = Surface("steel", rng.colour((0.05, 0.5), (0.0, 0.4)))
    parts = []
    for bay in range(int(rng.integers(2)), bays, 2):
        for storey in range(1, storeys):
            x, z = bay * BAY + 0.2, storey * STOREY
            parts.append(box((x, -0.9, z - 0.14), (x + 2.0, 0, z), slab))
            parts.append(box((x, -0.9, z), (x + 2.0, -0.86, z + 0.9), rail))
            parts += [box((e, -0.9, z), (e + 0.04, 0, z + 0.9), rail) for e in (x, x + 1.96)]
    return parts


def _leaves(
    rng: Dice, centre: ArrayLike, radii: ArrayLike, count: int, size: float, rgb: Floats
) -> Mesh:
    """Loose triangles over an ellipsoid, with a darker ragged core that hides the far side."""
    out = rng.standard_normal((count, 3))
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    shell = np.asarray(centre) + out * np.asarray(radii) * rng.uniform(0.9, 1.08, (count, 1))
    edges = rng.standard_normal((count, 3, 3)) * size
    edges -= 0.6 * (edges * out[:, None]).sum(-1, keepdims=True) * out[:, None]
    corners = shell[:, None] + edges
    tint = rng.uniform(0.65, 1.35, (count, 1)), rng.uniform(0.9, 1.1, (count, 3))
    colour = (rgb * tint[0] * tint[1]).astype(np.float32)
    cards = mesh(corners, np.arange(3 * count), Surface("leaves", (0, 0, 0)))
    core = ellipsoid(centre, 0.93 * np.asarray(radii), Surface("leaves", tuple(0.5 * rgb)))
    return merge([replace(cards, albedo=colour), core])


def tree(rng: Dice) -> Mesh:
    """A street tree of 6 to 8 m, trunk at the origin."""
    bark = Surface("bark", rng.colour((0.08, 0.26), (0.1, 0.5), (0.03, 0.12)))
    green = np.array(plants(rng))
    stem, spread = rng.uniform(2.3, 3.1), rng.uniform(1.5, 2.1)
    lean = rng.uniform(-0.15, 0.15, 2)
    parts = [tube((0, 0, 0), (*lean, stem + 0.8), bark, (0.17, 0.10))]
    count = int(rng.integers(7, 11))
    for i in range(count):
        angle = 2 * np.pi * (i + rng.uniform(-0.3, 0.3)) / (count - 1)
        top = i == count - 1
        reach = 0.0 if top else spread * rng.uniform(0.45, 0.75)
        height = stem + (2.9 if top else rng.uniform(0.7, 2.2))
        centre = (lean[0] + reach * np.cos(angle), lean[1] + reach * np.sin(angle), height)
        radii = spread * rng.uniform(0.45, 0.65, 3)
        parts.append(_leaves(rng, centre, radii, 190, 0.16, green * rng.uniform(0.85, 1.15)))
        if not top:
            parts.append(tube((*lean, stem), centre, bark, (0.06, 0.02), sides=6))
    return merge(parts)


def hedge(rng: Dice, length: float, height: float) -> Mesh:
    """A clipped hedge along +x."""
    green = np.array(plants(rng))
    steps = np.arange(0.4, length - 0.3, 0.6)
    radii = (0.55, 0.4, 0.56 * height)
    return merge([_leaves(rng, (x, 0, height / 2), radii, 70, 0.09, green) for x in steps])


def street_lamp(rng: Dice) -> tuple[Mesh, Light]:
    """A lamp post at the origin with its arm along +y, and its light."""
    steel = Surface("steel", rng.colour((0.06, 0.5), (0.0, 0.4)))
    foot, top = rng.uniform(0.11, 0.17), rng.uniform(0.06, 0.1)
    post = [(0, 0, foot, foot), (0, 0.9, foot, foot), (0, 1.0, top, top), (0, 6.0, top, top)]
    parts = [
        lathe(post, steel),
        tube((0, 0, 5.95), (0, 1.5, 6.3), steel, (0.04, 0.04)),
        box((-0.13, 1.05, 6.24), (0.13, 1.75, 6.36), steel),
        box((-0.10, 1.10, 6.20), (0.10, 1.70, 6.24), Surface("street_lamp", (1.0, 0.78, 0.45))),
    ]
    return merge(parts), Light((0.0, 1.5, 6.2), (0.0, 0.15, -1.0), 26.0, 1.3)


def bollard(rng: Dice) -> Mesh:
    """A low post."""
    steel = Surface("steel", rng.colour((0.05, 0.5), (0.0, 0.6)))
    band = Surface("plate", rng.colour((0.5, 0.75), (0.0, 0.9)))
    post = lathe([(0, 0, 0.08, 0.08), (0, 0.92, 0.08, 0.08), (0, 0.97, 0.04, 0.04)], steel)
    return merge([post, lathe([(0, 0.74, 0.084, 0.084), (0, 0.82, 0.084, 0.084)], band)])


def _plate(outline: ArrayLike, x: float, rgb: RGB) -> Mesh:
    """A flat outline (y, z) facing -x at the given x; the back of a sign is bare metal."""
    surface = Surface("steel" if rgb == _BACK else "plate", rgb)
    return polygon(np.insert(np.asarray(outline), 0, x, axis=1), surface)


def _panel(y: Range, z: Range, x: float, rgb: RGB) -> Mesh:
    """A rectangle facing -x."""
    return _plate([(y[0], z[0]), (y[1], z[0]), (y[1], z[1]), (y[0], z[1])], x, rgb)


def sign(rng: Dice) -> tuple[Mesh, Mesh]:
    """A traffic sign facing -x: its post and its plate, which are of different classes."""
    kind = ("ban", "order", "warning")[rng.integers(3)]
    sides = 3 if kind == "warning" else 24
    turn = np.linspace(0, 2 * np.pi, sides, endpoint=False)[:, None] + np.pi / 2
    unit = np.concatenate([np.cos(turn), np.sin(turn)], 1)
    z, size = rng.uniform(2.1, 2.6), rng.uniform(0.42, 0.6)
    rim = rng.colour((0.35, 0.65), (0.85, 1.0), _SIGN_HUES[kind])
    white = rng.colour((0.6, 0.8), (0.0, 0.15))
    front, mark = (rim, white) if kind == "order" else (white, (0.02, 0.02, 0.02))
    wide, high = (0.25, 0.05) if kind == "ban" else (0.05, 0.25)
    parts = [
        _plate(unit * size + (0, z), -0.08, rim),
        _plate(unit * (size * 0.72) + (0, z), -0.086, front),
        _panel((-wide, wide), (z - high, z + high), -0.095, mark),
        _plate(unit * size + (0, z), -0.07, _BACK),
    ]
    return _post(rng, z + 0.3), merge(parts)


def guide(rng: Dice) -> tuple[Mesh, Mesh]:
    """A large sign with place names, facing -x: its post and its plate."""
    wide, high, z = rng.uniform(0.7, 1.1), rng.uniform(0.35, 0.6), rng.uniform(2.4, 2.8)
    ground = rng.colour((0.25, 0.7), (0.3, 1.0), (0.1, 0.66))
    white = rng.colour((0.6, 0.8), (0.0, 0.15))
    whole, inside = (-wide, wide), (0.04 - wide, wide - 0.04)
    parts = [
        _panel(whole, (z - high, z + high), -0.08, white),
        _panel(inside, (0.04 - high + z, high - 0.04 + z), -0.086, ground),
    ]
    for up in (-0.5 * high, 0.1 * high, 0.5 * high):
        ends = (-wide * rng.uniform(0.5, 0.85), wide * rng.uniform(0.1, 0.8))
        parts.append(_panel(ends, (up + z, up + 0.09 + z), -0.092, white))
    parts.append(_panel(whole, (z - high, z + high), -0.07, _BACK))
    return _post(rng, z + 0.2), merge(parts)


def _post(rng: Dice, height: float) -> Mesh:
    steel = Surface("steel", rng.colour((0.15, 0.5), (0.0, 0.2)))
    radius = rng.uniform(0.045, 0.07)
    return tube((0, 0, 0), (0, 0, height), steel, (radius, radius))
