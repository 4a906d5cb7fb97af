# SPDX-License-Identifier: Apache-2.0
"""Planes of a sensor to the network's normalised channels."""

from __future__ import annotations

import torch
from torch import Tensor

from mmsam_ros.sensors import Modality


def normalise(planes: Tensor, modality: Modality) -> Tensor:
    """(…, C, h, w) planes -> (…, 3, h, w): the modality's fields, scaled, minus mean, over std."""
    channels = planes[..., modality.channels, :, :].float()
    scale, mean, std = (
        torch.tensor(values, device=planes.device)[:, None, None]
        for values in (modality.scale, modality.mean, modality.std)
    )
    return (channels * scale - mean) / std
