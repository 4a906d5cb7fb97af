# SPDX-License-Identifier: Apache-2.0
"""Attention and deformable sampling, each by itself, in the sizes of `vit_l` at 1024x1024."""

from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from results import Row
from torch import Tensor

from mmsam_ros.model import PLAIN

# windows, heads, grid, channels of a head
ATTENTION = {"global": (1, 16, (64, 64), 64), "windows": (16, 16, (14, 14), 64)}
# queries, levels; 16 heads of 32 channels, 4 points
SAMPLING = {
    "injector": (64 * 64, [(128, 128), (64, 64), (32, 32)]),
    "extractor": (128 * 128 + 64 * 64 + 32 * 32, [(64, 64)]),
}
HEADS, WIDTH, POINTS = 16, 32, 4
WAYS = ("torch", "triton")


def cases(device: str) -> list[Row]:
    """A row for each operation, way and precision."""
    kinds: dict[str, tuple[list[str], tuple[str, ...]]] = {
        "attention": (list(ATTENTION), WAYS),
        "sampling": (list(SAMPLING), (*WAYS, "deformops")),
    }
    return [
        {"what": what, "case": name, "way": way, "precision": precision, "device": device}
        for what, (names, ways) in kinds.items()
        for name in names
        for precision in ("fp32", "bf16")
        for way in ways
    ]


def operation(case: Row) -> tuple[Callable[[], Tensor], Tensor]:
    """What to time, and what it should give, in float64."""
    torch.manual_seed(0)
    make = {"attention": attention, "sampling": sampling}[case["what"]]
    dtype = torch.bfloat16 if case["precision"] == "bf16" else torch.float32
    return make(case, dtype)


def attention(case: Row, dtype: torch.dtype) -> tuple[Callable[[], Tensor], Tensor]:
    """softmax(q k + bias) v."""
    windows, heads, (h, w), width = ATTENTION[case["case"]]

    def random(last: int) -> Tensor:
        return torch.randn(windows, heads, h, w, last, device=case["device"]).to(dtype)

    given = [random(width), random(width), random(width), random(h), random(w)]
    way = PLAIN if case["way"] == "torch" else _kernels()
    return partial(way.attend, *given), PLAIN.attend(*(x.double() for x in given))


def sampling(case: Row, dtype: torch.dtype) -> tuple[Callable[[], Tensor], Tensor]:
    """Weighted bilinear samples at places around each query."""
    queries, shapes = SAMPLING[case["case"]]
    tokens, levels, device = sum(h * w for h, w in shapes), len(shapes), case["device"]
    value = torch.randn(1, tokens, HEADS, WIDTH, device=device).to(dtype)
    offsets = 3 * torch.randn(1, queries, HEADS, levels, POINTS, 2, device=device)
    weights = torch.randn(1, queries, HEADS, levels, POINTS, device=device)
    points = torch.rand(1, queries, 1, 2, device=device)
    expected = PLAIN.attend_points(*(x.double() for x in (value, offsets, weights, points)), shapes)
    if case["way"] == "deformops":
        return _deformops(value, offsets, weights, points, shapes), expected
    way = PLAIN if case["way"] == "torch" else _kernels()
    return partial(way.attend_points, value, offsets, weights, points, shapes), expected


def _kernels() -> Any:
    from mmsam_ros.model.triton_kernels import KERNELS

    return KERNELS


def _deformops(
    value: Tensor, offsets: Tensor, weights: Tensor, points: Tensor, shapes: list[tuple[int, int]]
) -> Callable[[], Tensor]:
    """The package of that name (Python 3.12 and newer); it takes places, not offsets."""
    from deformops.registry import msda

    device = value.device
    table = torch.tensor(shapes, device=device)
    starts = torch.tensor([*accumulate((h * w for h, w in shapes[:-1]), initial=0)], device=device)
    scale = table.flip(-1)[:, None]

    def sample() -> Tensor:
        places = points[:, :, None, :, None] + offsets / scale
        found: Tensor = msda(value, table, starts, places, weights.to(value.dtype), softmax=True)
        return found

    return sample
