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
from torch import Tensor

from mmsam_ros.model import ModelConfig, build_model, randomise

PATH = Path(__file__).with_name("regression.safetensors")
SEED = 20260101


def compute() -> dict[str, Tensor]:
    """Logits and gradient norms of the randomised `nano` network on a seeded input."""
    config = ModelConfig.preset("nano", num_classes=6)
    model = build_model(config).eval()
    randomise(model, SEED)
    generator = torch.Generator().manual_seed(SEED)
    rgb, aux = torch.randn(2, 2, 3, 128, 192, generator=generator)
    present = {"lidar": torch.tensor([True, False])}
    logits = model({"rgb": rgb, "lidar": aux}, present)
    logits.square().mean().backward()
    norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    return {"logits": logits.detach().contiguous(), "gradnorm": torch.stack(norms)}


if __name__ == "__main__":
    save_file(compute(), PATH)
