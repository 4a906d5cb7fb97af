# SPDX-License-Identifier: Apache-2.0
"""Parts of the network as `prepare` rewrites them: the same function for inference."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros.model.common import at_least_float32, channel_products
from mmsam_ros.model.deformable import DeformableAttention, Shapes, attend_points
from mmsam_ros.model.encoder import Block, attend, relative_positions
from mmsam_ros.model.fusion import (
    DetailBranch,
    GlobalBranch,
    RoadFusion,
)


class Operations(NamedTuple):
    """Operations for which a device may have a kernel of its own."""

    attend: Callable[..., Tensor]  # as `encoder.attend`
    attend_points: Callable[..., Tensor]  # as `deformable.attend_points`


PLAIN = Operations(attend, attend_points)
# names of layers that compute in float32 under autocast, too
EXACT = ("sampling", "classifier")


def linear_of(weight: Tensor, bias: Tensor | None, like: Tensor) -> nn.Linear:
    """A linear layer with this matrix, in the dtype of `like`."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.to(like.dtype), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.to(like.dtype), requires_grad=False)
    return layer


def conv_of(kernel: Tensor, bias: Tensor | None, like: Tensor, groups: int = 1) -> nn.Conv2d:
    """A convolution with this kernel (out, in[, k, k]) that keeps the size of maps."""
    kernel = kernel if kernel.ndim == 4 else kernel[..., None, None]
    out_channels, in_channels, side, _ = kernel.shape
    conv = nn.Conv2d(
        in_channels * groups, out_channels, side, padding=side // 2, groups=groups,
        bias=bias is not None, device="meta",
    )  # fmt: skip
    conv.weight = nn.Parameter(kernel.to(like.dtype), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.to(like.dtype), requires_grad=False)
    return conv


def channels_last(x: Tensor) -> Tensor:
    """The same map: on a CPU, depthwise convolutions and resizing take a tenth of the time."""
    return x.contiguous(memory_format=torch.channels_last)


