# SPDX-License-Identifier: Apache-2.0
"""A network with the interface of ours that is exported in a second, where it does not matter which
one it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmsam_ros.model import ModelConfig


class PixelNetwork(nn.Module):
    """The sum of one convolution for each present modality; it is prepared already."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.config = config
        self.layers = nn.ModuleDict(
            {name: nn.Conv2d(3, config.num_classes, 4, stride=4) for name in config.modalities}
        )

    def forward(self, inputs: Mapping[str, Tensor], present: Any = None) -> Tensor:
        return torch.stack([self.layers[name](image) for name, image in inputs.items()]).sum(0)
