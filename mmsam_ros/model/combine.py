# SPDX-License-Identifier: Apache-2.0
"""Combination of the fused maps of several auxiliaries (not in the paper, see docs/network.md)."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros.model.common import arithmetic, at_least_float32
from mmsam_ros.model.config import NUM_LEVELS
from mmsam_ros.model.fusion import Rows


class Part(NamedTuple):
    """One auxiliary's fused map (n, D, h, w), of the n samples `rows` that have it."""

    rows: Rows
    fused: Tensor


class Combination(nn.Module):
    """One level: a softmax over the present auxiliaries, by pixel.

    A sample with one auxiliary gets exactly that one's map. A sample with none has a path of its
    own, initialised to RGB's features beside zeros; without `alone` there is no such sample. All
    auxiliaries start with equal weights.
    """

    def __init__(
        self, dim: int, out_dim: int, auxiliaries: tuple[str, ...], alone: bool = True
    ) -> None:
        super().__init__()
        self.alone = nn.Conv2d(dim, out_dim, 1) if alone else None
        if self.alone is not None:
            nn.init.dirac_(self.alone.weight)
            nn.init.zeros_(self.alone.bias)  # type: ignore[arg-type]
        scored = auxiliaries if len(auxiliaries) > 1 else ()
        self.scores = nn.ModuleDict({name: nn.Conv2d(out_dim, 1, 1) for name in scored})
        for parameter in self.scores.parameters():
            nn.init.zeros_(parameter)

    def forward(self, rgb: Tensor, parts: Mapping[str, Part], alone: Tensor | None) -> Tensor:
        """RGB (B, d, h, w) and fused maps by auxiliary -> (B, D, h, w).

        `alone` (n,) are the samples that no auxiliary is present in. None: every sample has all of
        `parts`, and none has any other.
        """
        if alone is None:
            return self._whole(rgb, parts)
        if self.alone is not None:
            own = self.alone(rgb[alone])
            combined = own.new_zeros(rgb.shape[0], *own.shape[1:]).index_add(0, alone, own)
        else:
            some = next(iter(parts.values())).fused
            combined = some.new_zeros(rgb.shape[0], *some.shape[1:])
        for part, weight in zip(parts.values(), self._weights(rgb, parts, alone), strict=True):
            combined[part.rows] += (weight * part.fused).to(combined.dtype)
        return combined

    def _whole(self, rgb: Tensor, parts: Mapping[str, Part]) -> Tensor:
        """The undivided batch, without an index, which not every engine supports."""
        if not parts:
            assert self.alone is not None
            own: Tensor = self.alone(rgb)
            return own
        if len(parts) == 1:
            (only,) = parts.values()
            return only.fused
        scores = [at_least_float32(self.scores[name](p.fused)) for name, p in parts.items()]
        weights = torch.stack(scores).softmax(dim=0).unbind()
        dtype = arithmetic(rgb)
        weighted = [(w * p.fused).to(dtype) for w, p in zip(weights, parts.values(), strict=True)]
        return sum(weighted[1:], start=weighted[0])

    def _weights(self, rgb: Tensor, parts: Mapping[str, Part], alone: Tensor) -> list[Tensor]:
        """Weights (n, 1, h, w) of the parts' samples, at least float32."""
        dtype = torch.promote_types(rgb.dtype, torch.float32)
        if len(parts) == 1:
            return [rgb.new_ones((), dtype=dtype)]
        shape = (len(parts), rgb.shape[0], 1, *rgb.shape[-2:])
        scores = rgb.new_full(shape, -torch.inf, dtype=dtype)
        scores[:, alone] = 0  # finite; these weights are not used
        for i, (name, part) in enumerate(parts.items()):
            scores[i, part.rows] = at_least_float32(self.scores[name](part.fused))
        weights = scores.softmax(dim=0)
        return [w[part.rows] for w, part in zip(weights, parts.values(), strict=True)]


class ReliabilityGate(nn.Module):
    """One level: how far RGB can be relied on, (B, 1, h, w) in (0, 2); starts as 1.

    Reads RGB's features and the image's own statistics, which normalised features have lost.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = 16
        self.features = nn.Conv2d(dim, hidden, 1)
        self.statistics = nn.Conv2d(6, hidden, 1)
        self.out = nn.Conv2d(hidden, 1, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor, statistics: Tensor) -> Tensor:
        """Features (B, d, h, w) and `image_statistics` (B, 6, h, w) of the level."""
        seen = self.features(features) + self.statistics(statistics)
        return 2 * at_least_float32(self.out(F.gelu(seen))).sigmoid()


def image_statistics(rgb: Tensor) -> list[Tensor]:
    """Statistics (B, 6, h/2^(i+2), w/2^(i+2)) of the normalised image (B, 3, h, w), by level.

    Mean, deviation, minimum and maximum of the luminance in each cell, and the mean and deviation
    over the whole image.
    """
    found = []
    with torch.autocast(rgb.device.type, enabled=False):
        luminance = at_least_float32(rgb).mean(dim=1, keepdim=True)
        whole = torch.cat([luminance.mean((2, 3), True), luminance.std((2, 3), keepdim=True)], 1)
        averages = torch.cat([luminance, luminance.square()], dim=1)
        extremes = torch.cat([-luminance, luminance], dim=1)
        for level in range(NUM_LEVELS):
            cell = 2 if level else 4
            averages, extremes = F.avg_pool2d(averages, cell), F.max_pool2d(extremes, cell)
            mean, square = averages.chunk(2, dim=1)
            negated_low, high = extremes.chunk(2, dim=1)
            deviation = (square - mean.square()).clamp(min=1e-8).sqrt()
            everywhere = whole.expand(-1, -1, *mean.shape[-2:])
            found.append(torch.cat([mean, deviation, -negated_low, high, everywhere], dim=1))
    return found
