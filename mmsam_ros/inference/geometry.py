# SPDX-License-Identifier: Apache-2.0
"""From a frame's size to the network's input and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from mmsam_ros.inference.published import resize_logits
from mmsam_ros.weights import Geometry

Size = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """What happens to one frame size; all sizes are (height, width).

    Attributes:
        native: size of the camera image.
        canvas: size that image and rasters are brought to.
        padded: canvas with padding at the bottom and right; what the network or its windows see.
    """

    native: Size
    canvas: Size
    padded: Size

    @classmethod
    def of(cls, geometry: Geometry, native: Size) -> Plan:
        """The plan of a geometry for a camera image of `native` size."""
        height, width = geometry.size
        if geometry.mode == "resize":
            return cls(native, geometry.size, geometry.size)
        if geometry.mode == "pad":
            scale = min(height / native[0], width / native[1])
            canvas = (
                min(max(round(native[0] * scale), 1), height),
                min(max(round(native[1] * scale), 1), width),
            )
            return cls(native, canvas, geometry.size)
        return cls(native, native, (max(native[0], height), max(native[1], width)))

    def pad(self, image: Tensor) -> Tensor:
        """Pad a normalised canvas (…, h, w) with 0, as training pads."""
        bottom, right = self.padded[0] - self.canvas[0], self.padded[1] - self.canvas[1]
        return F.pad(image, (0, right, 0, bottom)) if bottom or right else image

    def restore(self, logits: Tensor) -> Tensor:
        """Logits of the padded input (B, classes, h, w) -> logits at the camera's size."""
        logits = resize_logits(logits, self.padded)
        return resize_logits(logits[..., : self.canvas[0], : self.canvas[1]], self.native)
