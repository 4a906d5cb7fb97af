# SPDX-License-Identifier: Apache-2.0
"""The encoder is segment_anything's ImageEncoderViT without its neck."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.randomise import randomise
from torch import Tensor, nn

from mmsam_ros.model import EncoderConfig, encoder
from mmsam_ros.model.encoder import SAMEncoder

CONFIG = EncoderConfig(
    embed_dim=64,
    depth=4,
    num_heads=4,
    window_size=4,
    global_attn_indexes=(1, 3),
    pretrained_size=(160, 160),
)
SIZES = [(160, 160), (96, 96), (128, 224), (320, 192)]


def official() -> Any:
    pytest.importorskip("segment_anything")
    from segment_anything.modeling.image_encoder import ImageEncoderViT

    theirs = ImageEncoderViT(
        img_size=160,
        embed_dim=CONFIG.embed_dim,
        depth=CONFIG.depth,
        num_heads=CONFIG.num_heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=CONFIG.window_size,
        global_attn_indexes=CONFIG.global_attn_indexes,
    )
    theirs.neck = nn.Identity()
    return randomise(theirs.eval(), seed=3)


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor
) -> Tensor:  # fmt: skip
    """`attend` by its formula, in segment_anything's order of rounding."""
    *_, H, W, E = q.shape
    bias = (by_row[..., :, None], by_column[..., None, :])  # to (B, heads, H, W, H, W)
    q, k, v = (x.flatten(2, 3).contiguous() for x in (q, k, v))
    scores = (q * E**-0.5) @ k.transpose(-2, -1)
    scores = (scores.unflatten(3, (H, W)).unflatten(2, (H, W)) + bias[0] + bias[1]).flatten(-2)
    return (scores.flatten(2, 3).softmax(dim=-1) @ v).unflatten(2, (H, W))


@torch.no_grad()
def both(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Tokens (B, H, W, C) of our encoder and of segment_anything's, of the same image."""
    theirs = official()
    ours = SAMEncoder(CONFIG).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    if size != (160, 160):
        grid = (size[0] // 16, size[1] // 16)
        table = theirs.pos_embed.permute(0, 3, 1, 2)
        resized = F.interpolate(table, size=grid, mode="bicubic", align_corners=False)
        theirs.pos_embed = nn.Parameter(resized.permute(0, 2, 3, 1))
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = theirs(image).permute(0, 2, 3, 1)
    assert expected.std() > 0.1  # randomised weights do something
    return ours.run(ours.embed(image), 0, CONFIG.depth - 1), expected


@pytest.mark.parametrize("size", SIZES)
def test_equals_segment_anything(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    """Bit for bit, with the plain formula in the place of the fast one."""
    monkeypatch.setattr(encoder, "attend", plain_attention)
    found, expected = both(size)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("elements", [1, 2**15, 2**24])
@pytest.mark.parametrize("size", SIZES)
def test_fast_attention(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], elements: int
) -> None:
    """However many heads' biases are formed at once."""
    monkeypatch.setattr(encoder, "_BIAS_ELEMENTS", elements)
    found, expected = both(size)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_fast_attention_has_the_gradients_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(1)
    B, M, H, W, E = 2, 3, 4, 5, 8
    shapes = [(B, M, H, W, size) for size in (E, E, E, H, W)]
    values = [
        torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes
    ]
    weights = torch.randn(shapes[0], generator=generator, dtype=torch.float64)
    found, expected = (
        torch.autograd.grad((attention(*values) * weights).sum(), values)
        for attention in (encoder.attend, plain_attention)
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 0.01
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
