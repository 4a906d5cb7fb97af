# SPDX-License-Identifier: Apache-2.0
"""The network still computes what it did when it reproduced the golden tensors."""

from __future__ import annotations

import torch
from make_regression import PATH, compute
from safetensors.torch import load_file


def test_regression_fixture() -> None:
    expected = load_file(PATH)
    ours = compute()
    assert expected["logits"].std() > 0.05
    torch.testing.assert_close(ours["logits"], expected["logits"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours["gradnorm"], expected["gradnorm"], atol=1e-5, rtol=2e-3)
