# SPDX-License-Identifier: Apache-2.0
"""Small faults to plant in a network: a numerical test that misses one proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from torch import Tensor, nn

from mmsam_ros.model import MMSAMAdapter, encoder, interaction

Fault = Callable[[MMSAMAdapter], AbstractContextManager[None]]


@contextmanager
def _output(module: nn.Module, change: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Replaces what a module gives by `change(its first input, its output)`."""
    handle = module.register_forward_hook(lambda _, inputs, output: change(inputs[0], output))
    yield
    handle.remove()


@contextmanager
def _function(owner: object, name: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replaces what a function of a module gives."""
    right = getattr(owner, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, lambda *args, **kwargs: change(right(*args, **kwargs)))
        yield


def _fusion(model: MMSAMAdapter) -> nn.Module:
    """Road-Fusion of the second level."""
    return model.prior.fusion[model.config.auxiliaries[0]][1]


FAULTS: dict[str, Fault] = {
    # one wrong sign
    "injector subtracts": lambda model: _output(
        model.interactions[1].injector, lambda x, y: 2 * x - y
    ),
    "attention of a global branch subtracts": lambda model: _output(
        _fusion(model).global_aux.proj, lambda _, y: -y
    ),
    # one index off by one
    "relative positions": lambda _: _function(
        encoder, "relative_positions", lambda y: y.roll(1, 0)
    ),
    "reference points": lambda _: _function(
        interaction, "reference_points", lambda y: y.roll(1, 1)
    ),
    "points of the sampler": lambda _: _function(
        interaction.F, "grid_sample", lambda y: y.roll(1, -1)
    ),
    # one lost gradient
    "a gate's gradient": lambda model: _output(
        _fusion(model).coordinate.gate_h, lambda _, y: y.detach()
    ),
    "an attention's gradient": lambda model: _output(
        model.encoder.blocks[1].attn.proj, lambda _, y: y.detach()
    ),
}
