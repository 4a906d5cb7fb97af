# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels as operations that torch.compile leaves as they are.

It would trace into their launches otherwise. Importing this needs Triton.
"""

import torch
from torch import Tensor
from torch.library import custom_op

from mmsam_ros.model import triton_kernels
from mmsam_ros.model.deformable import Shapes
from mmsam_ros.model.rewritten import Operations


@custom_op("mmsam_ros::attend", mutates_args=())
def _attend(
    q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor, absent: Tensor | None
) -> Tensor:
    return triton_kernels.attend(q, k, v, by_row, by_column, absent)


@_attend.register_fake
def _attended(q: Tensor, k: Tensor, v: Tensor, *_: Tensor | None) -> Tensor:
    return v.new_empty(q.shape)


@custom_op("mmsam_ros::attend_points", mutates_args=())
def _attend_points(
    value: Tensor, offsets: Tensor, weights: Tensor, points: Tensor, sides: list[int]
) -> Tensor:
    shapes = list(zip(sides[::2], sides[1::2], strict=True))  # a schema has no list of pairs
    return triton_kernels.attend_points(value, offsets, weights, points, shapes)


@_attend_points.register_fake
def _sampled(value: Tensor, offsets: Tensor, *_: Tensor | list[int]) -> Tensor:
    B, Q = offsets.shape[:2]
    return value.new_empty((B, Q, value.shape[2] * value.shape[3]), dtype=torch.float32)


def attend(
    q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor,
    absent: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """See `encoder.attend`."""
    return _attend(q, k, v, by_row, by_column, absent)


def attend_points(
    value_BSME: Tensor, offsets_BQMLP2: Tensor, weights_BQMLP: Tensor, points_1Q12: Tensor,
    shapes: Shapes,
) -> Tensor:  # fmt: skip
    """See `deformable.attend_points`."""
    sides = [side for shape in shapes for side in shape]
    return _attend_points(value_BSME, offsets_BQMLP2, weights_BQMLP, points_1Q12, sides)


OPAQUE = Operations(attend, attend_points)
