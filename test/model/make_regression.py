# SPDX-License-Identifier: Apache-2.0
"""Rewrites test/model/regression.safetensors from a seed.

    python test/model/make_regression.py

Run it only with a network that passes the golden tests: the file guards parity where the golden
tensors are absent.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from support.randomise import randomise
from torch import Tensor

from mmsam_ros.model import MMSAMAdapter, ModelConfig, build_model

PATH = Path(__file__).with_name("regression.safetensors")
SEED = 20260101
# The largest difference between vector units is 6e-13 (docs/testing.md).
TOLERANCE = 1e-8


def randomised() -> MMSAMAdapter:
    """The `nano` network in float64, with weights under which every branch shows."""
    model = build_model(ModelConfig.preset("nano", num_classes=6)).double().eval()
    return randomise(model, SEED)


def compute(model: MMSAMAdapter) -> dict[str, Tensor]:
    """Logits and the norm of every parameter's gradient, on a seeded input; 0 where it has none."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (2, 2, 3, 128, 192)
    images = torch.randn(shape, generator=generator, dtype=torch.float64)
    rgb, aux = images.to(model.level_embed.dtype)
    present = {"lidar": torch.tensor([True, False])}
    logits = model({"rgb": rgb, "lidar": aux}, present)
    model.zero_grad()
    logits.square().mean().backward()
    zero = logits.new_zeros(())
    norms = [zero if p.grad is None else p.grad.norm() for p in model.parameters()]
    return {"logits": logits.detach().contiguous(), "gradnorm": torch.stack(norms)}


def assert_unchanged(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Logits by their spread, gradients each by its own size."""
    spread = float(expected["logits"].std())
    torch.testing.assert_close(found["logits"], expected["logits"], rtol=0, atol=TOLERANCE * spread)
    torch.testing.assert_close(found["gradnorm"], expected["gradnorm"], rtol=TOLERANCE, atol=0)


if __name__ == "__main__":
    save_file(compute(randomised()), PATH)
