# SPDX-License-Identifier: Apache-2.0
"""The network prepared for inference is the same function as the plain one."""

from __future__ import annotations

import copy
from itertools import combinations
from typing import Any

import pytest
import torch
from support.randomise import randomise
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmsam_ros.model import MMSAMAdapter, ModelConfig, build_model
from mmsam_ros.model.common import channel_products, products_in_blocks
from mmsam_ros.model.prepared import prepare, store_halved

SEVERAL = ("rgb", "lidar", "thermal")
CASES: dict[str, dict[str, Any]] = {
    "published": {},
    "rgb": {"modalities": ("rgb",)},
    "masked": {"modalities": SEVERAL, "combine": {"absent": "masked", "gate": True}},
    "fallback": {"modalities": SEVERAL, "combine": {"absent": "fallback", "gate": True}},
    "no gate": {"modalities": SEVERAL, "combine": {"absent": "fallback"}},
    "concat": {"fusion": {"kind": "concat"}},
    "add": {"fusion": {"kind": "add"}},
    "shared": {"prior": {"shared": True}},
    "auxiliary": {"prior": {"reads_rgb": False}},
    "plain": {"modalities": ("rgb",), "prior": {"kind": "conv"}},
    "sam_head": {"modalities": ("rgb",), "prior": {"kind": "none"}},
    "entry": {"interaction": {"kind": "entry"}},
    "no_extractor": {"interaction": {"extractor": False}},
    "lora": {"encoder": {"lora_rank": 3, "lora_targets": ("q", "v", "lin2")}},
}


def network(case: str) -> MMSAMAdapter:
    """A network on which every branch shows; windows of 5 do not fit the grid of 8 x 12."""
    values = ModelConfig.preset("nano", num_classes=5).to_dict()
    for key, change in ({"encoder": {"window_size": 5}} | CASES[case]).items():
        values[key] = values[key] | change if isinstance(change, dict) else change
    model = build_model(ModelConfig.from_dict(values))
    randomise(model, seed=5)
    return model.eval()


def images(names: tuple[str, ...], size: tuple[int, int], batch: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    return {n: torch.randn(batch, 3, *size, generator=generator) for n in names}


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_plain_network(case: str) -> None:
    """For every set of modalities, at another size of the same area, too."""
    model = network(case)
    before = copy.deepcopy(model.state_dict())
    prepared = prepare(model)
    auxiliaries = model.config.auxiliaries
    for count in range(len(auxiliaries) + 1):
        for some in combinations(auxiliaries, count):
            for size in ((128, 192), (96, 256)):
                given = images(("rgb", *some), size, batch=2 if count == 1 else 1)
                expected = model(given)
                assert expected.std() > 0.05
                torch.testing.assert_close(prepared(given), expected, rtol=1e-8, atol=1e-8)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.usefixtures("float32")
@torch.no_grad()
def test_float32_rounds_alike() -> None:
    """The bar is 1e-3 on logits; products in another order stay far below."""
    model = network("masked").float()
    prepared, given = prepare(model), images(SEVERAL, (128, 192), batch=1)
    torch.testing.assert_close(prepared(given), model(given), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("float32")
@torch.no_grad()
def test_bfloat16_gives_the_same_classes() -> None:
    model = network("published").float()
    prepared, given = prepare(model), images(("rgb", "lidar"), (128, 192), batch=1)
    expected = model(given).argmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = prepared(given)
    assert logits.dtype == torch.float32
    assert (logits.argmax(1) == expected).float().mean() > 0.98


@torch.no_grad()
def test_gradients_and_weights_stay_with_the_given_network() -> None:
    model = network("rgb")
    prepared = prepare(model)
    assert prepare(model) is not prepared
    assert all(parameter.requires_grad for parameter in model.parameters())
    own = {id(p) for p in model.parameters()}
    shared = sum(p.numel() for p in prepared.parameters() if id(p) in own)
    assert shared > 0.5 * sum(p.numel() for p in model.parameters())  # no second copy in memory


@pytest.mark.slow
def test_vit_l_takes_fewer_operations() -> None:
    """Multiply-accumulates at 1024 x 1024; attention in plain products, which the counter sees."""
    config = ModelConfig.preset("vit_l", num_classes=25)
    with torch.device("meta"):
        model = build_model(config).eval()
    found = []
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model = model.to_empty(device="cpu")
        inputs = {name: torch.empty(1, 3, 1024, 1024) for name in config.modalities}
        for net in (model, prepare(model)):
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                net(inputs)
            found.append(counter.get_total_flops() / 2e9)
    assert found[0] == pytest.approx(2373.1, abs=0.1)
    assert found[1] == pytest.approx(2161.7, abs=0.1)


@torch.inference_mode()
@pytest.mark.parametrize("case", ["published", "fallback", "lora"])
def test_halved_weights_give_what_autocast_gives(case: str) -> None:
    """Bit by bit; and the network that was prepared keeps its own weights."""
    model = network(case).float()
    cast, halved = prepare(model), prepare(model)
    store_halved(halved)
    given = images(model.config.modalities, model.config.image_size, 1)
    inputs = {name: image.float() for name, image in given.items()}
    with torch.autocast("cpu", torch.bfloat16):
        for names in (("rgb",), model.config.modalities):
            some = {name: inputs[name] for name in names}
            assert torch.equal(halved(some), cast(some))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    kinds = {p.dtype for p in halved.parameters()}
    assert kinds == {torch.float32, torch.bfloat16}


def test_products_in_blocks_are_the_whole_products() -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(2, 3, c, 96, generator=generator, dtype=torch.float64) for c in (5, 7))
    torch.testing.assert_close(products_in_blocks(a, b, 8), a @ b.transpose(-2, -1))
    torch.testing.assert_close(channel_products(a, b), a @ b.transpose(-2, -1))
