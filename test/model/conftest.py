# SPDX-License-Identifier: Apache-2.0
"""The network is compared in float64, where no processor's order of summation shows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def float64() -> Iterator[None]:
    """Networks and tensors that a module's fixtures and tests make are float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def float32() -> Iterator[None]:
    """What a test itself makes is float32, as on a robot."""
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)
