# SPDX-License-Identifier: Apache-2.0
"""Engines compute logits from normalised inputs; all around them is the same for every engine."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Engine(Protocol):
    """A network on a device."""

    @property
    def name(self) -> str:
        """The name, such as "torch"."""

    @property
    def device(self) -> torch.device:
        """The device of inputs and logits."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Normalised images (B, 3, h, w) by modality, absent ones missing -> float32 logits
        (B, classes, h/4, w/4).
        """
