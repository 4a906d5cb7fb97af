# SPDX-License-Identifier: Apache-2.0
"""The SAM image encoder (arXiv 2304.02643) without its neck; injectors run between its blocks.

Modules and parameters are named as in the published encoder.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros.model.config import PATCH_SIZE, EncoderConfig

_BIAS_ELEMENTS = 2**24  # of a position bias that is formed at once on the CPU


class SAMEncoder(nn.Module):
    """Patches, positions and transformer blocks; tokens (B, H, W, C) lie on the stride-16 grid."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        patch, dim = PATCH_SIZE, config.embed_dim
        grid = (config.pretrained_size[0] // patch, config.pretrained_size[1] // patch)
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, dim, patch, stride=patch)))
        self.pos_embed = nn.Parameter(torch.zeros(1, *grid, dim))
        windows = [
            0 if index in config.global_attn_indexes else config.window_size
            for index in range(config.depth)
        ]
        self.blocks = nn.ModuleList(
            Block(dim, config.num_heads, config.mlp_ratio, window, grid) for window in windows
        )
        if config.lora_rank:
            for name, layer in list(self.blocks.named_modules()):
                if isinstance(layer, nn.Linear):
                    self._adapt(name, layer, config)

    def _adapt(self, name: str, layer: nn.Linear, config: EncoderConfig) -> None:
        """Put low-rank adapters into a layer of the blocks, if the configuration wants them."""
        kind, targets = name.split(".")[-1], config.lora_targets
        third = layer.out_features // 3
        ranges = [
            slice(i * third, (i + 1) * third) for i, part in enumerate("qkv") if part in targets
        ]
        if kind in targets:
            ranges = [slice(0, layer.out_features)]
        if kind in (*targets, "qkv") and ranges:
            self.blocks.set_submodule(name, LoRALinear(layer, config.lora_rank, ranges))

    def embed(self, rgb_BChw: Tensor) -> Tensor:
        """Image (B, 3, h, w), normalised -> tokens (B, H, W, C) with positions added."""
        x_BHWC = self.patch_embed(rgb_BChw).permute(0, 2, 3, 1)
        return x_BHWC + resize_pos_embed(self.pos_embed, x_BHWC.shape[1:3])

    def run(self, x_BHWC: Tensor, first: int, last: int) -> Tensor:
        """Tokens through blocks `first` to `last`, both included."""
        for block in self.blocks[first : last + 1]:
            x_BHWC = block(x_BHWC)
        return x_BHWC


