# SPDX-License-Identifier: Apache-2.0
"""Injector and extractor between adapter tokens and encoder tokens (ViT-Adapter, 2205.08534).

x (B, HW, C) are the encoder's tokens on the stride-16 grid (H, W); c (B, 21 HW / 4, C) the
adapter's at strides 8, 16 and 32, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from mmsam_ros.model.config import EncoderConfig, InteractionConfig
from mmsam_ros.model.deformable import DeformableAttention, Shapes, reference_points


@dataclass(frozen=True)
class TokenGrids:
    """Grids and reference points of one image size."""

    encoder: Shapes  # stride 16
    adapter: Shapes  # strides 8, 16, 32
    encoder_points: Tensor  # (1, HW, 1, 2)
    adapter_points: Tensor  # (1, 21 HW / 4, 1, 2)

    @classmethod
    def of(cls, height: int, width: int, device: torch.device) -> TokenGrids:
        """Grids for an image of `height` x `width` pixels."""
        encoder = [(height // 16, width // 16)]
        adapter = [(height // s, width // s) for s in (8, 16, 32)]
        return cls(
            encoder,
            adapter,
            reference_points(encoder, device),
            reference_points(adapter, device),
        )


class ConvFFN(nn.Module):
    """Feed-forward with a depthwise 3x3 convolution, one kernel set for the three scales."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, c: Tensor, shapes: Shapes) -> Tensor:
        y = self.fc1(c).transpose(1, 2)  # (B, hidden, tokens)
        scales = [
            self.dwconv(part.unflatten(-1, shape)).flatten(2)
            for part, shape in zip(y.split([h * w for h, w in shapes], -1), shapes, strict=True)
        ]
        return self.fc2(F.gelu(torch.cat(scales, dim=-1)).transpose(1, 2))


class Injector(nn.Module):
    """Adapter tokens into the encoder: x + gamma * attention(LN(x), LN(c)), gamma from 1e-6."""

    def __init__(self, dim: int, config: InteractionConfig) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dim, eps=1e-6)
        self.feat_norm = nn.LayerNorm(dim, eps=1e-6)
        self.attn = DeformableAttention(
            dim, config.num_heads, 3, config.num_points, config.value_ratio
        )
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x: Tensor, c: Tensor, grids: TokenGrids) -> Tensor:
        read = self.attn(self.query_norm(x), grids.encoder_points, self.feat_norm(c), grids.adapter)
        return x + self.gamma * read


class Extractor(nn.Module):
    """Encoder tokens into the adapter: attention, then a ConvFFN, each with a residual."""

    def __init__(self, dim: int, config: InteractionConfig) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dim, eps=1e-6)
        self.feat_norm = nn.LayerNorm(dim, eps=1e-6)
        self.attn = DeformableAttention(
            dim, config.num_heads, 1, config.num_points, config.value_ratio
        )
        self.ffn_norm = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = ConvFFN(dim, int(dim * config.ffn_ratio))
        self.drop_path = DropPath(config.drop_path_rate)

    def forward(self, c: Tensor, x: Tensor, grids: TokenGrids) -> Tensor:
        c = c + self.attn(
            self.query_norm(c), grids.adapter_points, self.feat_norm(x), grids.encoder
        )
        return c + self.drop_path(self.ffn(self.ffn_norm(c), grids.adapter))


class Interaction(nn.Module):
    """Injector, a range of encoder blocks, extractor (and extra extractors), if there are any."""

    def __init__(self, encoder: EncoderConfig, config: InteractionConfig, extra: int) -> None:
        super().__init__()
        self.injector = Injector(encoder.embed_dim, config)
        self.extractor = Extractor(encoder.embed_dim, config) if config.extractor else None
        self.extra_extractors = nn.ModuleList(
            Extractor(encoder.embed_dim, config) for _ in range(extra if config.extractor else 0)
        )

    def forward(
        self, x: Tensor, c: Tensor, blocks: Callable[[Tensor], Tensor], grids: TokenGrids
    ) -> tuple[Tensor, Tensor]:
        """Returns (x, c) after this interaction; `blocks` maps tokens (B, H, W, C) to the same."""
        x = self.injector(x, c, grids)
        x = blocks(x.unflatten(1, grids.encoder[0])).flatten(1, 2)
        if self.extractor is not None:
            c = self.extractor(c, x, grids)
        for extractor in self.extra_extractors:
            c = extractor(c, x, grids)
        return x, c
