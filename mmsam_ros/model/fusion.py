# SPDX-License-Identifier: Apache-2.0
"""Road-Fusion of RGB and auxiliary features at one level (arXiv 2509.10408, 3.3).

Shapes: B batch, d channels of one modality, D of a fused map (2 d, or d by addition), (h, w) the
level's map. Where values leave the range of half precision (spatial sums, un-normalised products up
to 1e5) they are computed in at least float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros.model.common import LayerNorm2d, at_least_float32, channel_products
from mmsam_ros.model.config import FusionConfig

Rows = Tensor | slice  # samples of a batch that have an auxiliary; a slice if all do


class GlobalBranch(nn.Module):
    """Channel attention within one modality: x + n + residual_scale * proj(A v), n = LN(x)."""

    def __init__(self, dim: int, config: FusionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.norm = LayerNorm2d(dim, eps=1e-5)
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, groups=config.groups, bias=False)
        self.qkv_conv = nn.Conv2d(3 * dim, 3 * dim, 3, padding=1, groups=config.groups, bias=False)
        self.proj = nn.Conv2d(dim, dim, 1, bias=False)
        self.temperature = nn.Parameter(torch.ones(config.num_heads, 1, 1))
        self.residual_scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        B, d, h, w = x.shape
        n = self.norm(x)
        qkv = self.qkv_conv(self.qkv(n)).view(B, 3, self.num_heads, d // self.num_heads, h * w)
        with torch.autocast(x.device.type, enabled=False):
            q, k, v = at_least_float32(qkv).unbind(1)  # each (B, heads, d/heads, hw)
            # unit length along space, so the product over hw positions stays within [-1, 1]
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
            attention = (channel_products(q, k) * self.temperature).softmax(dim=-1)
            mixed = attention @ v
        return x + n + self.residual_scale * self.proj(mixed.to(qkv.dtype).view(B, d, h, w))


class LocalBranch(nn.Module):
    """Inverted bottleneck on one modality's raw map, scaled by a learned scalar (initially 0)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(dim, 2 * dim, 1, bias=False)
        self.depthwise = nn.Conv2d(2 * dim, 2 * dim, 3, padding=1, groups=2 * dim, bias=False)
        self.reduce = nn.Conv2d(2 * dim, dim, 1, bias=False)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.depthwise(F.relu6(self.expand(x))))
        return self.scale * self.reduce(y) + x


class CrossModalAttention(nn.Module):
    """Un-normalised channel attention between the modalities, then a LayerNorm over space.

    The norm has one weight per position, which binds the network to an image area.
    """

    def __init__(self, area: int) -> None:
        super().__init__()
        self.gamma_rgb = nn.Parameter(torch.zeros(()))
        self.gamma_aux = nn.Parameter(torch.zeros(()))
        self.norm = nn.LayerNorm(area, eps=1e-5)

    def forward(self, rgb: Tensor, aux: Tensor) -> Tensor:
        B, d, h, w = rgb.shape
        with torch.autocast(rgb.device.type, enabled=False):
            r, a = (at_least_float32(x).flatten(2) for x in (rgb, aux))  # (B, d, hw)
            product = channel_products(r, a)  # (B, d, d)
            r_new = self.gamma_rgb * (product.softmax(dim=-1) @ a) + r
            a_new = self.gamma_aux * (product.transpose(1, 2).softmax(dim=-1) @ r) + a
            fused = self.norm(torch.cat([r_new, a_new], dim=1))
        return fused.to(rgb.dtype).view(B, 2 * d, h, w)


class DetailBranch(nn.Module):
    """Gated convolution over both local branches' maps; no residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(dim, 2 * dim, 1, bias=False)
        self.conv = nn.Conv2d(2 * dim, 2 * dim, 3, padding=1, groups=dim, bias=False)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.conv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(gate) * value)


class Recalibration(nn.Module):
    """Channel gate sigmoid(ReLU(GN(conv(mean)))), so never below one half: x + x * gate."""

    def __init__(self, dim: int, norm_groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 1, bias=False)
        self.norm = nn.GroupNorm(norm_groups, dim, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.norm(self.conv(F.adaptive_avg_pool2d(x, 1)))
        return x + x * F.relu(gate).sigmoid()


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that leaves its statistics alone where a batch holds no sample."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 0:
            return x * self.weight[:, None, None] + self.bias[:, None, None]
        return super().forward(x)


class CoordinateAttention(nn.Module):
    """Gates per row and per column (arXiv 2103.02907), with a residual: x + x * g_w * g_h."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = max(8, dim // 32)
        self.reduce = nn.Conv2d(dim, hidden, 1)
        self.norm = BatchNorm(hidden)
        self.gate_h = nn.Conv2d(hidden, dim, 1)
        self.gate_w = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        rows = x.mean(dim=3, keepdim=True)  # (B, D, h, 1)
        columns = x.mean(dim=2, keepdim=True).transpose(2, 3)  # (B, D, w, 1)
        y = F.hardswish(self.norm(self.reduce(torch.cat([rows, columns], dim=2))))
        y_h, y_w = y.split([h, w], dim=2)
        g_h = self.gate_h(y_h).sigmoid()
        g_w = self.gate_w(y_w.transpose(2, 3)).sigmoid()  # (B, D, 1, w)
        return x + x * g_w * g_h


class RoadFusion(nn.Module):
    """Two maps (B, d, h, w) of one level -> their fusion (B, 2 d, h, w); h * w is `area`."""

    def __init__(self, dim: int, area: int, config: FusionConfig) -> None:
        super().__init__()
        self.global_rgb = GlobalBranch(dim, config)
        self.global_aux = GlobalBranch(dim, config)
        self.local_rgb = LocalBranch(dim)
        self.local_aux = LocalBranch(dim)
        self.cross = CrossModalAttention(area)
        self.detail = DetailBranch(2 * dim)
        self.recalibration = Recalibration(2 * dim, config.norm_groups)
        self.global_scale = nn.Parameter(torch.ones(()))
        self.detail_scale = nn.Parameter(torch.ones(()))
        self.coordinate = CoordinateAttention(2 * dim)

    def forward(self, rgb: Tensor, aux: Tensor) -> Tensor:
        fused = self.recalibration(self.cross(self.global_rgb(rgb), self.global_aux(aux)))
        detail = self.detail(torch.cat([self.local_rgb(rgb), self.local_aux(aux)], dim=1))
        return self.coordinate(self.global_scale * fused + self.detail_scale * detail)
