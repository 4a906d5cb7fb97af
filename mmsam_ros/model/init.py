# SPDX-License-Identifier: Apache-2.0
"""Initialisation for training, as published; pretrained parts are loaded over it afterwards."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

from mmsam_ros.model.deformable import DeformableAttention
from mmsam_ros.model.fusion import CoordinateAttention, Recalibration
from mmsam_ros.model.interaction import ConvFFN
from mmsam_ros.model.plain_prior import PlainPrior
from mmsam_ros.model.prior import SpatialPrior

if TYPE_CHECKING:
    from mmsam_ros.model.network import MMSAMAdapter


def initialise(model: MMSAMAdapter) -> None:
    """Set every parameter that does not already start as published by its constructor."""
    if model.level_embed is not None:
        nn.init.normal_(model.level_embed)
    for module in model.encoder.modules():
        if isinstance(module, nn.Linear):
            _linear(module)
        elif isinstance(module, nn.Conv2d):
            _fan_out(module)
    if model.prior is not None:
        _initialise_prior(model.prior)
    if model.up is not None:
        _fan_out(model.up)
    for module in model.interactions.modules():
        if isinstance(module, ConvFFN):
            _linear(module.fc1)
            _linear(module.fc2)
            _fan_out(module.dwconv)
        elif isinstance(module, DeformableAttention):
            module.reset_parameters()
    for module in model.head.modules():
        if isinstance(module, nn.Conv2d):
            _kaiming(module)
    nn.init.normal_(model.head.classifier.weight, std=0.01)


def _initialise_prior(prior: SpatialPrior | PlainPrior) -> None:
    if isinstance(prior, PlainPrior):
        for module in [*prior.stem.modules(), *prior.stages.modules()]:
            if isinstance(module, nn.Conv2d):
                _fan_out(module)
    else:
        for module in prior.trunks.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
        for module in prior.fusion.modules():
            if isinstance(module, Recalibration | CoordinateAttention):
                for conv in module.children():
                    if isinstance(conv, nn.Conv2d):
                        _kaiming(conv)
    for projection in prior.projections:
        _fan_out(projection)


def _linear(module: nn.Linear) -> None:
    nn.init.trunc_normal_(module.weight, std=0.02)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _fan_out(module: nn.Module) -> None:
    """Normal with std sqrt(2 / fan_out), fan_out = k * k * out / groups; bias 0."""
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
    nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _kaiming(module: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if module.bias is not None:
        nn.init.zeros_(module.bias)
