# SPDX-License-Identifier: Apache-2.0
"""Fused maps of several auxiliaries to one, by those that are present; ours, see docs/network.md.

Shapes: B batch, d channels of one stream, D of a fused map (2 d, or d by addition), (h, w) a
level's map. `rows` are the present samples' places in the batch; None: all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros.model.precision import at_least_float32

Rows = Tensor | None
_HIDDEN = 16


class Part(NamedTuple):
    """One auxiliary's fused map (n, D, h, w), of the n samples `rows` that have it."""

    rows: Rows
    fused: Tensor


def take(x: Tensor, rows: Rows) -> Tensor:
    """The samples `rows` of a batch (B, …)."""
    return x if rows is None else x[rows]


def _add(x: Tensor, rows: Rows, part: Tensor) -> Tensor:
    return x + part if rows is None else x.index_add(0, rows, part)


class Combination(nn.Module):
    """One level: a softmax over the present auxiliaries, by pixel.

    A sample with one auxiliary has exactly that one's map; a sample with none has a path of its
    own, which begins as RGB's features beside zeros. All auxiliaries begin with equal weights.
    """

    def __init__(self, dim: int, out_dim: int, auxiliaries: tuple[str, ...]) -> None:
        super().__init__()
        self.alone = nn.Conv2d(dim, out_dim, 1)
        nn.init.dirac_(self.alone.weight)
        nn.init.zeros_(self.alone.bias)  # type: ignore[arg-type]
        self.scores = nn.ModuleDict()
        if len(auxiliaries) > 1:
            self.scores.update({name: nn.Conv2d(out_dim, 1, 1) for name in auxiliaries})
        for score in self.scores.values():
            assert isinstance(score, nn.Conv2d)
            _zero(score)

    def forward(self, rgb: Tensor, parts: Mapping[str, Part], alone: Tensor) -> Tensor:
        """RGB (B, d, h, w) and fused maps by auxiliary -> (B, D, h, w).

        `alone` (n,) are the samples that no auxiliary is present in.
        """
        if len(parts) == 1 and not torch.is_grad_enabled():
            (only,) = parts.values()
            if only.rows is None:
                return only.fused
        own = self.alone(rgb[alone])
        combined = own.new_zeros(rgb.shape[0], *own.shape[1:]).index_add(0, alone, own)
        for part, weight in zip(parts.values(), self._weights(parts, alone, rgb), strict=True):
            combined = _add(combined, part.rows, (weight * part.fused).to(combined.dtype))
        return combined

    def _weights(self, parts: Mapping[str, Part], alone: Tensor, rgb: Tensor) -> list[Tensor]:
        """Weights (n, 1, h, w) of the parts' samples, at least float32."""
        dtype = torch.promote_types(rgb.dtype, torch.float32)
        if len(parts) == 1:
            return [rgb.new_ones((), dtype=dtype)]
        shape = (len(parts), rgb.shape[0], 1, *rgb.shape[-2:])
        scores = rgb.new_full(shape, -torch.inf, dtype=dtype)
        scores[:, alone] = 0  # finite, and read by nobody
        for i, (name, part) in enumerate(parts.items()):
            everyone = slice(None) if part.rows is None else part.rows
            scores[i, everyone] = at_least_float32(self.scores[name](part.fused))
        weights = scores.softmax(dim=0)
        return [take(w, part.rows) for w, part in zip(weights, parts.values(), strict=True)]


class ReliabilityGate(nn.Module):
    """One level: how far RGB can be relied on, (B, 1, h, w) in (0, 2); begins as 1.

    Sees RGB's features and the picture's own statistics, which normalised features have lost.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(dim, _HIDDEN, 1)
        self.statistics = nn.Conv2d(NUM_STATISTICS, _HIDDEN, 1)
        self.out = nn.Conv2d(_HIDDEN, 1, 1)
        _zero(self.out)

    def forward(self, features: Tensor, statistics: Tensor) -> Tensor:
        """Features (B, d, h, w) and `image_statistics` (B, 6, h, w) of the same level."""
        seen = self.features(features) + self.statistics(statistics)
        return 2 * at_least_float32(self.out(F.gelu(seen))).sigmoid()


NUM_STATISTICS = 6


def image_statistics(rgb: Tensor, levels: int) -> list[Tensor]:
    """Statistics (B, 6, h/2^(i+2), w/2^(i+2)) of the normalised image (B, 3, h, w), by level.

    Mean, deviation, minimum and maximum of the luminance in each cell, and the mean and deviation
    over the whole image.
    """
    with torch.autocast(rgb.device.type, enabled=False):
        luminance = at_least_float32(rgb).mean(dim=1, keepdim=True)
        whole = torch.cat([luminance.mean((2, 3), True), luminance.std((2, 3), keepdim=True)], 1)
        mean, square = (F.avg_pool2d(x, 4) for x in (luminance, luminance.square()))
        low, high = -F.max_pool2d(-luminance, 4), F.max_pool2d(luminance, 4)
        found = []
        for level in range(levels):
            if level:
                mean, square = F.avg_pool2d(mean, 2), F.avg_pool2d(square, 2)
                low, high = -F.max_pool2d(-low, 2), F.max_pool2d(high, 2)
            deviation = (square - mean.square()).clamp(min=1e-8).sqrt()
            local = torch.cat([mean, deviation, low, high], dim=1)
            found.append(torch.cat([local, whole.expand(-1, -1, *mean.shape[-2:])], dim=1))
    return found


def _zero(conv: nn.Conv2d) -> None:
    nn.init.zeros_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
