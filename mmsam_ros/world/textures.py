# SPDX-License-Identifier: Apache-2.0
"""Procedural patterns on surfaces: what the camera sees of them, and where facades have windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.world.materials import MATERIAL_IDS, column
from mmsam_ros.world.raycast import Caster, Hits
from mmsam_ros.world.scenery import BAY, STOREY
from mmsam_ros.world.style import Floats, Style

Tones = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Facade:
    """Per point of a wall: is it a window, its frame, a door; how brightly lit within (0: dark)."""

    window: NDArray[np.bool_]
    frame: NDArray[np.bool_]
    door: NDArray[np.bool_]
    lit: Floats
    u: Floats
    v: Floats


def facade(caster: Caster, hits: Hits, at: NDArray[np.intp]) -> Facade:
    """The pattern of windows and doors for the hits `at`, which lie on walls."""
    hash01 = caster.world.style.hash01
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
    half = np.where(shop, 0.44, 0.19 + 0.13 * hash01(instance, 2))
    low = np.where(shop, 0.16, 0.26)
    high = np.where(shop, 0.80, 0.70 + 0.15 * hash01(instance, 3))
    across = np.abs(fu - 0.5)
    door = (storey == 0) & (bay % 4 == (4 * hash01(instance, 4)).astype(np.int32)) & wall
    low, half = np.where(door, 0.03, low), np.where(door, 0.22, half)
    high = np.where(door, 0.74, high)
    outer = wall & (across < half + 0.035) & (fv > low - 0.03) & (fv < high + 0.03)
    inner = wall & (across < half) & (fv > low) & (fv < high)
    bar = (across < 0.015) | (np.abs(fv - (low + 0.68 * (high - low))) < 0.012)
    window = inner & ~(bar & ~shop) & ~door
    chance = hash01(instance, bay, storey, front, 5)
    lit = np.where(window & (chance < np.where(shop, 0.7, 0.3)), 0.35 + 2.0 * chance, 0)
    return Facade(window, outer & ~window & ~(inner & door), inner & door,
                  lit.astype(np.float32), u, v)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Look:
    """Per hit: albedo (N, 3), share of mirror reflection (N,), radiance of its own (N, 3)."""

    albedo: Floats
    gloss: Floats
    glow: Floats


def look(caster: Caster, hits: Hits) -> Look:
    """Colours of all hits, patterns fading where a pixel covers more than one of their parts."""
    world = caster.world
    material = caster.material[hits.triangle]
    albedo = caster.albedo[hits.triangle]
    gloss = column("gloss")[material]
    share = 1.0 if world.night else 0.15 * world.conditions.lamps
    glow = albedo * (share * column("glow"))[material][:, None]
    order = np.argsort(material, kind="stable")
    bounds = np.searchsorted(material[order], np.arange(len(MATERIAL_IDS) + 1))

    def of(name: str) -> NDArray[np.intp]:
        k = MATERIAL_IDS[name]
        return order[bounds[k] : bounds[k + 1]]

    for name, ground in _GROUND.items():
        if len(at := of(name)):
            s, n = world.path.street(hits.point[at, 0], hits.point[at, 1])
            albedo[at] *= ground(world.style, s, n, _fade(hits, at))[:, None]
            _wet(world.style, s, n, world.conditions.wet, at, albedo, gloss)
    for name, pattern in _PATTERNS.items():
        if len(at := of(name)):
            albedo[at] *= pattern(world.style, hits.point[at], _fade(hits, at))[:, None]
    if len(at := of("facade")):
        _paint_facade(caster, hits, at, albedo, gloss, glow)
    return Look(np.clip(albedo, 0.005, 0.95), gloss, glow)


def _fade(hits: Hits, at: NDArray[np.intp]) -> Floats:
    return np.minimum(np.float32(1), 14 / hits.distance[at])


def _wet(
    style: Style, s: Floats, n: Floats, wet: float, at: NDArray[np.intp], albedo: Floats,
    gloss: Floats,
) -> None:  # fmt: skip
    """Wet ground is darker and mirrors, most where puddles stand."""
    if not wet:
        return
    puddle = np.clip(style.noise(s, n, 47.0) - 0.3, 0, 1)
    albedo[at] *= (1 - wet * (0.3 + 0.3 * puddle))[:, None]
    gloss[at] = wet * (0.03 + 0.35 * puddle)


def _paint_facade(
    caster: Caster, hits: Hits, at: NDArray[np.intp], albedo: Floats, gloss: Floats, glow: Floats
) -> None:
    style = caster.world.style
    hash01 = style.hash01
    cells = facade(caster, hits, at)
    instance = caster.instance[hits.triangle[at]]
    fade = _fade(hits, at)
    brick = hash01(instance, 6) < 0.5
    row = np.floor(cells.v / style["brick_y"]).astype(np.int32)
    shifted = cells.u / style["brick_x"] + 0.5 * (row & 1)
    stone = np.floor(shifted).astype(np.int32)
    joint = (cells.v / style["brick_y"] - row < 0.14) | (shifted - stone < 0.06)
    tone = 1 + fade * np.where(joint, style["mortar"], style["brick"] * (hash01(row, stone) - 0.5))
    plaster = 1 + style["plaster"] * fade * style.noise(cells.u, cells.v, 3.0)
    shade = np.where(brick, tone, plaster) * (1 + 0.06 * style.noise(cells.u, cells.v, 23.0))
    albedo[at] *= shade[:, None].astype(np.float32)
    white = np.where(hash01(instance, 7) < 0.7, 0.62, 0.12)[cells.frame]
    albedo[at[cells.frame]] = white[:, None]
    wood = np.stack([hash01(instance, 8), hash01(instance, 9), hash01(instance, 10)], 1)
    albedo[at[cells.door]] = 0.03 + 0.3 * wood[cells.door] ** 2
    pane = at[cells.window]
    blind = hash01(instance, np.floor(cells.u / BAY), np.floor(cells.v / STOREY), 11)[cells.window]
    drawn = (cells.v / STOREY % 1)[cells.window] > 0.95 - 0.5 * np.maximum(0, blind - 0.6)
    albedo[pane] = np.where(drawn, 0.4, 0.025)[:, None]
    gloss[pane] = 0.30
    if caster.world.night:
        warm = np.array([1.0, 0.72, 0.38], np.float32)
        glow[pane] = cells.lit[cells.window][:, None] * warm * np.where(drawn, 0.5, 0.8)[:, None]


# the ground is patterned in street coordinates s, n, so that slabs and tracks follow its curves


def _asphalt(style: Style, s: Floats, n: Floats, fade: Floats) -> Tones:
    hash01, noise = style.hash01, style.noise
    grain = style["grain"] * fade * noise(s, n, 3.1) + style["stain"] * noise(s, n, 57.0)
    grit = hash01(np.floor(s * 60), np.floor(n * 60)) - 0.5
    grain += style["grit"] * np.minimum(1, 0.5 * fade) * grit
    track = np.minimum(np.abs(np.abs(n) - 1.0), np.abs(np.abs(n) - 2.5)) / 0.28
    crack = (np.abs(noise(s, n, 29.0)) < 0.012) & (noise(n, s, 61.0) > 0.4)
    patch = (hash01(np.floor(s / 5.3), np.floor(n / 1.9)) < style["patches"]) * np.float32(0.22)
    tone = 1 + grain - patch - style["track"] * np.exp(-track * track)
    return tone * (1 - style["crack"] * fade * crack)


def _marking(style: Style, s: Floats, n: Floats, fade: Floats) -> Tones:
    worn = style.noise(s, n, 6.0) + 0.6 * style.noise(s, n, 1.7)
    return 1 - 0.6 * fade * (worn > style["wear"]) - 0.06 * np.abs(worn)


def _paving(style: Style, s: Floats, n: Floats, fade: Floats) -> Tones:
    u, v = s / style["slab_x"], n / style["slab_y"]
    i, j = np.floor(u), np.floor(v)
    joint = (u - i < 0.04) | (v - j < 0.06)
    slab = style["slab"] * (style.hash01(i, j) - 0.5) * fade + 0.07 * style.noise(s, n, 13.0)
    return (1 + slab) * (1 - style["joint"] * fade * joint)


def _kerb(style: Style, s: Floats, n: Floats, fade: Floats) -> Tones:
    joint = np.where(s % 1.0 < 0.03, 1 - 0.4 * fade, np.float32(1))
    return (1 + 0.10 * style.noise(s, n, 7.0)) * joint


def _grass(style: Style, p: Floats, fade: Floats) -> Tones:
    blades = style["tuft"] * fade * style.noise(p[:, 0], p[:, 1], 2.3)
    return 1 + blades + style["meadow"] * style.noise(p[:, 0], p[:, 1], 31.0)


def _leaf(style: Style, p: Floats, fade: Floats) -> Tones:
    return 1 + style["leaf"] * fade * style.noise(p[:, 0] + 0.6 * p[:, 1], p[:, 2], 3.1)


def _bark(style: Style, p: Floats, fade: Floats) -> Tones:
    return 1 + 0.3 * fade * style.noise(p[:, 0] + p[:, 1], p[:, 2] * 0.2, 0.9)


def _roof(style: Style, p: Floats, fade: Floats) -> Tones:
    row, tile = np.floor(p[:, 2] / 0.17), np.floor((p[:, 0] + p[:, 1]) / 0.25)
    edge = np.where(p[:, 2] / 0.17 - row < 0.25, 1 - 0.35 * fade, np.float32(1))
    return (1 + style["tile"] * (style.hash01(row, tile) - 0.5) * fade) * edge


def _stone(style: Style, p: Floats, fade: Floats) -> Tones:
    return 1 + 0.07 * style.noise(p[:, 0] + p[:, 1], p[:, 2], 4.0)


_GROUND = {"asphalt": _asphalt, "marking": _marking, "paving": _paving, "kerb": _kerb}
_PATTERNS = {"grass": _grass, "leaves": _leaf, "bark": _bark, "roof": _roof, "stone": _stone}
