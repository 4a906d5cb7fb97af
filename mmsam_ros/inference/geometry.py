# SPDX-License-Identifier: Apache-2.0
"""From a frame's size to the network's input and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from mmsam_ros.weights import Geometry

Size = tuple[int, int]
Window = tuple[int, int, int, int]  # top, bottom, left, right


@dataclass(frozen=True)
class Plan:
    """What happens to frames of one size; all sizes are (height, width).

    Attributes:
        geometry: what it follows.
        native: size of the camera image.
        canvas: size that image and planes are brought to.
        padded: canvas with padding at the bottom and right; what the network or its windows see.
        output: size of the labels.
    """

    geometry: Geometry
    native: Size
    canvas: Size
    padded: Size
    output: Size

    @classmethod
    def of(cls, geometry: Geometry, native: Size) -> Plan:
        """The plan of a geometry for a camera image of `native` size, with labels at that size."""
        height, width = geometry.size
        if geometry.mode == "resize":
            return cls(geometry, native, geometry.size, geometry.size, native)
        if geometry.mode == "pad":
            scale = min(height / native[0], width / native[1])
            canvas = (
                min(max(round(native[0] * scale), 1), height),
                min(max(round(native[1] * scale), 1), width),
            )
            return cls(geometry, native, canvas, geometry.size, native)
        padded = (max(native[0], height), max(native[1], width))
        return cls(geometry, native, native, padded, native)

    def pad(self, image: Tensor, fill: Sequence[float] = (0.0, 0.0, 0.0)) -> Tensor:
        """Pad a normalised canvas (1, 3, h, w) with one value per channel."""
        if self.padded == self.canvas:
            return image
        padded = image.new_tensor(fill)[None, :, None, None].repeat(1, 1, *self.padded)
        padded[..., : self.canvas[0], : self.canvas[1]] = image
        return padded

    def logits(self, run: Callable[[Window], Tensor]) -> Tensor:
        """Logits (B, classes, *output) of what `run` gives for a part of the padded input."""
        if self.geometry.mode == "slide":
            assert self.geometry.stride is not None  # the geometry checks itself
            windows = slide_windows(self.padded, self.geometry.size, self.geometry.stride)
        else:
            windows = [(0, self.padded[0], 0, self.padded[1])]
        logits = average_windows(run, windows, self.padded)
        canvas = logits[..., : self.canvas[0], : self.canvas[1]]
        return resize_logits(canvas, self.output)


def resize_logits(logits: Tensor, size: Size) -> Tensor:
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


def average_windows(
    run: Callable[[Window], Tensor], windows: Sequence[Window], size: Size
) -> Tensor:
    """Mean over windows of their logits, each resized to its window: (B, classes, *size)."""
    if len(windows) == 1:
        return resize_logits(run(windows[0]), size)
    total: Tensor | None = None
    for window in windows:
        top, bottom, left, right = window
        logits = resize_logits(run(window), (bottom - top, right - left))
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], *size)
            count = logits.new_zeros(size)
        total[:, :, top:bottom, left:right] += logits
        count[top:bottom, left:right] += 1
    assert total is not None
    return total / count
