# SPDX-License-Identifier: Apache-2.0
"""The SAM image encoder (arXiv 2304.02643) without its neck, in slices that injectors sit between.

Blocks and patch embedding are segment_anything's own modules.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Block, PatchEmbed
from torch import Tensor, nn

from mmsam_ros.model.config import PATCH_SIZE, EncoderConfig
from mmsam_ros.model.lora import add_lora


class SAMEncoder(nn.Module):
    """Patch embedding, position embedding and transformer blocks of SAM.

    Tokens are (B, H, W, C) with (H, W) the stride-16 grid.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        patch, dim = PATCH_SIZE, config.embed_dim
        grid = (config.pretrained_size[0] // patch, config.pretrained_size[1] // patch)
        self.patch_embed = PatchEmbed((patch, patch), (patch, patch), in_chans=3, embed_dim=dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, *grid, dim))
        self.blocks = nn.ModuleList(
            Block(
                dim=dim,
                num_heads=config.num_heads,
                mlp_ratio=config.mlp_ratio,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                use_rel_pos=True,
                window_size=0 if index in config.global_attn_indexes else config.window_size,
                input_size=grid,
            )
            for index in range(config.depth)
        )
        if config.lora_rank:
            add_lora(self.blocks, config.lora_rank, config.lora_targets)

    def embed(self, rgb_BChw: Tensor) -> Tensor:
        """Image (B, 3, h, w), normalised -> tokens (B, H, W, C) with positions added."""
        x_BHWC = self.patch_embed(rgb_BChw)
        return x_BHWC + resize_pos_embed(self.pos_embed, x_BHWC.shape[1:3])

    def run(self, x_BHWC: Tensor, first: int, last: int) -> Tensor:
        """Tokens through blocks `first` to `last`, both included."""
        for block in self.blocks[first : last + 1]:
            x_BHWC = block(x_BHWC)
        return x_BHWC


def resize_pos_embed(pos_1HWC: Tensor, grid: torch.Size | tuple[int, int]) -> Tensor:
    """Position table (1, H0, W0, C) -> (1, H, W, C), bicubic without antialiasing."""
    if pos_1HWC.shape[1:3] == tuple(grid):
        return pos_1HWC
    resized = F.interpolate(
        pos_1HWC.permute(0, 3, 1, 2), size=tuple(grid), mode="bicubic", align_corners=False
    )
    return resized.permute(0, 2, 3, 1)
