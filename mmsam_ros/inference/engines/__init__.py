# SPDX-License-Identifier: Apache-2.0
"""What computes logits of normalised inputs; everything around it is the same for all engines."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Engine(Protocol):
    """A network on a device."""

    @property
    def name(self) -> str:
        """Such as "torch"."""

    @property
    def device(self) -> torch.device:
        """Where inputs have to be, and logits are."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Normalised images (B, 3, h, w) by modality, absent ones missing -> float32 logits
        (B, classes, h/4, w/4).
        """
