# SPDX-License-Identifier: Apache-2.0
"""Random draws by split: train, val and test share no seeds, and no drawn textures or colours.

A seed belongs to one split (`SEEDS`). Parameters of textures and colours have a range of `CELLS`
cells. Each split draws from its own cells, which are interleaved: same ranges, no common value.
Tyres, glass, shoes and window frames are constants, the same in all splits.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util import check_word
from mmsam_ros.data.errors import DataError

Floats = NDArray[np.floating]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]
Range = tuple[float, float]
RGB = tuple[float, float, float]

CELLS = 25
_OWN = {"train": (0, 1, 2), "val": (3,), "test": (4,)}  # of every five cells
SEEDS = {split: range(i * 10**6, (i + 1) * 10**6) for i, split in enumerate(_OWN)}
_TILE = 1024


class Surface(NamedTuple):
    """What a shape is made of: name of a material and linear RGB albedo in 0..1."""

    material: str
    rgb: RGB


def world_seed(split: str, seed: int) -> int:
    """Seed of a split's world number `seed`; DataError for an unknown split or too large a seed."""
    check_word("split", split, SEEDS, DataError)
    if not 0 <= seed < len(SEEDS[split]):
        raise DataError(f"seed is {seed}, expected 0 to {len(SEEDS[split]) - 1}")
    return SEEDS[split][seed]


def split_of(seed: int) -> str:
    """The split that a world's seed belongs to."""
    for split, seeds in SEEDS.items():
        if seed in seeds:
            return split
    raise DataError(f"seed is {seed}, expected one below {SEEDS['test'].stop}")


class Dice(np.random.Generator):
    """A generator for one purpose; `shares`, `tone`, `colour` draw by split, the rest freely."""

    def __init__(self, seed: int, *key: int) -> None:
        super().__init__(np.random.PCG64(np.random.SeedSequence([seed, *key])))
        own = _OWN[split_of(seed)]
        self._cells = np.array([cell for cell in range(CELLS) if cell % 5 in own])

    def shares(self, *shape: int) -> Floats:
        """Numbers uniform over this split's cells of [0, 1)."""
        cells = self._cells[self.integers(len(self._cells), size=shape)]
        return (cells + self.random(shape)) / CELLS

    def tone(self, low: float, high: float) -> float:
        """A value of a texture or a colour: uniform over this split's cells of [low, high)."""
        return float(low + (high - low) * self.shares())

    def colour(self, value: Range, saturation: Range = (0.0, 0.6), hue: Range = (0.0, 1.0)) -> RGB:
        """A linear RGB albedo; `value` is its largest channel, hues are 0..1, red first."""
        v, s, h = self.tone(*value), self.tone(*saturation), 6 * self.tone(*hue)
        share = (min(max(abs((h + turn) % 6 - 3) - 1, 0), 1) for turn in (0, 4, 2))
        red, green, blue = (v * (1 - s * (1 - k)) for k in share)
        return red, green, blue


# parameters of the patterns and their ranges
TEXTURES: dict[str, Range] = {
    "grain": (0.04, 0.12), "stain": (0.02, 0.10), "grit": (0.06, 0.22), "track": (0.0, 0.18),
    "crack": (0.15, 0.6), "patches": (0.0, 0.12), "wear": (0.8, 2.2), "slab_x": (0.3, 1.1),
    "slab_y": (0.25, 0.7), "slab": (0.05, 0.35), "joint": (0.15, 0.55), "tuft": (0.15, 0.4),
    "meadow": (0.08, 0.25), "leaf": (0.12, 0.32), "brick_x": (0.24, 0.6), "brick_y": (0.09, 0.22),
    "mortar": (0.2, 0.45), "brick": (0.15, 0.45), "plaster": (0.02, 0.1), "tile": (0.15, 0.45),
}  # fmt: skip


class Style(dict[str, float]):
    """A scene's textures: the values of `TEXTURES` by name, and noise."""

    def __init__(self, seed: int) -> None:
        rng = Dice(seed, 20)
        super().__init__({name: rng.tone(*limits) for name, limits in TEXTURES.items()})
        self._shift = rng.uniform(0, 500, 2).astype(np.float32)
        self._salt, self._split = int(rng.integers(1 << 30)), split_of(seed)

    def noise(self, u: Floats, v: Floats, period: float) -> Floats:
        """Fractal noise over a plane (mean 0, deviation 1), repeating every `period` metres."""
        scale = np.float32(_TILE / period)
        i = ((u + self._shift[0]) * scale).astype(np.int32) & (_TILE - 1)
        j = ((v + self._shift[1]) * scale).astype(np.int32) & (_TILE - 1)
        return _tile(self._split).take(i * _TILE + j)

    def hash01(self, *keys: NDArray[np.generic] | int) -> Floats:
        """A pseudo-random number in [0, 1) that depends on the scene and the integers only."""
        mixed = np.array([self._salt], np.uint32)
        for key in keys:
            bits = np.asarray(key).astype(np.int32).view(np.uint32)
            mixed = (mixed ^ bits) * np.uint32(0x9E3779B1)
            mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x85EBCA77)
            mixed = mixed ^ (mixed >> np.uint32(13))
        return (mixed >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)


@cache
def _tile(split: str) -> Floats:
    """A split's noise, periodic without seams: 1/f spectrum, mean 0, deviation 1."""
    rng = np.random.default_rng([7, SEEDS[split].start])
    spectrum = np.fft.fft2(rng.standard_normal((_TILE, _TILE)))
    rate = np.fft.fftfreq(_TILE)
    spectrum /= np.maximum(np.hypot(rate, rate[:, None]), 2.0 / _TILE) ** 1.1
    noise = np.fft.ifft2(spectrum).real
    return ((noise - noise.mean()) / noise.std()).astype(np.float32).ravel()
