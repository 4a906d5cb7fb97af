# SPDX-License-Identifier: Apache-2.0
"""Injector and extractor between adapter tokens and encoder tokens (ViT-Adapter, 2205.08534).

x (B, HW, C) are the encoder's tokens on the stride-16 grid (H, W); c (B, 21 HW / 4, C) the
adapter's at strides 8, 16 and 32, one after the other.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros.model.common import DropPath, initialise
from mmsam_ros.model.config import InteractionConfig
from mmsam_ros.model.deformable import DeformableAttention, Shapes, reference_points, token_maps


class TokenGrids:
    """Grids (h, w) of the tokens of one image size, and their reference points."""

    def __init__(self, height: int, width: int, device: torch.device) -> None:
        self.encoder = [(height // 16, width // 16)]
        self.adapter = [(height // s, width // s) for s in (8, 16, 32)]
        self.encoder_points = reference_points(self.encoder, device)  # (1, HW, 1, 2)
        self.adapter_points = reference_points(self.adapter, device)  # (1, 21 HW / 4, 1, 2)


class ConvFFN(nn.Module):
    """Feed-forward with a depthwise 3x3 convolution, one kernel set for the three scales."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def reset_parameters(self) -> None:
        for layer in (self.fc1, self.fc2, self.dwconv):
            initialise(layer)

    def forward(self, c: Tensor, shapes: Shapes) -> Tensor:
        scales = [self.dwconv(m).flatten(2) for m in token_maps(self.fc1(c), shapes)]
        return self.fc2(F.gelu(torch.cat(scales, dim=-1)).transpose(1, 2))


class Injector(nn.Module):
    """Adapter tokens into the encoder: x + gamma * attention(LN(x), LN(c)), gamma from 1e-6."""

    def __init__(self, dim: int, config: InteractionConfig) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dim, eps=1e-6)
        self.feat_norm = nn.LayerNorm(dim, eps=1e-6)
        self.attn = DeformableAttention(dim, 3, config)
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
        self.attn = DeformableAttention(dim, 1, config)
        self.ffn_norm = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = ConvFFN(dim, int(dim * config.ffn_ratio))
        self.drop_path = DropPath(config.drop_path_rate)

    def forward(self, c: Tensor, x: Tensor, grids: TokenGrids) -> Tensor:
        read = self.attn(self.query_norm(c), grids.adapter_points, self.feat_norm(x), grids.encoder)
        c = c + read
        return c + self.drop_path(self.ffn(self.ffn_norm(c), grids.adapter))


class Interaction(nn.Module):
    """Injector, a range of encoder blocks, extractor and `extra` more, if there are extractors."""

    def __init__(self, dim: int, config: InteractionConfig, extra: int) -> None:
        super().__init__()
        self.injector = Injector(dim, config)
        self.extractor = Extractor(dim, config) if config.extractor else None
        extra = extra if config.extractor else 0
        self.extra_extractors = nn.ModuleList(Extractor(dim, config) for _ in range(extra))

    def forward(
        self, x: Tensor, c: Tensor, blocks: Callable[[Tensor], Tensor], grids: TokenGrids
    ) -> tuple[Tensor, Tensor]:
        """Returns (x, c) after this interaction; `blocks` maps tokens (B, H, W, C) to the same."""
        x = self.injector(x, c, grids)
        c = c[..., : x.shape[-1]]  # `prepare` appends to it what the first injector reads
        x = blocks(x.unflatten(1, grids.encoder[0])).flatten(1, 2)
        if self.extractor is not None:
            c = self.extractor(c, x, grids)
        for extractor in self.extra_extractors:
            c = extractor(c, x, grids)
        return x, c
