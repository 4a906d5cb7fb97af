# SPDX-License-Identifier: Apache-2.0
"""With a fallback, RGB alone is a network of its own, and auxiliaries begin by adding nothing."""

from __future__ import annotations

import pytest
import torch
from support.randomise import randomise
from torch import Tensor

from mmsam_ros.model import (
    CombineConfig,
    MMSAMAdapter,
    ModelConfig,
    ModelError,
    PriorConfig,
    build_model,
    rgb_alone,
)

AUXILIARIES = ("lidar", "thermal")


def config(**changes: object) -> ModelConfig:
    combine = CombineConfig("fallback", gate=True)
    values = {"modalities": ("rgb", *AUXILIARIES), "combine": combine, **changes}
    return ModelConfig.preset("nano", num_classes=5, **values)


@pytest.fixture(scope="module")
def rgb_network() -> MMSAMAdapter:
    return randomise(build_model(config().of_rgb).eval(), seed=3)


@pytest.fixture(scope="module")
def network(rgb_network: MMSAMAdapter) -> MMSAMAdapter:
    """Random everywhere, with the RGB network as fallback."""
    net = randomise(build_model(config()).eval(), seed=5)
    assert net.fallback is not None
    net.fallback.load_state_dict(rgb_network.state_dict())
    return net


def images(batch: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    given = torch.randn(3, batch, 3, 128, 192, generator=generator)
    return dict(zip(("rgb", *AUXILIARIES), given, strict=True))


def masks(*rows: tuple[bool, bool]) -> dict[str, Tensor]:
    return dict(zip(AUXILIARIES, torch.tensor(rows).T, strict=True))


@torch.no_grad()
def test_rgb_alone_is_the_rgb_network_bit_for_bit(
    network: MMSAMAdapter, rgb_network: MMSAMAdapter
) -> None:
    given = images(3)
    expected = rgb_network({"rgb": given["rgb"]})
    assert torch.equal(network({"rgb": given["rgb"]}), expected)
    none = masks(*[(False, False)] * 3)
    assert torch.equal(network(given, none), expected)
    nothing = {name: torch.full_like(image, torch.nan) for name, image in given.items()}
    assert torch.equal(network({**nothing, "rgb": given["rgb"]}, none), expected)
    assert not torch.allclose(network(given), expected)


@torch.no_grad()
def test_a_mixed_batch_equals_its_samples(network: MMSAMAdapter) -> None:
    given, rows = images(4), [(True, True), (False, False), (False, True), (True, False)]
    mixed = network(given, masks(*rows))
    for i, row in enumerate(rows):
        own = {n: given[n][i : i + 1] for n, there in zip(AUXILIARIES, row, strict=True) if there}
        alone = network({"rgb": given["rgb"][i : i + 1], **own})
        torch.testing.assert_close(mixed[i : i + 1], alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_auxiliaries_begin_by_adding_nothing(rgb_network: MMSAMAdapter) -> None:
    net = build_model(config()).eval()
    assert net.fallback is not None
    net.fallback.load_state_dict(rgb_network.state_dict())
    net.begin_as_fallback()
    given = images(2)
    torch.testing.assert_close(net(given), rgb_network({"rgb": given["rgb"]}))


def test_training_leaves_the_fallback_alone(rgb_network: MMSAMAdapter) -> None:
    net = build_model(config())
    assert net.fallback is not None
    net.fallback.load_state_dict(rgb_network.state_dict())
    net.begin_as_fallback()
    net.train()
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    given = images(4)
    for present in (masks(*[(True, False), (False, True)] * 2), masks(*[(False, False)] * 4)):
        optimiser.zero_grad()
        net(given, present).square().mean().backward()
        assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
        optimiser.step()
    kept, expected = net.fallback.state_dict(), rgb_network.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in expected.items())
    with torch.no_grad():
        moved = (net.eval()(given) - rgb_network({"rgb": given["rgb"]})).abs().max()
    assert moved > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"prior": {"shared": True}},
        {"prior": {"reads_rgb": False}},
        {"modalities": ("rgb",)},
        {"interaction": {"kind": "entry"}},
    ],
)
def test_a_variant_without_an_rgb_network_of_its_own_is_refused(changes: dict[str, object]) -> None:
    values = {"combine": {"absent": "fallback"}, "modalities": ("rgb", *AUXILIARIES), **changes}
    if "interaction" in changes:
        whole = ModelConfig.preset("nano", num_classes=5).to_dict()["interaction"]
        values["interaction"] = {**whole, "kind": "entry"}
    with pytest.raises(ModelError, match=r"combine\.absent"):
        ModelConfig.preset("nano", num_classes=5, **values)


@torch.no_grad()
@pytest.mark.parametrize("absent", ["masked", "fallback", "shared"])
def test_the_rgb_network_can_be_taken_out(absent: str) -> None:
    combine = CombineConfig("fallback" if absent == "fallback" else "masked", gate=True)
    prior = PriorConfig(shared=absent == "shared")
    whole = randomise(build_model(config(combine=combine, prior=prior)).eval(), seed=9)
    rgb = images(2)["rgb"]
    torch.testing.assert_close(rgb_alone(whole).eval()({"rgb": rgb}), whole({"rgb": rgb}))
