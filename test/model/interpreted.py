# SPDX-License-Identifier: Apache-2.0
"""Runs the Triton kernels in Triton's interpreter, on the CPU, beside their plain twins.

It prints, as JSON by case, the largest difference and the standard deviation of what is expected. A
process of its own: TRITON_INTERPRET has to be set before anything imports Triton.
"""

from __future__ import annotations

import json
from itertools import product

import torch
from support.randomise import randomise
from torch import Tensor

from mmsam_ros.inference import TorchEngine
from mmsam_ros.inference.engines.triton import TritonEngine
from mmsam_ros.model import PLAIN, ModelConfig, build_model, prepare
from mmsam_ros.model.triton_kernels import KERNELS
from mmsam_ros.model.triton_ops import OPAQUE

GRIDS = {  # batch, heads, height, width, channels of a head
    "small": (2, 3, 5, 7, 16),
    "odd width of a head": (1, 2, 9, 14, 24),
    "several blocks": (1, 2, 11, 9, 64),
    "lines longer than a block": (1, 1, 2, 70, 8),
    "one column": (2, 1, 6, 1, 16),
}
LEVELS = {  # batch, shapes, heads, points, channels of a head
    "one level": (1, [(5, 8)], 4, 4, 6),
    "three levels": (2, [(8, 12), (4, 6), (2, 3)], 3, 4, 16),
    "maps of one line": (2, [(1, 7), (6, 1), (1, 1)], 2, 1, 8),
}
DTYPES = {"float32": torch.float32, "float16": torch.float16}  # it has no products of bfloat16


def compare(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Largest difference, and how much there is to be found."""
    return (found - expected).abs().max().item(), expected.std().item()


def attention(grid: str, dtype: torch.dtype, *, absent: bool, strided: bool) -> tuple[float, float]:
    """Queries, keys and values as the blocks give them: views of one tensor, or apart."""
    B, M, H, W, E = GRIDS[grid]
    qkv = torch.randn(B, H, W, 3, M, E).to(dtype).permute(3, 0, 4, 1, 2, 5)
    q, k, v = qkv if strided else qkv.contiguous()
    biases = [torch.randn(B, M, H, W, size).to(dtype) for size in (H, W)]
    score = [2 + torch.randn(B, M, H, W)] if absent else []
    given = [q, k, v, *biases, *score]
    expected = PLAIN.attend(*(x.double() for x in given))
    found = KERNELS.attend(*given)
    assert (found.dtype, found.shape) == (dtype, expected.shape)
    return compare(found, expected)


def points(levels: str, dtype: torch.dtype, wrong: float = 0.0) -> tuple[float, float]:
    """Offsets and weights are parts of one tensor; many places are outside, some far.

    `wrong` is a place that is not finite: nothing else may change by it.
    """
    B, shapes, M, P, E = LEVELS[levels]
    queries, samples = 40, M * len(shapes) * P
    value = torch.randn(B, sum(h * w for h, w in shapes), M, E).to(dtype)
    both = torch.randn(B, queries, 3 * samples) * 3
    both[:, 1, : 2 * samples] = 1e12
    offsets = both[..., : 2 * samples].unflatten(-1, (M, len(shapes), P, 2))
    weights = both[..., 2 * samples :].unflatten(-1, (M, len(shapes), P))
    reference = torch.rand(1, queries, 1, 2)
    if wrong:
        offsets[0, 10, 1, -1, 0, 0] = wrong
    expected = PLAIN.attend_points(
        value.double(), offsets.double(), weights.double(), reference.double(), shapes
    )
    found = KERNELS.attend_points(value, offsets, weights, reference, shapes)
    if wrong:
        assert bool(found[0, 10, E : 2 * E].isnan().all())
        assert bool(found[0, 10].isnan().sum() == E)
        found, expected = found[0, 11:], expected[0, 11:]
    return compare(found, expected)


def lean(change: dict[str, object], **encoder: object) -> ModelConfig:
    """Nano with one block at each level, and one extractor at the end."""
    values = ModelConfig.preset("nano", num_classes=5).to_dict() | change
    values["encoder"] |= encoder
    values["interaction"] |= {"num_extra_extractors": 1}
    values["trunk"] |= {"depths": (1, 1, 1, 1)}
    return ModelConfig.from_dict(values | {"image_size": (64, 96)})


def network(change: dict[str, object]) -> tuple[float, float]:
    """The engine's logits; windows of 5 do not fit the grid of 4 x 6."""
    model = build_model(lean(change, window_size=5))
    randomise(model, seed=5)
    model.float().eval()
    inputs = {name: torch.randn(1, 3, 64, 96) for name in model.config.modalities}
    return compare(TritonEngine(model, "cpu")(inputs), TorchEngine(model, "cpu")(inputs))


def traced(change: dict[str, object]) -> tuple[float, float]:
    """The logits as torch.compile sees the network: without a break, the kernels untouched."""
    model = build_model(lean(change))
    randomise(model, seed=5)
    model.float().eval()
    inputs = {name: torch.randn(1, 3, 64, 96) for name in model.config.modalities}
    whole = torch.compile(prepare(model, OPAQUE), fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        return compare(whole(inputs), TorchEngine(model, "cpu")(inputs))


def main() -> None:
    """All cases."""
    torch.manual_seed(3)
    found = {}
    for (name, dtype), absent in product(product(GRIDS, DTYPES), (False, True)):
        case = f"attention, {name}, {dtype}{', absent key' if absent else ''}"
        found[case] = attention(name, DTYPES[dtype], absent=absent, strided=not absent)
    for name, dtype in product(LEVELS, DTYPES):
        found[f"points, {name}, {dtype}"] = points(name, DTYPES[dtype])
    for wrong in (float("nan"), float("inf"), -float("inf")):
        found[f"points, {wrong}, float32"] = points("three levels", torch.float32, wrong)
    several = {"modalities": ("rgb", "lidar", "thermal"), "combine": {"absent": "fallback"}}
    for name, change in (("published", {}), ("fallback", several)):
        found[f"network, {name}, float32"] = network(change)
    found["network, fallback, traced, float32"] = traced(several)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
