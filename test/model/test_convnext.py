# SPDX-License-Identifier: Apache-2.0
"""The trunk is timm's ConvNeXt without its head; small layers are those of timm and torchvision."""

from __future__ import annotations

import pytest
import timm.layers
import torch
from support.randomise import randomise
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from mmsam_ros.model import ModelConfig, TrunkConfig
from mmsam_ros.model.common import DropPath
from mmsam_ros.model.convnext import ConvNeXtTrunk
from mmsam_ros.model.prior import PlainPrior

CONFIG = TrunkConfig(depths=(2, 1, 3, 1), widths=(8, 16, 24, 32), drop_path_rate=0.3)


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("training", [False, True])
def test_equals_timm(training: bool) -> None:
    """Names, order of parameters and maps, bit for bit; the same samples are dropped."""
    theirs = ConvNeXt(
        depths=CONFIG.depths, dims=CONFIG.widths, drop_path_rate=CONFIG.drop_path_rate,
        num_classes=0, ls_init_value=1.0,
    )  # fmt: skip
    ours = ConvNeXtTrunk(CONFIG)
    names = [n for n in theirs.state_dict() if n.startswith(("stem.", "stages."))]
    assert [n for n in ours.state_dict() if not n.startswith("norms.")] == names
    randomise(theirs, seed=2)
    norms = {n: v for n, v in ours.state_dict().items() if n.startswith("norms.")}
    ours.load_state_dict({n: theirs.state_dict()[n] for n in names} | norms)
    theirs.train(training)
    ours.train(training)
    torch.manual_seed(5)
    x, expected = theirs.stem(image(4, 3, 64, 96)), []
    for stage in theirs.stages:
        x = stage(x)
        expected.append(timm.layers.LayerNorm2d(x.shape[1], eps=1e-6)(x))
    torch.manual_seed(5)
    found = ours(image(4, 3, 64, 96))
    assert [m.shape for m in found] == [m.shape for m in expected]
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.parametrize("shape", [(16, 3), (16, 3, 2, 2)])
def test_drop_path_equals_timm(rate: float, shape: tuple[int, ...]) -> None:
    layers = [DropPath(rate), timm.layers.DropPath(rate)]
    found = []
    for layer in layers:
        torch.manual_seed(3)
        found.append(layer(image(*shape)))
        assert torch.equal(layer.eval()(image(*shape)), image(*shape))
    assert torch.equal(*found)
    assert bool((found[0] == 0).any()) == (rate > 0)


def test_plain_prior_has_torchvision_s_units() -> None:
    prior = PlainPrior(ModelConfig.preset("nano", num_classes=3, modalities=("rgb",)))
    units = [*prior.stem, *prior.stages]
    for unit in units:
        conv = unit[0]
        theirs = Conv2dNormActivation(
            conv.in_channels, conv.out_channels, 3, conv.stride[0], activation_layer=nn.ReLU
        )
        theirs.load_state_dict(randomise(unit.eval(), seed=1).state_dict())
        x = image(1, conv.in_channels, 9, 8)
        assert torch.equal(unit(x), theirs.eval()(x))
    assert [unit[0].stride[0] for unit in units] == [2, 1, 1, 2, 2, 2]
