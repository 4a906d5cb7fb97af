# SPDX-License-Identifier: Apache-2.0
"""The encoder is segment_anything's ImageEncoderViT without its neck."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import ImageEncoderViT
from support.randomise import randomise
from torch import Tensor, nn

from mmsam_ros.model import EncoderConfig
from mmsam_ros.model.encoder import SAMEncoder

CONFIG = EncoderConfig(
    embed_dim=64,
    depth=4,
    num_heads=4,
    window_size=4,
    global_attn_indexes=(1, 3),
    pretrained_size=(160, 160),
)


def official() -> ImageEncoderViT:
    encoder = ImageEncoderViT(
        img_size=160,
        embed_dim=CONFIG.embed_dim,
        depth=CONFIG.depth,
        num_heads=CONFIG.num_heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=CONFIG.window_size,
        global_attn_indexes=CONFIG.global_attn_indexes,
    )
    encoder.neck = nn.Identity()
    return randomise(encoder.eval(), seed=3)


@pytest.mark.parametrize("size", [(160, 160), (96, 96), (128, 224), (320, 192)])
@torch.no_grad()
def test_equals_segment_anything(size: tuple[int, int]) -> None:
    theirs = official()
    ours = SAMEncoder(CONFIG).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    if size != (160, 160):
        grid = (size[0] // 16, size[1] // 16)
        table = theirs.pos_embed.permute(0, 3, 1, 2)
        resized = F.interpolate(table, size=grid, mode="bicubic", align_corners=False)
        theirs.pos_embed = nn.Parameter(resized.permute(0, 2, 3, 1))
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected: Tensor = theirs(image)  # (B, C, H, W)
    x = ours.run(ours.embed(image), 0, CONFIG.depth - 1)
    assert torch.equal(x.permute(0, 3, 1, 2), expected)
    assert x.std() > 0.1  # randomised weights do something
