# SPDX-License-Identifier: Apache-2.0
"""Seeded weights under which every branch shows in the output.

The default initialisation hides whole branches (injector gamma 1e-6, fusion scalars 0, zero
position tables, identity batch norms), so nothing is proven on it.
"""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill all parameters and batch-norm statistics in place; returns the model.

    Matrices and kernels keep the signal's scale (std 1/sqrt(fan in)), scalars and gains are of
    order 1, biases and tables small and non-zero. The same seed gives the same values whatever the
    device of the model. They are drawn in float64 and rounded once: float32's own draws differ in
    the last bit between vector units.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: torch.Size) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def gain(shape: torch.Size) -> torch.Tensor:
        return 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)

    # Gains in (0.5, 1.5) with a definite sign keep deep stacks from exploding or dying.
    for name, parameter in model.named_parameters():
        shape = parameter.shape
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "weight" and parameter.ndim >= 2:
            value = normal(shape) / max(parameter[0].numel(), 1) ** 0.5
        elif leaf == "weight" or parameter.ndim == 0 or "gamma" in leaf or leaf == "temperature":
            value = gain(shape)
        else:  # biases, rel_pos, pos_embed, level_embed
            value = 0.2 * normal(shape)
        parameter.copy_(value)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(0.2 * normal(module.running_mean.shape))
            module.running_var.copy_(gain(module.running_var.shape))
    return model
