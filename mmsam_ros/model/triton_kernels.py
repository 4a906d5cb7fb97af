# SPDX-License-Identifier: Apache-2.0
"""Attention and deformable sampling as one Triton kernel each, for inference on CUDA.

`encoder.attend` and `deformable.attend_points` compute the same in plain PyTorch. Importing
this needs Triton, which PyTorch for CUDA brings along.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmsam_ros.model.deformable import Shapes
from mmsam_ros.model.rewritten import Operations

_QUERIES, _SAMPLED_QUERIES = 64, 32  # of a program


@triton.jit
def _attend(
    q_ptr, k_ptr, v_ptr, row_ptr, column_ptr, absent_ptr, out_ptr,
    q_pair, q_token, k_pair, k_token, v_pair, v_token, tokens, scale,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, HAS_ABSENT: tl.constexpr,
    PRECISION: tl.constexpr, E: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """A block of queries of one head reads the keys in parts of a line, one after the other, with a
    running maximum and sum. Within a line the rows' bias is one number for each query.
    """
    pair = tl.program_id(0).to(tl.int64)  # of window and head; this axis has no limit of 65535
    query = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    channel, key = tl.arange(0, E), tl.arange(0, KEYS)
    known, real = query < tokens, channel < CHANNELS
    q_at = q_ptr + pair * q_pair + query[:, None] * q_token + channel[None, :]
    q = tl.load(q_at, mask=known[:, None] & real[None, :], other=0.0)
    row_at = row_ptr + pair * tokens * HEIGHT + query * HEIGHT
    column_at = column_ptr + pair * tokens * WIDTH + query * WIDTH
    k_at = k_ptr + pair * k_pair + key[None, :] * k_token + channel[:, None]
    v_at = v_ptr + pair * v_pair + key[:, None] * v_token + channel[None, :]
    if HAS_ABSENT:  # a key with this score and the value zero
        best = tl.load(absent_ptr + pair * tokens + query, mask=known, other=0.0).to(tl.float32)
        total = tl.full((QUERIES,), 1.0, tl.float32)
    else:
        best = tl.full((QUERIES,), float("-inf"), tl.float32)
        total = tl.zeros((QUERIES,), tl.float32)
    out = tl.zeros((QUERIES, E), tl.float32)
    for line in range(HEIGHT):
        row = tl.load(row_at + line, mask=known, other=0.0).to(tl.float32)
        for first in range(0, WIDTH, KEYS):
            token, there = line * WIDTH + first, first + key < WIDTH
            both = known[:, None] & there[None, :]
            k = tl.load(k_at + token * k_token, mask=there[None, :] & real[:, None], other=0.0)
            column = tl.load(column_at[:, None] + (first + key)[None, :], mask=both, other=0.0)
            bias = row[:, None] + column.to(tl.float32)
            scores = tl.dot(q, k, input_precision=PRECISION) * scale + bias
            scores = tl.where(there[None, :], scores, float("-inf"))
            higher = tl.maximum(best, tl.max(scores, 1))
            shares, kept = tl.exp(scores - higher[:, None]), tl.exp(best - higher)
            v = tl.load(v_at + token * v_token, mask=there[:, None] & real[None, :], other=0.0)
            read = tl.dot(shares.to(v.dtype), v, input_precision=PRECISION)
            out, total = out * kept[:, None] + read, total * kept + tl.sum(shares, 1)
            best = higher
    out_at = out_ptr + pair * tokens * CHANNELS + query[:, None] * CHANNELS + channel[None, :]
    out = (out / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_at, out, mask=known[:, None] & real[None, :])


def attend(
    q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor,
    absent: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """See `encoder.attend`."""
    B, M, H, W, E = q.shape
    q, k, v = (x.reshape(B * M, H * W, E) for x in (q, k, v))
    out = torch.empty((B, M, H, W, E), dtype=v.dtype, device=v.device)
    # three products of TF32's tensor cores are as exact as one of float32
    precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"
    given = [x.contiguous() for x in (by_row, by_column, by_row if absent is None else absent)]
    strides = [x.stride(i) for x in (q, k, v) for i in (0, 1)]
    with torch.cuda.device_of(v):  # Triton launches on the current one
        _attend[B * M, triton.cdiv(H * W, _QUERIES)](
            q, k, v, *given, out, *strides, H * W, E**-0.5,
            HEIGHT=H, WIDTH=W, CHANNELS=E, HAS_ABSENT=absent is not None,
            PRECISION=precision, E=max(16, triton.next_power_of_2(E)), QUERIES=_QUERIES,
            KEYS=min(64, max(16, triton.next_power_of_2(W))), num_stages=2 if v.itemsize < 4 else 1,
        )  # fmt: skip
    return out


@triton.jit
def _add_samples(
    out, share, x, y, known, real, value_ptr, token_stride, channel,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Adds `share` of the bilinear samples at places (x, y) of a level, in pixels; 0 outside."""
    left, top = tl.floor(x), tl.floor(y)
    for down in tl.static_range(2):
        for right in tl.static_range(2):
            column, row = left + right, top + down
            # floats are compared: what is far outside, or not finite, fits no integer
            inside = known & (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
            token = tl.where(inside, row * WIDTH + column, 0.0).to(tl.int32)
            value = tl.load(
                value_ptr + (token * token_stride)[:, None] + channel[None, :],
                mask=inside[:, None] & real[None, :], other=0.0,
            )  # fmt: skip
            part = share * (1 - tl.abs(x - column)) * (1 - tl.abs(y - row))
            out += part[:, None] * value.to(tl.float32)
    return out


@triton.jit
def _attend_points(
    value_ptr, offset_ptr, weight_ptr, point_ptr, out_ptr,
    offset_batch, offset_query, weight_batch, weight_query, queries, tokens,
    SHAPES: tl.constexpr, LEVELS: tl.constexpr, HEADS: tl.constexpr, POINTS: tl.constexpr,
    CHANNELS: tl.constexpr, SAMPLES: tl.constexpr, E: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    """A block of queries of one head: softmax of the weights, places, bilinear samples, sum."""
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    known, channel, sample = query < queries, tl.arange(0, E), tl.arange(0, SAMPLES)
    real = channel < CHANNELS
    weight_at = weight_ptr + batch * weight_batch + query * weight_query + head * LEVELS * POINTS
    counted = known[:, None] & (sample < LEVELS * POINTS)[None, :]
    weights = tl.load(weight_at[:, None] + sample[None, :], mask=counted, other=float("-inf"))
    highest = tl.where(known, tl.max(weights, 1), 0.0)
    total = tl.where(known, tl.sum(tl.exp(weights - highest[:, None]), 1), 1.0)
    offset_at = offset_ptr + batch * offset_batch + query * offset_query
    offset_at += head * LEVELS * POINTS * 2
    point_x = tl.load(point_ptr + 2 * query, mask=known, other=0.0)
    point_y = tl.load(point_ptr + 2 * query + 1, mask=known, other=0.0)
    out = tl.zeros((QUERIES, E), tl.float32)
    level_ptr = value_ptr + (batch * tokens * HEADS + head) * CHANNELS
    for level in tl.static_range(LEVELS):
        for point in range(POINTS):
            index = level * POINTS + point
            weight = tl.load(weight_at + index, mask=known, other=0.0)
            x = tl.load(offset_at + 2 * index, mask=known, other=0.0)
            y = tl.load(offset_at + 2 * index + 1, mask=known, other=0.0)
            out = _add_samples(
                out, tl.exp(weight - highest) / total,
                x + point_x * SHAPES[2 * level + 1] - 0.5, y + point_y * SHAPES[2 * level] - 0.5,
                known, real, level_ptr, HEADS * CHANNELS, channel,
                SHAPES[2 * level], SHAPES[2 * level + 1],
            )  # fmt: skip
        level_ptr += SHAPES[2 * level] * SHAPES[2 * level + 1] * HEADS * CHANNELS
    out_at = out_ptr + ((batch * queries + query) * HEADS + head)[:, None] * CHANNELS
    tl.store(out_at + channel[None, :], out, mask=known[:, None] & real[None, :])


def attend_points(
    value_BSME: Tensor, offsets_BQMLP2: Tensor, weights_BQMLP: Tensor, points_1Q12: Tensor,
    shapes: Shapes,
) -> Tensor:  # fmt: skip
    """See `deformable.attend_points`; values of half precision are read as they are."""
    B, S, M, E = value_BSME.shape
    _, Q, _, L, P = weights_BQMLP.shape
    value, points = value_BSME.contiguous(), points_1Q12.contiguous()
    offsets, weights = offsets_BQMLP2.flatten(2), weights_BQMLP.flatten(2)
    strides = [x.stride(i) for x in (offsets, weights) for i in (0, 1)]
    out = torch.empty((B, Q, M * E), dtype=torch.float32, device=value.device)
    with torch.cuda.device_of(value):
        _attend_points[triton.cdiv(Q, _SAMPLED_QUERIES), M, B](
            value, offsets, weights, points, out, *strides, Q, S,
            SHAPES=tuple(side for shape in shapes for side in shape), LEVELS=L, HEADS=M, POINTS=P,
            CHANNELS=E, SAMPLES=triton.next_power_of_2(L * P), E=triton.next_power_of_2(E),
            QUERIES=_SAMPLED_QUERIES,
        )  # fmt: skip
    return out


KERNELS = Operations(attend, attend_points)
