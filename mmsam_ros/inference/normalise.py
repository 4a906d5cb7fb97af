# SPDX-License-Identifier: Apache-2.0
"""Channel values of sensors to the network's normalised channels, as the spec says."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmsam_ros.sensors import FIELDS
from mmsam_ros.weights import ModalityInput


def compose(planes: Mapping[str, Tensor], given: ModalityInput, size: tuple[int, int]) -> Tensor:
    """A modality's three raw channels (3, h, w) out of its sources' planes (C, h, w).

    Planes carry the channels that `sensors.FIELDS` names for the source's encoding; those of a
    missing source are zero.
    """
    channels = []
    for channel in given.channels:
        if channel.source in planes:
            fields = FIELDS[given.encoding[channel.source]]
            channels.append(planes[channel.source][fields.index(channel.field)])
        else:
            channels.append(torch.zeros(size))
    return torch.stack([c.float() for c in channels])


def is_blank(raw: Tensor) -> bool:
    """Whether every channel of (C, h, w) is constant: such a sensor shows nothing.

    Norms in the network would amplify it, so a network that can do without declares it absent.
    """
    return bool((raw.amax((1, 2)) == raw.amin((1, 2))).all())


def normalise(raw: Tensor, given: ModalityInput) -> Tensor:
    """(…, 3, h, w) raw -> raw * scale, minus the mean, over the deviation."""
    scale, mean, std = (
        torch.tensor(values, device=raw.device)[:, None, None]
        for values in (given.scale, given.mean, given.std)
    )
    return (raw * scale - mean) / std
