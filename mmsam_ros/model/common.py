# SPDX-License-Identifier: Apache-2.0
"""What several parts of the network use."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BLOCKS = 64


def at_least_float32(x: Tensor) -> Tensor:
    """`x`, in float32 where it has half precision; float32 and float64 stay as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def arithmetic(x: Tensor) -> torch.dtype:
    """What layers compute `x` in: autocast's type where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def channel_products(a: Tensor, b: Tensor) -> Tensor:
    """Products (..., c, e) of channels a (..., c, n) and b (..., e, n), summed over n positions.

    On a GPU in blocks of positions: a product of so few channels and so long a sum occupies only a
    few of its multiprocessors.
    """
    few = a.shape[-2] <= a.shape[-1] // _BLOCKS  # else the blocks' products are larger than a, b
    blocked = a.is_cuda and few and a.shape[-1] % _BLOCKS == 0
    return products_in_blocks(a, b, _BLOCKS) if blocked else a @ b.transpose(-2, -1)


def products_in_blocks(a: Tensor, b: Tensor, blocks: int) -> Tensor:
    """As `channel_products`; the sum of one product for each block of positions."""
    a, b = (x.unflatten(-1, (blocks, -1)).transpose(-3, -2) for x in (a, b))
    return (a @ b.transpose(-2, -1)).sum(-3)


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


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of a map (B, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        n = F.layer_norm(
            x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps
        )
        return n.permute(0, 3, 1, 2)


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training, zeros samples and scales up the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        keep = 1 - self.rate
        kept = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep)
        return x * (kept / keep)
