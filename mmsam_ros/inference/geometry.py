# SPDX-License-Identifier: Apache-2.0
"""From a frame's size to the network's input and back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch.nn.functional as F
from torch import Tensor

from mmsam_ros.weights import Geometry

Size = tuple[int, int]
Window = tuple[int, int, int, int]  # top, bottom, left, right
Run = Callable[[Window], Tensor]  # logits of a window


@dataclass(frozen=True)
class Plan:
    """What happens to frames of one size; all sizes are (height, width)."""

    geometry: Geometry
    canvas: Size  # that the camera image and the planes are brought to
    padded: Size  # the canvas padded at the bottom and right; what the network or its windows see
    output: Size  # of the labels

    @classmethod
    def of(cls, geometry: Geometry, native: Size) -> Self:
        """The plan of a geometry for a camera image of `native` size, with labels at that size."""
        height, width = geometry.size
        if geometry.mode == "slide":
            return cls(geometry, native, (max(native[0], height), max(native[1], width)), native)
        canvas = geometry.size
        if geometry.mode == "pad":
            scale = min(height / native[0], width / native[1])
            rows, columns = (max(round(length * scale), 1) for length in native)
            canvas = (min(rows, height), min(columns, width))
        return cls(geometry, canvas, geometry.size, native)

    def pad(self, image: Tensor, fill: Sequence[float] = (0.0, 0.0, 0.0)) -> Tensor:
        """Pad a normalised canvas (1, 3, h, w) with one value per channel."""
        if self.padded == self.canvas:
            return image
        padded = image.new_tensor(fill)[None, :, None, None].repeat(1, 1, *self.padded)
        padded[..., : self.canvas[0], : self.canvas[1]] = image
        return padded

    def logits(self, run: Run) -> Tensor:
        """Logits (B, classes, *canvas); `run` gives those of one window of the padded input."""
        size = self.geometry.size  # `pad` and `resize`: one window, the whole padded input
        windows = slide_windows(self.padded, size, self.geometry.stride or size)
        logits = average_windows(run, windows, self.padded)
        return logits[..., : self.canvas[0], : self.canvas[1]]


def resize_maps(maps: Tensor, size: Size) -> Tensor:
    """Bilinear resize (B, C, h, w) -> (B, C, *size), without antialiasing."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


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


def average_windows(run: Run, windows: Sequence[Window], size: Size) -> Tensor:
    """Mean over windows of their logits, each resized to its window: (B, classes, *size)."""
    first = run(windows[0])
    if len(windows) == 1:
        return resize_maps(first, size)
    total, count = first.new_zeros(*first.shape[:2], *size), first.new_zeros(size)
    for index, window in enumerate(windows):
        top, bottom, left, right = window
        logits = run(window) if index else first
        total[:, :, top:bottom, left:right] += resize_maps(logits, (bottom - top, right - left))
        count[top:bottom, left:right] += 1
    return total / count
