# SPDX-License-Identifier: Apache-2.0
"""Both ways to sample agree, and the fast one is for inference alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmsam_ros.model.deformable import Shapes, deformable_sample

CASES: dict[str, tuple[int, Shapes, int, int]] = {  # batch, shapes, heads, points
    "one level": (1, [(5, 8)], 4, 4),
    "three levels": (2, [(8, 12), (4, 6), (2, 3)], 3, 4),
    "maps of one line": (2, [(1, 7), (6, 1), (1, 1)], 2, 1),
}


def inputs(batch: int, shapes: Shapes, heads: int, points: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values, locations (many of them outside, some on edges), weights."""
    generator = torch.Generator().manual_seed(7)
    tokens, queries, levels = sum(h * w for h, w in shapes), 50, len(shapes)
    value = torch.randn(batch, tokens, heads, 6, generator=generator)
    shape = (batch, queries, heads, levels, points)
    at = 2 * torch.rand(*shape, 2, generator=generator) - 0.5
    at[:, 0], at[:, 1], at[:, 2], at[:, 3] = 0.0, 1.0, 0.5, 1e12
    return value, at, torch.rand(shape, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_samples_agree(case: str, dtype: torch.dtype) -> None:
    value, at, weights = (x.to(dtype) for x in inputs(*CASES[case]))
    shapes = CASES[case][1]
    with torch.no_grad():
        found = deformable_sample(value, shapes, at, weights)
    expected = deformable_sample(value.requires_grad_(), shapes, at, weights)
    assert expected.requires_grad
    assert expected.std() > 0.1
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(found, expected.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@torch.no_grad()
def test_a_location_that_is_not_finite_is_not_hidden(wrong: float) -> None:
    """The segmenter refuses logits that are not finite; other queries stay as they are."""
    _, shapes, *_ = CASES["three levels"]
    value, at, weights = inputs(*CASES["three levels"])
    right = deformable_sample(value, shapes, at, weights)
    at[0, 10, 1, 2, 3, 0] = wrong
    found = deformable_sample(value, shapes, at, weights)
    assert bool(found[0, 10, 6:12].isnan().all())
    found[0, 10, 6:12] = right[0, 10, 6:12]
    assert torch.equal(found, right)