class LeanBlock(nn.Module):
    """`Block` without padding: the tokens that a window lacks are replaced by one key.

    A padded token is zero after the norm, so its query is not needed, and its key and value are
    the biases. A bias of the keys adds the same to all of a query's scores, which the softmax
    cancels; the values' bias, as attention sums to one, moves through `proj`. Without them padded
    keys and values are zero: their scores are their position terms, and all of them together are
    one key with the logarithm of their exponentials' sum.
    """

    def __init__(self, block: Block, operations: Operations = PLAIN) -> None:
        super().__init__()
        attention, self.operations = block.attn, operations
        self.window, self.num_heads = block.window, attention.num_heads
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w
        qkv, proj = attention.qkv, attention.proj
        q_bias, _, v_bias = qkv.bias.double().chunk(3)
        bias = torch.cat([q_bias, q_bias.new_zeros(2 * len(q_bias))])
        self.qkv = linear_of(qkv.weight, bias, qkv.weight)
        moved = proj.weight.double() @ v_bias + proj.bias.double()
        self.proj = linear_of(proj.weight, moved, proj.weight)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x_BHWC = x_BHWC + self.proj(self._attend(self.qkv(self.norm1(x_BHWC))))
        return x_BHWC + self.mlp(self.norm2(x_BHWC))

    def _attend(self, qkv_BHWC: Tensor) -> Tensor:
        """Windows of one size together: the whole ones, and those that the border cuts."""
        _, H, W, _ = qkv_BHWC.shape
        size = (self.window, self.window) if self.window else (H, W)
        positions = [
            relative_positions(table, side)
            for table, side in zip((self.rel_pos_h, self.rel_pos_w), size, strict=True)
        ]
        lines = [
            torch.cat([self._windows(part, size, positions) for part in _cut(line, 2, size[1])], 2)
            for line in _cut(qkv_BHWC, 1, size[0])
        ]
        return torch.cat(lines, dim=1)

    def _windows(self, qkv_BhwC: Tensor, size: tuple[int, int], positions: list[Tensor]) -> Tensor:
        """Part of the image whose windows have the same number of tokens, at most `size`."""
        B, h, w, _ = qkv_BhwC.shape
        height, width = min(h, size[0]), min(w, size[1])
        grid = (B, h // height, height, w // width, width)
        qkv = qkv_BhwC.view(*grid, 3, self.num_heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = qkv.flatten(1, 3)  # each (windows, heads, height, width, E)
        by_row = torch.einsum("bmhwe,hke->bmhwk", q, positions[0][:height])
        by_column = torch.einsum("bmhwe,wke->bmhwk", q, positions[1][:width])
        rows, beyond_rows = by_row[..., :height], by_row[..., height:]
        columns, beyond_columns = by_column[..., :width], by_column[..., width:]
        beyond = []
        if beyond_rows.shape[-1]:
            beyond.append(beyond_rows.logsumexp(-1) + by_column.logsumexp(-1))
        if beyond_columns.shape[-1]:
            beyond.append(rows.logsumexp(-1) + beyond_columns.logsumexp(-1))
        absent = torch.stack(beyond).logsumexp(0) if beyond else None
        out = self.operations.attend(q, k, v, rows, columns, absent)
        out = out.unflatten(0, (B, grid[1], grid[3]))
        return out.permute(0, 1, 4, 2, 5, 3, 6).reshape(B, h, w, -1)


def _cut(x: Tensor, dim: int, size: int) -> list[Tensor]:
    """The part of an axis that whole windows fill, and the rest, if there are any."""
    length = x.shape[dim]
    whole = length // size * size
    parts = x.split([whole, length - whole], dim)
    return [part for part in parts if part.shape[dim]]


class LeanDeformable(nn.Module):
    """`DeformableAttention` with offsets and weights from one layer, in float32."""

    def __init__(self, attention: DeformableAttention, operations: Operations = PLAIN) -> None:
        super().__init__()
        self.operations = operations
        self.shape = (attention.num_heads, attention.num_levels, attention.num_points)
        layers = attention.sampling_offsets, attention.attention_weights
        weight = torch.cat([layer.weight for layer in layers])
        self.sampling = linear_of(weight, torch.cat([layer.bias for layer in layers]), weight)
        self.value_proj, self.output_proj = attention.value_proj, attention.output_proj

    def forward(
        self, query_BQC: Tensor, points_1Q12: Tensor, feat_BSC: Tensor, shapes: Shapes
    ) -> Tensor:
        value = self.value_proj(feat_BSC).unflatten(-1, (self.shape[0], -1))
        with torch.autocast(query_BQC.device.type, enabled=False):
            both = self.sampling(at_least_float32(query_BQC))
            count = both.shape[-1] // 3
            offsets = both[..., : 2 * count].unflatten(-1, (*self.shape, 2))
            weights = both[..., 2 * count :].unflatten(-1, self.shape)
            sampled = self.operations.attend_points(value, offsets, weights, points_1Q12, shapes)
        return self.output_proj(sampled.to(value.dtype))


class NormedProduct(nn.Module):
    """W LN(c) + b of tokens c with W g c appended, where g is the norm's gain and h its bias.

    W LN(c) + b = (W g c - mean(c) W g 1) / std(c) + W h + b
    """

    rows: Tensor
    bias: Tensor

    def __init__(self, norm: nn.LayerNorm, layer: nn.Linear) -> None:
        super().__init__()
        self.eps, wide = norm.eps, layer.weight.double() * norm.weight.double()
        bias = layer.weight.double() @ norm.bias.double() + layer.bias.double()
        self.register_buffer("rows", wide.sum(1).to(layer.weight.dtype))
        self.register_buffer("bias", bias.to(layer.weight.dtype))

    def forward(self, tokens: Tensor) -> Tensor:
        count = len(self.bias)
        product = at_least_float32(tokens[..., -count:])
        var, mean = torch.var_mean(
            at_least_float32(tokens[..., :-count]), -1, correction=0, keepdim=True
        )
        return (product - mean * self.rows) * (var + self.eps).rsqrt() + self.bias


class LeanGlobal(nn.Module):
    """`GlobalBranch` with one grouped convolution, and one product with the values.

    A 1x1 convolution without bias before a 3x3 one is one 3x3 convolution. Scores of unit vectors
    are scores divided by the lengths. P (A v) = (P A) v, where P A is small.
    """

    def __init__(self, branch: GlobalBranch) -> None:
        super().__init__()
        self.norm, self.temperature = branch.norm, branch.temperature
        self.num_heads, groups = branch.num_heads, branch.qkv.groups
        first, second = branch.qkv.weight.double(), branch.qkv_conv.weight.double()
        kernel = torch.einsum(
            "goiyx,gic->gocyx", second.unflatten(0, (groups, -1)),
            first.flatten(1).unflatten(0, (groups, -1)),
        )  # fmt: skip
        self.qkv = conv_of(kernel.flatten(0, 1), None, branch.qkv.weight, groups)
        heads = branch.proj.weight.flatten(1).unflatten(1, (self.num_heads, -1)).transpose(0, 1)
        self.register_buffer("proj", heads * branch.residual_scale)  # (heads, d, d/heads)

    def forward(self, x: Tensor) -> Tensor:
        B, d, h, w = x.shape
        n = self.norm(x)
        qkv = self.qkv(n.contiguous()).reshape(B, 3, self.num_heads, d // self.num_heads, h * w)
        with torch.autocast(x.device.type, enabled=False):
            q, k, v = at_least_float32(qkv).unbind(1)  # each (B, heads, d/heads, hw)
            lengths = [y.norm(dim=-1).clamp(min=1e-12) for y in (q, k)]
            scores = channel_products(q, k) / (lengths[0][..., :, None] * lengths[1][..., None, :])
            mix = self.proj @ (scores * self.temperature).softmax(dim=-1)  # (B, heads, d, d/heads)
            mixed = mix.transpose(1, 2).flatten(2) @ v.flatten(1, 2)
        return (x + n).contiguous() + mixed.to(qkv.dtype).view(B, d, h, w)


class LeanDetail(nn.Module):
    """`DetailBranch` with depthwise convolutions.

    A group has two inputs and two outputs. Channels are put in the order of their place in the
    group, so that two depthwise convolutions give the parts of one input in the first half of
    their channels, and those of the other in the second half.
    """

    def __init__(self, branch: DetailBranch, scale: Tensor) -> None:
        super().__init__()
        count = branch.conv.groups
        self.project_in = conv_of(_by_place(branch.project_in.weight), None, scale)
        places = branch.conv.weight.unflatten(0, (count, 2))  # (groups, out, in, 3, 3)
        straight = torch.cat([places[:, 0, 0], places[:, 1, 1]])
        crossed = torch.cat([places[:, 1, 0], places[:, 0, 1]])
        self.straight = conv_of(straight[:, None], None, scale, 2 * count)
        self.crossed = conv_of(crossed[:, None], None, scale, 2 * count)
        out = _by_place(branch.project_out.weight.transpose(0, 1)).transpose(0, 1)
        self.project_out = conv_of(out * scale, None, scale)

    def forward(self, x: Tensor) -> Tensor:
        y = channels_last(self.project_in(x))
        straight, crossed = self.straight(y).chunk(2, 1), self.crossed(y).chunk(2, 1)
        gated = []
        for one, other in zip(straight, reversed(crossed), strict=True):
            gate, value = (one + other).chunk(2, 1)
            gated.append(F.gelu(gate) * value)
        return self.project_out(torch.cat(gated, dim=1))


def _by_place(weight: Tensor) -> Tensor:
    """Rows 0, 2, 4, …, then rows 1, 3, 5, …"""
    return torch.cat([weight[::2], weight[1::2]])


class LeanFusion(nn.Module):
    """`RoadFusion` with its scalars and batch norm inside the layers."""

    def __init__(self, fusion: RoadFusion) -> None:
        super().__init__()
        self.global_rgb, self.global_aux = map(LeanGlobal, (fusion.global_rgb, fusion.global_aux))
        self.local_rgb, self.local_aux = fusion.local_rgb, fusion.local_aux
        self.cross, self.recalibration = fusion.cross, fusion.recalibration
        self.detail = LeanDetail(fusion.detail, fusion.detail_scale)
        self.global_scale = fusion.global_scale
        self.coordinate = fusion.coordinate

    def forward(self, rgb: Tensor, aux: Tensor) -> Tensor:
        fused = self.recalibration(self.cross(self.global_rgb(rgb), self.global_aux(aux)))
        detail = self.detail(torch.cat([self.local_rgb(rgb), self.local_aux(aux)], dim=1))
        return self.coordinate(self.global_scale * fused + detail.contiguous())


class SplitHead(nn.Module):
    """`SegFormerHead` on maps whose stride-4 level is convolved already.

    The fusing convolution of a concatenation is a sum of one for each level, which runs before the
    level is resized.
    """

    def __init__(self, head: Any, levels: list[nn.Conv2d]) -> None:
        super().__init__()
        self.levels, self.classifier = nn.ModuleList(levels), head.classifier
        fuse: Any = head.fuse
        conv, norm = fuse.conv, fuse.norm
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        bias = norm.bias.double() - norm.running_mean.double() * scale
        parts = (scale[:, None] * conv.weight.flatten(1).double()).chunk(len(levels) + 1, 1)
        self.fuse = nn.ModuleList(
            conv_of(part, None if i else bias, conv.weight) for i, part in enumerate(parts)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        size = maps[0].shape[-2:]
        fused = channels_last(self.fuse[0](F.relu(maps[0])))
        for level, fuse, x in zip(self.levels, self.fuse[1:], maps[1:], strict=True):
            part = channels_last(fuse(F.relu(level(x))))
            fused = fused + F.interpolate(part, size=size, mode="bilinear", align_corners=False)
        with torch.autocast(fused.device.type, enabled=False):
            return self.classifier(at_least_float32(F.relu(fused)))
