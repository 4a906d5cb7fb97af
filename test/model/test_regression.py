# SPDX-License-Identifier: Apache-2.0
"""The network still computes what it did when it reproduced the golden tensors."""

from __future__ import annotations

import pytest
import torch
from faults import FAULTS
from make_regression import PATH, assert_unchanged, compute, randomised
from safetensors.torch import load_file
from torch import Tensor


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(PATH)


def test_regression_fixture(expected: dict[str, Tensor]) -> None:
    assert expected["logits"].std() > 0.05
    assert (expected["gradnorm"] > 0).all()
    assert_unchanged(compute(randomised()), expected)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(expected: dict[str, Tensor], fault: str) -> None:
    model = randomised()
    with FAULTS[fault](model):
        found = compute(model)
    with pytest.raises(AssertionError):
        assert_unchanged(found, expected)


def test_float32_is_near(expected: dict[str, Tensor]) -> None:
    """By the logits' spread: on robots it is float32, in an order of summation of their own."""
    logits = compute(randomised().float())["logits"]
    error = (logits - expected["logits"]) / expected["logits"].std()
    assert logits.dtype == torch.float32
    assert error.square().mean().sqrt() < 1e-4
    assert error.abs().max() < 2e-3
