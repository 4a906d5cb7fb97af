# SPDX-License-Identifier: Apache-2.0
"""What several parts of the network use."""

import math

import torch
from torch import Tensor, nn


def at_least_float32(x: Tensor) -> Tensor:
    """`x`, in float32 where it has half precision; float32 and float64 stay as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def arithmetic(x: Tensor) -> torch.dtype:
    """What layers compute `x` in: autocast's type where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def initialise(module: nn.Module) -> None:
    """Initialise the linear layers and convolutions of a module as published; biases are 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
