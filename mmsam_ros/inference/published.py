# SPDX-License-Identifier: Apache-2.0
"""Inference with the published geometries, on prepared tensors.

The benchmark numbers are computed this way; a frame from sensors goes through the `Segmenter`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
Window = tuple[int, int, int, int]  # top, bottom, left, right
Network = Callable[[Tensor], Tensor]


def resize_logits(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear resize (B, classes, h, w) -> (B, classes, *size)."""
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def slide_windows(size: Size, crop: Size, stride: Size) -> list[Window]:
    """Windows over an image, row by row; one that would overrun ends at the border."""

    def starts(length: int, window: int, step: int) -> list[int]:
        count = max(length - window + step - 1, 0) // step + 1
        return [max(min(i * step, length - window), 0) for i in range(count)]

    return [
        (top, min(top + crop[0], size[0]), left, min(left + crop[1], size[1]))
        for top in starts(size[0], crop[0], stride[0])
        for left in starts(size[1], crop[1], stride[1])
    ]


def sliding_window(network: Network, image: Tensor, crop: Size, stride: Size) -> Tensor:
    """Mean of the windows' logits, each resized to its window, as for MUSES.

    Args:
        network: (B, C, h, w) -> logits (B, classes, h', w').
        image: (B, C, H, W).
        crop: (height, width) of a window.
        stride: step of the windows (rows, columns).

    Returns:
        (B, classes, H, W), float32.
    """

    def run(window: Window) -> Tensor:
        top, bottom, left, right = window
        return network(image[:, :, top:bottom, left:right])

    return average_windows(run, (image.shape[-2], image.shape[-1]), crop, stride)


def average_windows(
    run: Callable[[Window], Tensor], size: Size, crop: Size, stride: Size
) -> Tensor:
    """Mean over overlapping windows of what `run` gives for each: (B, classes, *size) float32."""
    total: Tensor | None = None
    for window in slide_windows(size, crop, stride):
        top, bottom, left, right = window
        logits = resize_logits(run(window).float(), (bottom - top, right - left))
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], *size)
            count = logits.new_zeros(size)
        total[:, :, top:bottom, left:right] += logits
        count[top:bottom, left:right] += 1
    assert total is not None  # slide_windows gives at least one
    return total / count