class Block(nn.Module):
    """Pre-norm transformer block; attention within windows, or over all tokens (`window` 0).

    Args:
        grid: the tokens' grid at the size of pretraining.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, window: int, grid: tuple[int, int]
    ) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.window = window
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, (window, window) if window else grid)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(
            OrderedDict(lin1=nn.Linear(dim, hidden), act=nn.GELU(), lin2=nn.Linear(hidden, dim))
        )

    def forward(self, x_BHWC: Tensor) -> Tensor:
        n_BHWC, size = self.norm1(x_BHWC), x_BHWC.shape[1:3]
        if self.window:
            read = join_windows(self.attn(split_windows(n_BHWC, self.window)), size)
        else:
            read = self.attn(n_BHWC)
        x_BHWC = x_BHWC + read
        return x_BHWC + self.mlp(self.norm2(x_BHWC))


class Attention(nn.Module):
    """Multi-head attention; its position bias is a sum of one for rows and one for columns.

    The bias of a query depends on the query itself and on the distance to the key; the tables have
    one row for each distance on `grid` (arXiv 2112.01526).
    """

    def __init__(self, dim: int, num_heads: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid[0] - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid[1] - 1, dim // num_heads))

    def forward(self, x_BHWC: Tensor) -> Tensor:
        B, H, W, _ = x_BHWC.shape
        qkv = self.qkv(x_BHWC).view(B, H, W, 3, self.num_heads, -1)
        q, k, v = qkv.permute(3, 0, 4, 1, 2, 5)  # each (B, heads, H, W, E)
        by_row = torch.einsum("bmhwe,hke->bmhwk", q, relative_positions(self.rel_pos_h, H))
        by_column = torch.einsum("bmhwe,wke->bmhwk", q, relative_positions(self.rel_pos_w, W))
        out = attend(q, k, v, by_row, by_column)  # (B, heads, H, W, E)
        return self.proj(out.permute(0, 2, 3, 1, 4).flatten(-2))


def attend(
    q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor,
    absent: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """softmax(q k / sqrt(E) + bias) v of queries, keys, values (B, M, H, W, E) -> the same shape.

    The bias of a query's keys (H, W) is `by_row` (B, M, H, W, H) plus `by_column` (B, M, H, W, W).
    `absent` (B, M, H, W) is the score of one more key, whose value is zero.
    """
    B, M, H, W, _ = q.shape
    # on the CPU a bias of a few heads, which stays in the caches, beats one of all (1 GiB at 1024²)
    heads = M if q.is_cuda else min(M, max(1, _BIAS_ELEMENTS // (B * (H * W) ** 2)))
    given = [q, k, v, by_row, by_column]
    if absent is not None:
        given.append(absent[..., None])
    parts = []
    for part in zip(*(x.split(heads, dim=1) for x in given), strict=True):
        q, k, v, row, column, *score = (x.flatten(2, 3) for x in part)
        bias = (row[..., :, None] + column[..., None, :]).flatten(-2)  # (B, heads, HW, HW)
        if score:
            bias = torch.cat([bias, *score], dim=-1)
            k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
        parts.append(F.scaled_dot_product_attention(q, k, v, attn_mask=bias))
    return torch.cat(parts, dim=1).unflatten(2, (H, W))


def relative_positions(table_LE: Tensor, size: int) -> Tensor:
    """Rows (size, size, E) of a table, by the index of query and key along one axis.

    A table of another size is resized linearly to the 2 * size - 1 distances.
    """
    count = 2 * size - 1
    if len(table_LE) != count:
        table_LE = F.interpolate(table_LE.t()[None], size=count, mode="linear")[0].t()
    index = torch.arange(size, device=table_LE.device)
    return table_LE[index[:, None] - index + size - 1]


def split_windows(x_BHWC: Tensor, size: int) -> Tensor:
    """Tokens -> windows (n, size, size, C), by row; zeros are appended where they do not fit."""
    _, H, W, C = x_BHWC.shape
    x = F.pad(x_BHWC, (0, 0, 0, -W % size, 0, -H % size))
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))  # (B, rows, size, columns, size, C)
    return x.transpose(2, 3).reshape(-1, size, size, C)


def join_windows(windows_nssC: Tensor, grid: torch.Size | tuple[int, int]) -> Tensor:
    """The inverse of `split_windows`, for tokens of a grid (H, W) -> (B, H, W, C)."""
    (H, W), size = grid, windows_nssC.shape[1]
    rows, columns = -(-H // size), -(-W // size)
    x = windows_nssC.unflatten(0, (-1, rows, columns)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)[:, :H, :W]


class LoRALinear(nn.Linear):
    """W x + b + B A x (arXiv 2106.09685) in the place of a linear layer; B is zero at first.

    `ranges` of the outputs have their own A and B, stacked in `lora_a` and `lora_b`; the others
    have none. They are equally long.
    """

    def __init__(self, layer: nn.Linear, rank: int, ranges: Sequence[slice]) -> None:
        super().__init__(layer.in_features, layer.out_features)
        outputs = sum(part.stop - part.start for part in ranges)
        self.ranges = tuple(ranges)
        self.lora_a = nn.Parameter(torch.empty(len(ranges) * rank, layer.in_features))
        self.lora_b = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        out, count = super().forward(x), len(self.ranges)
        low = F.linear(x, self.lora_a).chunk(count, -1)
        for part, a_x, b in zip(self.ranges, low, self.lora_b.chunk(count), strict=True):
            before, after = part.start, self.out_features - part.stop
            out = out + F.pad(F.linear(a_x, b), (before, after))
        return out


def resize_pos_embed(pos_1HWC: Tensor, grid: torch.Size | tuple[int, int]) -> Tensor:
    """Position table (1, H0, W0, C) -> (1, H, W, C), bicubic without antialiasing."""
    if pos_1HWC.shape[1:3] == tuple(grid):
        return pos_1HWC
    table = pos_1HWC.permute(0, 3, 1, 2)
    resized = F.interpolate(table, size=tuple(grid), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1)
