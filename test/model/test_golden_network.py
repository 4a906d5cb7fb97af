# SPDX-License-Identifier: Apache-2.0
"""The network is the published one: every intermediate of the tiny golden instance."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from faults import FAULTS
from safetensors.torch import load_file
from support.released import config_from_released
from torch import Tensor

from mmsam_ros.model import MMSAMAdapter, ModelConfig, build_model
from mmsam_ros.training.recipe import OhemCrossEntropy
from mmsam_ros.weights import WeightsError, convert_released
from mmsam_ros.weights.foreign import released_name

# The golden tensors were stored in float32; measured against ours in float64: values 1.2e-5 of
# their spread, gradient norms 1.3e-6 + 2e-6.
VALUES = 5e-5
GRADIENTS = {"rel": 2e-5, "abs": 4e-6}


class Golden:
    """Golden tensors, and our network with the same weights, in float64."""

    def __init__(self, folder: Any) -> None:
        self.facts = json.loads((folder / "reference/golden_tiny.json").read_text())
        self.tensors = load_file(folder / "reference/golden_tiny.safetensors")
        self.state = {
            k.removeprefix("state."): v for k, v in self.tensors.items() if k.startswith("state.")
        }
        self.config = config_from_released(self.facts)
        self.model = self.network()
        rgb, aux = self.tensors["input"].double().split(3, dim=1)
        self.inputs = {"rgb": rgb, self.config.auxiliaries[0]: aux}

    def network(self) -> MMSAMAdapter:
        model = build_model(self.config).eval()
        model.load_state_dict(convert_released(self.state, self.config), strict=True)
        return model


@pytest.fixture(scope="module")
def golden(shared: Any) -> Golden:
    return Golden(shared)


def intermediates(model: MMSAMAdapter, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under the golden file's names, caught by hooks."""
    caught: dict[str, Any] = {}
    aux = model.config.auxiliaries[0]

    def catch(name: str) -> Any:
        return lambda _module, _inputs, output: caught.__setitem__(name, output)

    handles = [
        model.prior.trunks["rgb"].register_forward_hook(catch("rgb")),
        model.prior.trunks[aux].register_forward_hook(catch("aux")),
        model.prior.register_forward_hook(catch("prior")),
    ]
    for i in range(4):
        handles += [
            model.prior.fusion[aux][i].register_forward_hook(catch(f"fusion.c{i + 1}")),
            model.interactions[i].register_forward_hook(catch(f"inter.{i}")),
            model.norms[i].register_forward_hook(catch(f"feat.{i + 1}")),
        ]
    with torch.no_grad():
        caught["logits_quarter"] = model(inputs)
        caught["tokens0"] = model.encoder.embed(inputs["rgb"]).flatten(1, 2)
    for handle in handles:
        handle.remove()
    size = inputs["rgb"].shape[-2:]
    caught["logits"] = F.interpolate(caught["logits_quarter"], size=size, mode="bilinear")
    for i in range(4):
        caught[f"twin.c{i + 1}"] = torch.cat([caught["rgb"][i], caught["aux"][i]], dim=1)
        caught[f"spm.c{i + 1}"] = caught["prior"].maps[i].flatten(2).transpose(1, 2)
        caught[f"inter.{i}.x"], caught[f"inter.{i}.c"] = caught.pop(f"inter.{i}")
    return caught


def assert_values(golden: Golden, model: MMSAMAdapter) -> None:
    """Every intermediate and the logits, each by its own spread."""
    ours = intermediates(model, golden.inputs)
    names = [n for n in golden.facts["tensors"] if "I" not in n and n != "input"]
    names += [f"{kind}.c{i}" for kind in ("twin", "fusion", "spm") for i in range(1, 5)]
    names += [f"inter.{i}.{part}" for i in range(4) for part in "xc"]
    names += [f"feat.{i}" for i in range(1, 5)]
    assert len(names) >= 27
    for name in names:
        expected = golden.tensors[name].double()
        assert ours[name].dtype == torch.float64, name
        assert ours[name].shape == expected.shape, name
        error = ((ours[name] - expected).abs().max() / expected.std()).item()
        assert error < VALUES, f"{name}: {error}"


def assert_gradients(golden: Golden, model: MMSAMAdapter) -> None:
    """The loss, and the norm of every parameter's gradient."""
    model.zero_grad()
    loss = OhemCrossEntropy()(model(golden.inputs), golden.tensors["labels"])
    loss.backward()
    assert loss.item() == pytest.approx(golden.tensors["loss_ohem"].item(), abs=1e-5)
    parameters = dict(model.named_parameters())
    keys = golden.facts["gradnorm_keys"]
    assert len(keys) == len(parameters)
    for key, expected in zip(keys, golden.tensors["gradnorm"].tolist(), strict=True):
        grad = parameters[released_name(key, golden.config.auxiliaries[0])].grad
        norm = 0.0 if grad is None else grad.norm().item()
        assert norm == pytest.approx(expected, **GRADIENTS), key


def assert_golden(golden: Golden, model: MMSAMAdapter) -> None:
    assert_values(golden, model)
    assert_gradients(golden, model)


def test_every_intermediate_agrees(golden: Golden) -> None:
    assert_values(golden, golden.model)


def test_loss_and_gradients_agree(golden: Golden) -> None:
    assert_gradients(golden, golden.model)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(golden: Golden, fault: str) -> None:
    network = golden.network()
    with FAULTS[fault](network), pytest.raises(AssertionError):
        assert_golden(golden, network)


def test_module_prefix_is_removed(golden: Golden) -> None:
    prefixed = {f"module.{k}": v for k, v in golden.state.items()}
    ours = convert_released(prefixed, golden.config)
    assert ours.keys() == golden.model.state_dict().keys()


def test_wrong_states_are_listed(golden: Golden) -> None:
    state = dict(golden.state)
    state.pop("backbone.level_embed")
    state["backbone.strange.weight"] = torch.zeros(1)
    state["decode_head.conv_seg.bias"] = torch.zeros(9)
    with pytest.raises(WeightsError) as caught:
        convert_released(state, golden.config)
    for part in ("missing: level_embed", "backbone.strange.weight", r"(found (9,), expected (5,))"):
        assert part in str(caught.value)


def test_released_vit_l_maps_one_to_one(shared: Any) -> None:
    """All 1411 parameters; the 39 batch-norm buffers follow their weights' names."""
    groups = json.loads((shared / "reference/param_groups.json").read_text())["groups"]
    with torch.device("meta"):
        model = build_model(ModelConfig.preset("vit_l", num_classes=25))
    ours = [released_name(name, "lidar") for name in groups]
    assert len(ours) == len(set(ours)) == 1411
    assert set(ours) == {name for name, _ in model.named_parameters()}
    norms = [
        n
        for n in groups
        if released_name(n, "lidar").removesuffix("weight") + "running_mean" in model.state_dict()
        and n.endswith(".weight")
    ]
    buffers = {
        released_name(n.removesuffix("weight") + leaf, "lidar")
        for n in norms
        for leaf in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert len(buffers) == 39
    assert set(ours) | buffers == set(model.state_dict())
    assert len(model.state_dict()) == 1450
    assert sum(p.numel() for p in model.parameters()) == 459_052_621
