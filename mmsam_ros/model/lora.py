# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters (arXiv 2106.09685) beside linear layers whose own names stay."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoRALinear(nn.Linear):
    """W x + b + B A x, with B zero at first: the layer starts as it was.

    `lora_a` (rank, in) and `lora_b` (out, rank) come beside `weight` and `bias`.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, rank: int) -> None:
        super().__init__(in_features, out_features, bias)
        self.lora_a = nn.Parameter(torch.empty(rank, in_features))
        self.lora_b = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.linear(F.linear(x, self.lora_a), self.lora_b)


def add_lora(modules: Iterable[nn.Module], rank: int, targets: tuple[str, ...]) -> None:
    """Put an adapter on every linear layer below `modules` whose own name is in `targets`."""
    for parent in [m for module in modules for m in module.modules()]:
        for name, child in parent.named_children():
            if name in targets and isinstance(child, nn.Linear):
                wide = child.in_features, child.out_features, child.bias is not None
                setattr(parent, name, LoRALinear(*wide, rank))
