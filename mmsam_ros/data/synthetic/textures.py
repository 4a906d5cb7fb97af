# SPDX-License-Identifier: Apache-2.0
"""Procedural patterns on surfaces: what the camera sees of them, and where facades have windows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.synthetic.materials import MATERIAL_IDS, column
from mmsam_ros.data.synthetic.raycast import Caster, Hits
from mmsam_ros.data.synthetic.scenery import BAY, STOREY

Floats = NDArray[np.float32]
Tones = NDArray[np.floating]
_TILE = 1024


@cache
def _tile() -> Floats:
    """Fractal noise that repeats without seams: 1/f spectrum, mean 0, deviation 1."""
    spectrum = np.fft.fft2(np.random.default_rng(7).standard_normal((_TILE, _TILE)))
    fx, fy = np.meshgrid(np.fft.fftfreq(_TILE), np.fft.fftfreq(_TILE))
    spectrum /= np.maximum(np.hypot(fx, fy), 2.0 / _TILE) ** 1.1
    noise = np.fft.ifft2(spectrum).real
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def noise(u: Floats, v: Floats, period: float) -> Floats:
    """Fractal noise over a plane, repeating every `period` metres."""
    scale = np.float32(_TILE / period)
    i, j = (u * scale).astype(np.int32), (v * scale).astype(np.int32)
    return _tile().ravel().take((i & (_TILE - 1)) * _TILE + (j & (_TILE - 1)))


def hash01(*keys: NDArray[np.integer] | int) -> Floats:
    """A number in [0, 1) that looks random but depends on the integers only."""
    mixed = np.zeros(1, np.uint32)
    for key in keys:
        mixed = (mixed ^ np.asarray(key).astype(np.int64).astype(np.uint32)) * np.uint32(0x9E3779B1)
        mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x85EBCA77)
        mixed = mixed ^ (mixed >> np.uint32(13))
    return (mixed >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)


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
    instance = caster.instance[hits.triangle[at]]
    local, normal = hits.point[at] - caster.origin[instance], hits.normal[at]
    along_x = np.abs(normal[:, 1]) > np.abs(normal[:, 0])
    u, v = np.where(along_x, local[:, 0], local[:, 1]), local[:, 2]
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
    chance = hash01(instance, bay, storey, along_x.astype(np.int32), 5)
    lit = np.where(window & (chance < np.where(shop, 0.7, 0.3)), 0.35 + 2.0 * chance, 0)
    return Facade(window, outer & ~window & ~(inner & door), inner & door,
                  lit.astype(np.float32), u, v)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Look:
    """Per hit: albedo (N, 3), share of mirror reflection (N,), radiance of its own (N, 3)."""

    albedo: Floats
    gloss: Floats
    glow: Floats


def look(caster: Caster, hits: Hits, *, night: bool) -> Look:
    """Colours of all hits, patterns fading where a pixel covers more than one of their parts."""
    material = caster.material[hits.triangle]
    albedo = caster.albedo[hits.triangle]
    gloss = column("gloss")[material]
    glow = albedo * column("glow")[material][:, None] if night else np.zeros_like(albedo)
    order = np.argsort(material, kind="stable")
    bounds = np.searchsorted(material[order], np.arange(len(MATERIAL_IDS) + 1))
    for name, pattern in _PATTERNS.items():
        k = MATERIAL_IDS[name]
        at = order[bounds[k] : bounds[k + 1]]
        if len(at):
            fade = np.minimum(1, 14 / hits.distance[at])
            albedo[at] *= pattern(hits.point[at], hits.normal[at], fade)[:, None]
    k = MATERIAL_IDS["facade"]
    at = order[bounds[k] : bounds[k + 1]]
    if len(at):
        _paint_facade(caster, hits, at, albedo, gloss, glow, night)
    return Look(np.clip(albedo, 0.005, 0.95), gloss, glow)


def _paint_facade(
    caster: Caster, hits: Hits, at: NDArray[np.intp], albedo: Floats, gloss: Floats, glow: Floats,
    night: bool,
) -> None:  # fmt: skip
    cells = facade(caster, hits, at)
    instance = caster.instance[hits.triangle[at]]
    fade = np.minimum(1, 14 / hits.distance[at])
    brick = hash01(instance, 6) < 0.5
    row = np.floor(cells.v / 0.16).astype(np.int32)
    shifted = cells.u / 0.42 + 0.5 * (row & 1)
    stone = np.floor(shifted).astype(np.int32)
    joint = (cells.v / 0.16 - row < 0.14) | (shifted - stone < 0.06)
    tone = 1 + fade * np.where(joint, 0.35, 0.30 * (hash01(row, stone) - 0.5))
    plaster = 1 + 0.05 * fade * noise(cells.u, cells.v, 3.0)
    shade = np.where(brick, tone, plaster) * (1 + 0.06 * noise(cells.u, cells.v, 23.0))
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
    if night:
        warm = np.array([1.0, 0.72, 0.38], np.float32)
        glow[pane] = cells.lit[cells.window][:, None] * warm * np.where(drawn, 0.5, 0.8)[:, None]


def _asphalt(p: Floats, n: Floats, fade: Floats) -> Tones:
    x, y = p[:, 0], p[:, 1]
    grain = 0.07 * fade * noise(x, y, 3.1) + 0.05 * noise(x, y, 57.0)
    grain += 0.14 * np.minimum(1, 0.5 * fade) * (hash01(np.floor(x * 60), np.floor(y * 60)) - 0.5)
    track = np.minimum(np.abs(np.abs(y) - 1.0), np.abs(np.abs(y) - 2.5)) / 0.28
    crack = (np.abs(noise(x, y, 29.0)) < 0.012) & (noise(y, x, 61.0) > 0.4)
    patch = (hash01(np.floor(x / 5.3), np.floor(y / 1.9)) < 0.05) * np.float32(0.22)
    tone = 1 + grain - patch - 0.10 * np.exp(-track * track)
    return tone * (1 - 0.45 * fade * crack)


def _marking(p: Floats, n: Floats, fade: Floats) -> Tones:
    worn = noise(p[:, 0], p[:, 1], 6.0) + 0.6 * noise(p[:, 0], p[:, 1], 1.7)
    return 1 - 0.45 * fade * (worn > 1.5) - 0.06 * np.abs(worn)


def _paving(p: Floats, n: Floats, fade: Floats) -> Tones:
    u, v = p[:, 0] / 0.6, p[:, 1] / 0.4
    i, j = np.floor(u), np.floor(v)
    joint = (u - i < 0.04) | (v - j < 0.06)
    slab = 0.22 * (hash01(i, j) - 0.5) * fade + 0.07 * noise(p[:, 0], p[:, 1], 13.0)
    return (1 + slab) * (1 - 0.4 * fade * joint)


def _kerb(p: Floats, n: Floats, fade: Floats) -> Tones:
    joint = p[:, 0] % 1.0 < 0.03
    return (1 + 0.10 * noise(p[:, 0], p[:, 1] + p[:, 2], 7.0)) * np.where(
        joint, 1 - 0.4 * fade, np.float32(1)
    )


def _grass(p: Floats, n: Floats, fade: Floats) -> Tones:
    blades = 0.28 * fade * noise(p[:, 0], p[:, 1], 2.3)
    return 1 + blades + 0.14 * noise(p[:, 0], p[:, 1], 31.0)


def _leaf(p: Floats, n: Floats, fade: Floats) -> Tones:
    return 1 + 0.22 * fade * noise(p[:, 0] + 0.6 * p[:, 1], p[:, 2], 3.1)


def _bark(p: Floats, n: Floats, fade: Floats) -> Tones:
    return 1 + 0.3 * fade * noise(p[:, 0] + p[:, 1], p[:, 2] * 0.2, 0.9)


def _roof(p: Floats, n: Floats, fade: Floats) -> Tones:
    row, tile = np.floor(p[:, 2] / 0.17), np.floor((p[:, 0] + p[:, 1]) / 0.25)
    edge = p[:, 2] / 0.17 - row < 0.25
    return (1 + 0.30 * (hash01(row, tile) - 0.5) * fade) * np.where(
        edge, 1 - 0.35 * fade, np.float32(1)
    )


def _stone(p: Floats, n: Floats, fade: Floats) -> Tones:
    return 1 + 0.07 * noise(p[:, 0] + p[:, 1], p[:, 2], 4.0)


_PATTERNS = {
    "asphalt": _asphalt, "marking": _marking, "paving": _paving, "kerb": _kerb, "grass": _grass,
    "leaves": _leaf, "bark": _bark, "roof": _roof, "stone": _stone,
}  # fmt: skip
