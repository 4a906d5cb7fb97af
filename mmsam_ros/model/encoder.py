# SPDX-License-Identifier: Apache-2.0
"""The SAM image encoder (arXiv 2304.02643) without its neck; injectors run between its blocks.

Blocks and patch embedding are segment_anything's own modules.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Block, PatchEmbed
from torch import Tensor, nn

from mmsam_ros.model.config import PATCH_SIZE, EncoderConfig


class SAMEncoder(nn.Module):
    """Patches, positions and transformer blocks; tokens (B, H, W, C) lie on the stride-16 grid."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        patch, dim = PATCH_SIZE, config.embed_dim
        grid = (config.pretrained_size[0] // patch, config.pretrained_size[1] // patch)
        self.patch_embed = PatchEmbed((patch, patch), (patch, patch), in_chans=3, embed_dim=dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, *grid, dim))
        self.blocks = nn.ModuleList(
            Block(
                dim, config.num_heads, config.mlp_ratio, use_rel_pos=True, input_size=grid,
                window_size=0 if index in config.global_attn_indexes else config.window_size,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
            )
            for index in range(config.depth)
        )  # fmt: skip
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
        x_BHWC = self.patch_embed(rgb_BChw)
        return x_BHWC + resize_pos_embed(self.pos_embed, x_BHWC.shape[1:3])

    def run(self, x_BHWC: Tensor, first: int, last: int) -> Tensor:
        """Tokens through blocks `first` to `last`, both included."""
        for block in self.blocks[first : last + 1]:
            x_BHWC = block(x_BHWC)
        return x_BHWC


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
