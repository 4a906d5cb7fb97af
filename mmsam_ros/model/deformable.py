# SPDX-License-Identifier: Apache-2.0
"""Multi-scale deformable attention (arXiv 2010.04159) in pure PyTorch.

Q queries, S value tokens of all levels, M heads, L levels, P points, E channels of a head.
Locations are (x, y) in [0, 1] over a level's map; u is pixel u * W - 0.5.
"""

import math
from itertools import accumulate, product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros.model.common import at_least_float32
from mmsam_ros.model.config import InteractionConfig

Shapes = list[tuple[int, int]]


def token_maps(tokens_BSC: Tensor, shapes: Shapes) -> list[Tensor]:
    """Tokens of several grids (h, w), one after the other -> maps (B, C, h, w)."""
    parts = tokens_BSC.transpose(1, 2).split([h * w for h, w in shapes], dim=-1)
    return [part.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True)]


def reference_points(shapes: Shapes, device: torch.device) -> Tensor:
    """Cell centres (x, y) of the grids one after the other, (1, Q, 1, 2) in [0, 1], float32."""
    grids = []
    for h, w in shapes:
        y = (torch.arange(h, device=device, dtype=torch.float32) + 0.5) / h
        x = (torch.arange(w, device=device, dtype=torch.float32) + 0.5) / w
        grids.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1))
    return torch.cat(grids)[None, :, None]


def deformable_sample(
    value_BSME: Tensor, shapes: Shapes, locations_BQMLP2: Tensor, weights_BQMLP: Tensor
) -> Tensor:
    """Weighted bilinear samples of the values, zero outside -> (B, Q, M * E), head-major."""
    # on the CPU rows take a quarter to a half of the time, but their gradient sorts
    rows = value_BSME.device.type == "cpu" and not (
        torch.is_grad_enabled() or torch.compiler.is_compiling()
    )
    sample = _sample_rows if rows else _sample_maps
    return sample(value_BSME, shapes, locations_BQMLP2, weights_BQMLP)


def _sample_maps(
    value_BSME: Tensor, shapes: Shapes, locations_BQMLP2: Tensor, weights_BQMLP: Tensor
) -> Tensor:
    """Samples each level's maps, then sums."""
    B, _, M, E = value_BSME.shape
    Q = locations_BQMLP2.shape[1]
    grid = 2 * locations_BQMLP2 - 1
    sampled = []
    for level, value in enumerate(token_maps(value_BSME.flatten(2), shapes)):
        value = value.reshape(B * M, E, *shapes[level])
        at = grid[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B M, Q, P, 2)
        sampled.append(F.grid_sample(value, at, align_corners=False))  # (B M, E, Q, P)
    weights = weights_BQMLP.permute(0, 2, 1, 3, 4).reshape(B * M, 1, Q, -1)
    out = (torch.cat(sampled, dim=-1) * weights).sum(-1)  # (B M, E, Q)
    return out.view(B, M * E, Q).transpose(1, 2)


def _sample_rows(
    value_BSME: Tensor, shapes: Shapes, locations_BQMLP2: Tensor, weights_BQMLP: Tensor
) -> Tensor:
    """Sums rows of the value table: the four neighbours of every point of a query and head."""
    B, S, M, E = value_BSME.shape
    Q, P = locations_BQMLP2.shape[1], locations_BQMLP2.shape[4]
    starts = accumulate((h * w for h, w in shapes[:-1]), initial=0)
    level = [(h, w, start) for (h, w), start in zip(shapes, starts, strict=True) for _ in range(P)]
    h, w, start = torch.tensor(level, dtype=torch.int32).unbind(-1)  # each (L P,)
    batch = torch.arange(B, dtype=torch.int32)[:, None, None, None]
    head = torch.arange(M, dtype=torch.int32)[:, None]
    first = (batch * S + start) * M + head  # row of a map's first token, (B, 1, M, L P)
    x, y = locations_BQMLP2.flatten(3, 4).unbind(-1)  # each (B, Q, M, L P)
    columns, weights = _neighbours(x, w), weights_BQMLP.flatten(3)
    lines = [(index * w, share * weights) for index, share in _neighbours(y, h)]
    corners = list(product(lines, columns))
    rows = torch.stack([(i + j) * M + first for (i, _), (j, _) in corners], dim=-2)
    shares = torch.stack([s * t for (_, s), (_, t) in corners], dim=-2)  # (B, Q, M, 4, L P)
    out = F.embedding_bag(
        rows.flatten(-2).flatten(0, 2), value_BSME.reshape(-1, E), mode="sum",
        per_sample_weights=shares.flatten(-2).flatten(0, 2),
    )  # fmt: skip
    return out.view(B, Q, M * E)


