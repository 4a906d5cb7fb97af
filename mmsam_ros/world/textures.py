# SPDX-License-Identifier: Apache-2.0
"""Procedural patterns on surfaces: what the camera sees of them, and where facades have windows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.world.meshes import MATERIAL_IDS, by_material
from mmsam_ros.world.raycast import Caster, Hits
from mmsam_ros.world.scenery import BAY, STOREY
from mmsam_ros.world.style import Floats, Mask, Rows, Style


@dataclass(frozen=True, eq=False)
class Facade:
    """All hits on walls."""

    at: Rows
    instance: NDArray[np.int32]
    window: Mask
    frame: Mask  # of a window
    door: Mask
    lit: Floats  # radiance of the light behind a window; 0: dark
    u: Floats  # metres along the wall
    v: Floats  # metres up the wall


def facade(caster: Caster, hits: Hits) -> Facade:
    """The pattern of windows and doors of all hits on walls."""
    hash01 = caster.world.style.hash01
    at = _rows(caster, hits, "facade")
    instance = caster.instance[hits.triangle[at]]
    local, normal = hits.point[at] - caster.origin[instance], hits.normal[at]
    cosine, sine = caster.turn[instance].T
    along = cosine * local[:, 0] + sine * local[:, 1]
    inward = cosine * local[:, 1] - sine * local[:, 0]
    front = np.abs(cosine * normal[:, 1] - sine * normal[:, 0]) > 0.7
    u, v = np.where(front, along, inward), local[:, 2]
    wall = np.abs(normal[:, 2]) < 0.5
    bay, storey = np.floor(u / BAY).astype(np.int32), np.floor(v / STOREY).astype(np.int32)
    fu, fv = u / BAY - bay, v / STOREY - storey
    shop = (hash01(instance, 1) < 0.4) & (storey == 0)
    door = (storey == 0) & (bay % 4 == (4 * hash01(instance, 4)).astype(np.int32)) & wall
    kinds = [door, shop]
    low = np.select(kinds, [0.03, 0.16], 0.26)
    half = np.select(kinds, [0.22, 0.44], 0.19 + 0.13 * hash01(instance, 2))
    high = np.select(kinds, [0.74, 0.80], 0.70 + 0.15 * hash01(instance, 3))
    across = np.abs(fu - 0.5)
    outer = wall & (across < half + 0.035) & (fv > low - 0.03) & (fv < high + 0.03)
    inner = wall & (across < half) & (fv > low) & (fv < high)
    bar = (across < 0.015) | (np.abs(fv - (low + 0.68 * (high - low))) < 0.012)
    window = inner & ~(bar & ~shop) & ~door
    chance = hash01(instance, bay, storey, front, 5)
    lit = np.where(window & (chance < np.where(shop, 0.7, 0.3)), 0.35 + 2.0 * chance, 0)
    door &= inner
    frame = outer & ~window & ~door
    return Facade(at, instance, window, frame, door, lit.astype(np.float32), u, v)


def look(caster: Caster, hits: Hits) -> tuple[Floats, Floats, Floats]:
    """Albedo (N, 3), share of mirror reflection (N,) and emitted radiance (N, 3) of all hits.

    Patterns fade with distance, where a pixel covers several of their cells.
    """
    world, style, wet = caster.world, caster.world.style, caster.world.conditions.wet
    material, albedo = caster.material[hits.triangle], caster.albedo[hits.triangle]
    gloss = by_material("gloss")[material]
    share = 1.0 if world.conditions.night else 0.15 * world.conditions.lamps
    glow = albedo * (share * by_material("glow"))[material][:, None]
    for name, pattern in _PATTERNS.items():
        at = _rows(caster, hits, name)
        x, y, z = hits.point[at].T
        if ground := name in _GROUND:
            x, y = world.path.street(x, y)
        albedo[at] *= pattern(style, x, y, z, _fade(hits, at))[:, None]
        if ground and wet:  # darker and glossy, most of all in puddles
            puddle = np.clip(style.noise(x, y, 47.0) - 0.3, 0, 1)
            albedo[at] *= (1 - wet * (0.3 + 0.3 * puddle))[:, None]
            gloss[at] = wet * (0.03 + 0.35 * puddle)
    _paint_facades(caster, hits, albedo, gloss, glow)
    return np.clip(albedo, 0.005, 0.95), gloss, glow


def _fade(hits: Hits, at: Rows) -> Floats:
    return np.minimum(np.float32(1), 14 / hits.distance[at])


def _rows(caster: Caster, hits: Hits, name: str) -> Rows:
    """The hits on one material."""
    return np.flatnonzero(caster.material[hits.triangle] == MATERIAL_IDS[name])


def _paint_facades(caster: Caster, hits: Hits, albedo: Floats, gloss: Floats, glow: Floats) -> None:
    style, cells = caster.world.style, facade(caster, hits)
    hash01, at, instance, u, v = style.hash01, cells.at, cells.instance, cells.u, cells.v
    fade = _fade(hits, at)
    row = np.floor(v / style["brick_y"]).astype(np.int32)
    shifted = u / style["brick_x"] + 0.5 * (row & 1)
    stone = np.floor(shifted).astype(np.int32)
    joint = (v / style["brick_y"] - row < 0.14) | (shifted - stone < 0.06)
    brick = 1 + fade * np.where(joint, style["mortar"], style["brick"] * (hash01(row, stone) - 0.5))
    plaster = 1 + style["plaster"] * fade * style.noise(u, v, 3.0)
    shade = np.where(hash01(instance, 6) < 0.5, brick, plaster)
    albedo[at] *= (shade * (1 + 0.06 * style.noise(u, v, 23.0)))[:, None].astype(np.float32)
    white = np.where(hash01(instance, 7) < 0.7, 0.62, 0.12)
    albedo[at[cells.frame]] = white[cells.frame, None]
    wood = np.stack([hash01(instance, key) for key in (8, 9, 10)], 1)
    albedo[at[cells.door]] = 0.03 + 0.3 * wood[cells.door] ** 2
    pane = at[cells.window]
    blind = hash01(instance, np.floor(u / BAY), np.floor(v / STOREY), 11)[cells.window]
    drawn = (v / STOREY % 1)[cells.window] > 0.95 - 0.5 * np.maximum(0, blind - 0.6)
    albedo[pane] = np.where(drawn, 0.4, 0.025)[:, None]
    gloss[pane] = 0.30
    if caster.world.conditions.night:
        warm = np.array([1.0, 0.72, 0.38], np.float32)
        glow[pane] = cells.lit[cells.window, None] * warm * np.where(drawn, 0.5, 0.8)[:, None]


def _asphalt(style: Style, s: Floats, n: Floats, z: Floats, fade: Floats) -> Floats:
    hash01, noise = style.hash01, style.noise
    grain = style["grain"] * fade * noise(s, n, 3.1) + style["stain"] * noise(s, n, 57.0)
    grit = hash01(np.floor(s * 60), np.floor(n * 60)) - 0.5
    grain += style["grit"] * np.minimum(1, 0.5 * fade) * grit
    track = np.minimum(np.abs(np.abs(n) - 1.0), np.abs(np.abs(n) - 2.5)) / 0.28
    crack = (np.abs(noise(s, n, 29.0)) < 0.012) & (noise(n, s, 61.0) > 0.4)
    patch = (hash01(np.floor(s / 5.3), np.floor(n / 1.9)) < style["patches"]) * np.float32(0.22)
    tone = 1 + grain - patch - style["track"] * np.exp(-track * track)
    return tone * (1 - style["crack"] * fade * crack)


def _marking(style: Style, s: Floats, n: Floats, z: Floats, fade: Floats) -> Floats:
    worn = style.noise(s, n, 6.0) + 0.6 * style.noise(s, n, 1.7)
    return 1 - 0.6 * fade * (worn > style["wear"]) - 0.06 * np.abs(worn)


def _paving(style: Style, s: Floats, n: Floats, z: Floats, fade: Floats) -> Floats:
    u, v = s / style["slab_x"], n / style["slab_y"]
    i, j = np.floor(u), np.floor(v)
    joint = (u - i < 0.04) | (v - j < 0.06)
    slab = style["slab"] * (style.hash01(i, j) - 0.5) * fade + 0.07 * style.noise(s, n, 13.0)
    return (1 + slab) * (1 - style["joint"] * fade * joint)


def _kerb(style: Style, s: Floats, n: Floats, z: Floats, fade: Floats) -> Floats:
    joint = np.where(s % 1.0 < 0.03, 1 - 0.4 * fade, np.float32(1))
    return (1 + 0.10 * style.noise(s, n, 7.0)) * joint


def _grass(style: Style, x: Floats, y: Floats, z: Floats, fade: Floats) -> Floats:
    blades = style["tuft"] * fade * style.noise(x, y, 2.3)
    return 1 + blades + style["meadow"] * style.noise(x, y, 31.0)


def _roof(style: Style, x: Floats, y: Floats, z: Floats, fade: Floats) -> Floats:
    row, tile = np.floor(z / 0.17), np.floor((x + y) / 0.25)
    edge = np.where(z / 0.17 - row < 0.25, 1 - 0.35 * fade, np.float32(1))
    return (1 + style["tile"] * (style.hash01(row, tile) - 0.5) * fade) * edge


# functions of (style, x, y, z, fade); those of the ground are in street coordinates s, n instead of
# x, y, so that they follow its curves
_GROUND = {"asphalt": _asphalt, "marking": _marking, "paving": _paving, "kerb": _kerb}
_PATTERNS = _GROUND | {
    "grass": _grass,
    "roof": _roof,
    "leaves": lambda style, x, y, z, fade: (
        1 + style["leaf"] * fade * style.noise(x + 0.6 * y, z, 3.1)
    ),
    "bark": lambda style, x, y, z, fade: 1 + 0.3 * fade * style.noise(x + y, z * 0.2, 0.9),
    "stone": lambda style, x, y, z, fade: 1 + 0.07 * style.noise(x + y, z, 4.0),
}
