# SPDX-License-Identifier: Apache-2.0
"""An absent auxiliary is the empty raster, whatever its buffer holds."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from support.randomise import randomise
from torch import Tensor

from mmsam_ros.model import MMSAMAdapter, ModelConfig, ModelError, build_model

EMPTY = (-0.2, 0.3, 0.1)


def network() -> MMSAMAdapter:
    config = ModelConfig.preset("nano", num_classes=5, empty=EMPTY)
    return randomise(build_model(config).eval(), seed=1)


@pytest.fixture(scope="module")
def model() -> MMSAMAdapter:
    return network()


def images(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    rgb, aux = torch.randn(2, batch, 3, 128, 192, generator=generator)
    return rgb, aux


@torch.no_grad()
def test_absent_equals_the_empty_raster(model: MMSAMAdapter) -> None:
    rgb, aux = images(2)
    raster = torch.tensor(EMPTY)[None, :, None, None].expand_as(rgb)
    expected = model({"rgb": rgb, "lidar": raster})
    torch.testing.assert_close(model({"rgb": rgb}), expected)
    assert (model({"rgb": rgb, "lidar": aux}) - expected).abs().max() > 0.1


@torch.no_grad()
def test_buffers_of_absent_samples_do_not_matter(model: MMSAMAdapter) -> None:
    rgb, aux = images(3)
    present = {"lidar": torch.tensor([True, False, True])}
    outputs = []
    for filler in (0.0, 5.0, float("nan")):
        buffer = aux.clone()
        buffer[1] = filler
        outputs.append(model({"rgb": rgb, "lidar": buffer}, present))
    assert bool(outputs[0].isfinite().all())
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@torch.no_grad()
def test_mixed_batch_equals_its_samples(model: MMSAMAdapter) -> None:
    rgb, aux = images(2)
    mixed = model({"rgb": rgb, "lidar": aux}, {"lidar": torch.tensor([True, False])})
    alone = [model({"rgb": rgb[:1], "lidar": aux[:1]}), model({"rgb": rgb[1:]})]
    torch.testing.assert_close(mixed, torch.cat(alone))


def test_gradients_of_a_mixed_batch_are_finite_and_skip_the_absent(model: MMSAMAdapter) -> None:
    rgb, aux = images(2)
    aux[1] = float("nan")
    aux.requires_grad_()
    model.zero_grad()
    model({"rgb": rgb, "lidar": aux}, {"lidar": torch.tensor([True, False])}).sum().backward()
    assert aux.grad is not None
    assert aux.grad[0].abs().sum() > 0
    assert aux.grad[1].abs().sum() == 0
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


@torch.no_grad()
def test_cached_features_follow_the_weights() -> None:
    model = build_model(ModelConfig.preset("nano", num_classes=5)).eval()
    randomise(model, seed=1)
    rgb, _ = images(1)
    model({"rgb": rgb})
    state = randomise(build_model(model.config), seed=2).state_dict()
    model.load_state_dict(state)
    fresh = build_model(model.config).eval()
    fresh.load_state_dict(state)
    assert torch.equal(model({"rgb": rgb}), fresh({"rgb": rgb}))


def test_a_network_made_in_inference_mode_runs() -> None:
    """Its tensors do not count changes, so its features are not kept."""
    rgb, _ = images(1)
    with torch.inference_mode():
        model = build_model(ModelConfig.preset("nano", num_classes=5)).eval()
        randomise(model, seed=1)
        found = [model({"rgb": rgb}) for _ in range(2)]
        for parameter in model.parameters():
            parameter.mul_(0.9)
        changed = model({"rgb": rgb})
    fresh = build_model(model.config).eval()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(changed, fresh({"rgb": rgb}))
    assert torch.equal(*found)
    assert not torch.equal(found[0], changed)


@torch.no_grad()
def test_cached_features_follow_changes_in_place_and_copies() -> None:
    """As an exponential moving average makes them."""
    model = build_model(ModelConfig.preset("nano", num_classes=5)).eval()
    randomise(model, seed=1)
    rgb, _ = images(1)
    before = model({"rgb": rgb})
    clone = copy.deepcopy(model)
    for parameter in clone.parameters():
        parameter.mul_(0.9)
    fresh = build_model(model.config).eval()
    fresh.load_state_dict(clone.state_dict())
    assert torch.equal(clone({"rgb": rgb}), fresh({"rgb": rgb}))
    assert torch.equal(model({"rgb": rgb}), before)
    pickle.dumps(model)


@pytest.mark.usefixtures("float32")
@torch.no_grad()
def test_presence_under_autocast() -> None:
    model = network()
    rgb, aux = images(2)
    plain = model({"rgb": rgb})
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model({"rgb": rgb, "lidar": aux}, {"lidar": torch.tensor([True, False])})
    assert (mixed[1] - plain[1]).abs().mean() < 0.1 * plain[1].std()


def test_contradictions_are_refused(model: MMSAMAdapter) -> None:
    rgb, _ = images(1)
    with pytest.raises(ModelError, match="lidar: declared present, but not in the inputs"):
        model({"rgb": rgb}, {"lidar": torch.tensor([True])})
    with pytest.raises(ModelError, match="'rgb', which is always there"):
        model({"rgb": rgb}, {"rgb": torch.tensor([True])})
