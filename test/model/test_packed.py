# SPDX-License-Identifier: Apache-2.0
"""Linear layers in oneDNN's layout are the plain ones."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from functools import partial
from itertools import combinations

import pytest
import torch
from support.networks import random_network, spec_of
from torch import nn

from mmsam_ros.inference import TorchEngine
from mmsam_ros.inference.engines import eager
from mmsam_ros.inference.export import sample_inputs
from mmsam_ros.model import MMSAMAdapter, pack, prepare
from mmsam_ros.model.packed import PackedLinear

pytestmark = [
    pytest.mark.usefixtures("float32"),
    pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN"),
]
SIZE = (64, 96)


def network(absent: str) -> MMSAMAdapter:
    spec = spec_of("synthetic_rgb_lidar_thermal", image_size=SIZE)
    combine = dataclasses.replace(spec.config.combine, absent=absent)
    return random_network(
        dataclasses.replace(spec, config=dataclasses.replace(spec.config, combine=combine))
    ).eval()


@torch.inference_mode()
@pytest.mark.parametrize("absent", ["masked", "fallback"])
def test_logits_are_those_of_plain_layers(absent: str) -> None:
    """With every set of sensors; all layers are packed, also those of a fallback."""
    model = network(absent)
    plain, packed = prepare(model), prepare(model)
    pack(packed, torch.float32, least=0)
    left = [name for name, m in packed.named_modules() if type(m) is nn.Linear]
    assert left
    assert all(name.endswith("sampling") for name in left)
    for count in range(3):
        for some in combinations(("lidar", "thermal"), count):
            given = sample_inputs(("rgb", *some), (2, 3, *SIZE))
            torch.testing.assert_close(packed(given), plain(given), rtol=1e-4, atol=1e-4)


def test_the_engine_packs_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = network("masked"), sample_inputs(("rgb", "lidar"), (1, 3, *SIZE))
    plain = TorchEngine(model, "cpu")
    monkeypatch.setattr(eager, "packing_pays", lambda: True)
    monkeypatch.setattr(eager, "pack", partial(pack, least=0))
    packed = TorchEngine(model, "cpu")
    kinds = {type(module) for module in packed.model.modules()}
    assert PackedLinear in kinds
    assert PackedLinear not in {type(module) for module in plain.model.modules()}
    torch.testing.assert_close(packed(given), plain(given), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_layer_that_two_networks_share_is_packed_once() -> None:
    layer = nn.Linear(8, 16)
    both = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer)})
    pack(both, torch.float32, least=0)
    assert isinstance(both["a"], PackedLinear)
    assert both["b"][0] is both["a"]


def test_small_layers_stay_and_large_weights_are_freed() -> None:
    net = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 4, bias=False))
    large, expected = weakref.ref(net[0].weight), net(torch.ones(3, 64)).detach()
    pack(net, torch.float32, least=1000)
    gc.collect()
    assert large() is None
    assert [type(layer) for layer in net] == [PackedLinear, nn.Linear]
    torch.testing.assert_close(net(torch.ones(3, 64)).detach(), expected)


@torch.inference_mode()
@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="oneDNN has no bf16 on this CPU",
)
def test_under_autocast_classes_are_those_of_float32() -> None:
    model = network("masked")
    plain, packed = prepare(model), prepare(model)
    pack(packed, torch.bfloat16, least=0)
    given = sample_inputs(("rgb", "lidar"), (1, 3, *SIZE))
    with torch.autocast("cpu", torch.bfloat16):
        found, like = packed(given), plain(given)
    expected = model(given)
    assert found.dtype == torch.float32
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.98
    assert (found - expected).norm() < 1.5 * (like - expected).norm()