def _neighbours(at: Tensor, size: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The two cells around places in [0, 1] on an axis of `size` cells: (index, share); a cell
    outside has an index inside and no share.
    """
    at = at * size - 0.5
    low = at.floor()
    share, index = at - low, low.int()
    cells = ((index, 1 - share), (index + 1, share))
    # integers can be clamped where `at` is NaN, too; its share stays NaN
    return [(i.clamp(min=0).minimum(size - 1), s * ((i >= 0) & (i < size))) for i, s in cells]


class DeformableAttention(nn.Module):
    """Attention of each query to a few points around its own place in every value level."""

    def __init__(self, dim: int, num_levels: int, config: InteractionConfig) -> None:
        super().__init__()
        heads, points = config.num_heads, config.num_points
        samples, value_dim = heads * num_levels * points, int(dim * config.value_ratio)
        self.num_heads, self.num_levels, self.num_points = heads, num_levels, points
        self.sampling_offsets = nn.Linear(dim, samples * 2)
        self.attention_weights = nn.Linear(dim, samples)
        self.value_proj = nn.Linear(dim, value_dim)
        self.output_proj = nn.Linear(value_dim, dim)

    def reset_parameters(self) -> None:
        """Offsets start on rays around the query, one direction a head, one step a point."""
        M, L, P = self.num_heads, self.num_levels, self.num_points
        angle = torch.arange(M) * (2 * math.pi / M)
        ray = torch.stack([angle.cos(), angle.sin()], dim=-1)  # (M, 2)
        ray = ray / ray.abs().max(dim=-1, keepdim=True).values
        steps = torch.arange(1, P + 1)[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.view(M, L, P, 2).copy_(ray[:, None, None] * steps)
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self, query_BQC: Tensor, points_1Q12: Tensor, feat_BSC: Tensor, shapes: Shapes
    ) -> Tensor:
        """Queries (B, Q, C) at their reference points read `feat` (B, S, C) -> (B, Q, C)."""
        B, Q, _ = query_BQC.shape
        M, L, P = self.num_heads, self.num_levels, self.num_points
        value = self.value_proj(feat_BSC).unflatten(-1, (M, -1))
        offsets = self.sampling_offsets(query_BQC).view(B, Q, M, L, P, 2)
        weights = self.attention_weights(query_BQC).view(B, Q, M, L, P)
        with torch.autocast(query_BQC.device.type, enabled=False):
            # locations in half precision would be off by whole cells
            sampled = attend_points(value, offsets, weights, points_1Q12, shapes)
        return self.output_proj(sampled.to(value.dtype))


def _sides(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """Width and height of each level, (L, 2)."""
    if device.type != "cuda":
        return torch.tensor([(w, h) for h, w in shapes], device=device)
    # a copy from the CPU would wait, and no CUDA graph may have one
    sides = [torch.full((), side, device=device) for h, w in shapes for side in (w, h)]
    return torch.stack(sides).view(-1, 2)


def attend_points(
    value_BSME: Tensor, offsets_BQMLP2: Tensor, weights_BQMLP: Tensor, points_1Q12: Tensor,
    shapes: Shapes,
) -> Tensor:  # fmt: skip
    """Samples (B, Q, M * E) in at least float32; offsets are in pixels, and the weights' softmax
    goes over levels and points.
    """
    scale = _sides(tuple(shapes), value_BSME.device)
    offsets = at_least_float32(offsets_BQMLP2) / scale[:, None]
    locations = points_1Q12[:, :, None, :, None] + offsets
    weights = at_least_float32(weights_BQMLP).flatten(3).softmax(dim=-1).view_as(weights_BQMLP)
    return deformable_sample(at_least_float32(value_BSME), shapes, locations, weights)
