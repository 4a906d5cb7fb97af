# SPDX-License-Identifier: Apache-2.0
"""The paper's ablations are variants of the network: what each has, and what it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.randomise import randomise
from torch import Tensor

from mmsam_ros.data.open import BENCHMARKS
from mmsam_ros.model import MMSAMAdapter, ModelConfig, ModelError, build_model
from mmsam_ros.model.encoder import LoRALinear
from mmsam_ros.weights import Geometry, load_model, make_spec, save_model

DELIVER = BENCHMARKS["deliver"]

RGB = ("rgb",)
BOTH = {"prior.trunks.rgb", "prior.trunks.lidar", "prior.fusion", "prior.projections"}
ADAPTER = {"interactions", "level_embed", "up"}
CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "published": ({}, BOTH | ADAPTER),
    "sam_head": ({"modalities": RGB, "prior": {"kind": "none"}}, set()),
    "plain": (
        {"modalities": RGB, "prior": {"kind": "conv"}},
        {"prior.stem", "prior.stages", "prior.projections"} | ADAPTER,
    ),
    "rgb": ({"modalities": RGB}, {"prior.trunks.rgb", "prior.projections"} | ADAPTER),
    "auxiliary": (
        {"prior": {"reads_rgb": False}}, {"prior.trunks.lidar", "prior.projections"} | ADAPTER,
    ),
    "entry": ({"interaction": {"kind": "entry"}}, BOTH | {"entry_gamma"}),
    "add": ({"fusion": {"kind": "add"}}, (BOTH - {"prior.fusion"}) | ADAPTER),
    "concat": ({"fusion": {"kind": "concat"}}, (BOTH - {"prior.fusion"}) | ADAPTER),
    "shared": (
        {"prior": {"shared": True}},
        {"prior.trunks.shared", "prior.fusion", "prior.projections"} | ADAPTER,
    ),
    "no_extractor": ({"interaction": {"extractor": False}}, BOTH | ADAPTER),
    "lora": ({"encoder": {"lora_rank": 4}}, BOTH | ADAPTER),
}  # fmt: skip


def config_of(changes: dict[str, Any]) -> ModelConfig:
    values = ModelConfig.preset("nano", num_classes=5).to_dict()
    for key, change in changes.items():
        values[key] = values[key] | change if isinstance(change, dict) else change
    return ModelConfig.from_dict(values)


def part(name: str) -> str:
    """The component that a parameter belongs to."""
    words = name.split(".")
    depth = 1 if words[0] != "prior" else 3 if words[1] == "trunks" else 2
    return ".".join(words[:depth])


def network(name: str) -> MMSAMAdapter:
    model = build_model(config_of(CASES[name][0]))
    randomise(model, seed=3)
    return model.eval()


def images(model: MMSAMAdapter, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = model.config.modalities
    return {name: torch.randn(batch, 3, 128, 192, generator=generator) for name in names}


@pytest.mark.parametrize("name", CASES)
def test_parts_and_gradients(name: str) -> None:
    model = network(name)
    parameters = dict(model.named_parameters())
    assert {part(n) for n in parameters} == CASES[name][1] | {"encoder", "norms", "head"}
    logits = model(images(model))
    assert logits.shape == (2, 5, 32, 48)
    logits.square().mean().backward()
    unused = [n for n, p in parameters.items() if p.grad is None or not bool(p.grad.any())]
    assert not unused
    assert all(bool(p.grad.isfinite().all()) for p in parameters.values() if p.grad is not None)


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("name", CASES)
def test_files_keep_the_variant(name: str, tmp_path: Path) -> None:
    values = config_of(CASES[name][0]).to_dict() | {"num_classes": 25}
    config = ModelConfig.from_dict(json.loads(json.dumps(values)))
    model = build_model(config)
    randomise(model, seed=1)
    geometry = Geometry("pad", config.image_size)
    save_model(
        tmp_path / "w.safetensors",
        model,
        make_spec(config, DELIVER.modalities, DELIVER.classes, geometry, data="", recipe=""),
    )
    loaded, spec = load_model(tmp_path / "w.safetensors")
    assert spec.config == config
    assert spec.sensors == (("lidar",) if config.auxiliaries else ())
    given = model.state_dict()
    assert given.keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, given[key]) for key, value in loaded.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize(
    "name", [n for n, (changes, _) in CASES.items() if "modalities" not in changes]
)
def test_absent_is_the_empty_raster_in_every_variant(name: str) -> None:
    model = network(name)
    given = images(model)
    without = model({"rgb": given["rgb"]})
    empty = model({"rgb": given["rgb"], "lidar": torch.zeros_like(given["rgb"])})
    torch.testing.assert_close(without, empty)
    assert (model(given) - without).abs().max() > 0.01
    nothing = {"lidar": torch.tensor([False, False])}
    buffer = torch.full_like(given["rgb"], float("nan"))
    assert torch.equal(model({**given, "lidar": buffer}, nothing), without)


@torch.no_grad()
def test_lora_starts_as_the_network_without_it() -> None:
    torch.manual_seed(0)
    plain = build_model(config_of({}))
    lora = build_model(config_of(CASES["lora"][0]))
    missing = lora.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(".lora_" in key for key in missing.missing_keys)
    inputs = images(plain)
    assert torch.equal(plain.eval()(inputs), lora.eval()(inputs))
    layers = [m for m in lora.modules() if isinstance(m, LoRALinear)]
    assert len(layers) == lora.config.encoder.depth
    for layer in layers:
        layer.lora_b.fill_(0.1)
    assert (lora(inputs) - plain(inputs)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        (("q", "v"), {"qkv": "qv"}),
        (("v", "q"), {"qkv": "qv"}),
        (("k", "proj"), {"qkv": "k", "proj": ""}),
        (("qkv", "lin2"), {"qkv": "", "lin2": ""}),
    ],
)
@torch.no_grad()
def test_lora_adds_to_what_it_is_for(targets: tuple[str, ...], layers: dict[str, str]) -> None:
    """Each third of qkv that is named has its own B A; the others are the layer's own."""
    torch.manual_seed(0)
    lora = build_model(config_of({"encoder": {"lora_rank": 3, "lora_targets": targets}}))
    block = lora.encoder.blocks[1]
    found = {n: m for n, m in block.named_modules() if isinstance(m, LoRALinear)}
    assert {name.split(".")[-1] for name in found} == set(layers)
    for name, layer in found.items():
        layer.lora_b.normal_()
        x = torch.randn(2, 5, layer.in_features)
        parts = layers[name.split(".")[-1]]
        a = layer.lora_a.split(3)
        b = layer.lora_b.chunk(len(a))
        assert len(a) == max(1, len(parts))
        expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
        width = layer.out_features // 3
        for i in range(len(a)):
            columns = slice(None)
            if parts:
                start = "qkv".index(parts[i]) * width
                columns = slice(start, start + width)
            expected[..., columns] += x @ a[i].T @ b[i].T
        torch.testing.assert_close(layer(x), expected)


@torch.no_grad()
def test_entry_starts_as_the_encoder_alone() -> None:
    model = build_model(config_of(CASES["entry"][0])).eval()
    given = images(model)
    alone = build_model(config_of(CASES["sam_head"][0])).eval()
    alone.load_state_dict(model.state_dict(), strict=False)
    ours, theirs = model(given), alone({"rgb": given["rgb"]})
    assert not torch.equal(ours, theirs)
    torch.testing.assert_close(
        ours, theirs, rtol=0, atol=1e-5
    )  # the adapter's share begins at 1e-6


@torch.no_grad()
def test_addition_does_not_know_which_is_which() -> None:
    model = network("add")
    rgb_trunk, aux_trunk = model.prior.trunks["rgb"], model.prior.trunks["lidar"]
    aux_trunk.load_state_dict(rgb_trunk.state_dict())
    given = images(model)
    swapped = {"rgb": given["lidar"], "lidar": given["rgb"]}
    ours, theirs = model.prior(given, {}).maps, model.prior(swapped, {}).maps
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_the_encoder_sees_rgb_where_the_adapter_does_not() -> None:
    model = network("auxiliary")
    given, other = images(model), images(model, seed=1)
    same = model.prior({**given, "rgb": other["rgb"]}, {}).maps
    for a, b in zip(model.prior(given, {}).maps, same, strict=True):
        assert torch.equal(a, b)
    assert (model(given) - model({**given, "rgb": other["rgb"]})).abs().max() > 0.01


@torch.no_grad()
def test_without_extractor_the_adapter_keeps_what_the_prior_gave() -> None:
    model = network("no_extractor")
    given = images(model)
    prior_maps = model.prior(given, {}).maps
    _, maps = model._interact(model.encoder.embed(given["rgb"]), prior_maps)
    for level in (1, 2, 3):
        embedded = prior_maps[level] + model.level_embed[level - 1][:, None, None]
        torch.testing.assert_close(maps[level], embedded)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prior": {"kind": "none"}}, "modalities"),
        ({"prior": {"kind": "conv"}}, "modalities"),
        ({"prior": {"kind": "cnn"}}, "prior.kind"),
        ({"modalities": RGB, "prior": {"reads_rgb": False}}, "prior.reads_rgb"),
        ({"modalities": RGB, "prior": {"shared": True}}, "prior.shared"),
        ({"fusion": {"kind": "sum"}}, "fusion.kind"),
        ({"combine": {"absent": "zero"}}, "combine.absent"),
        ({"combine": {"gate": True}}, "combine.gate"),
        (
            {"combine": {"absent": "masked", "gate": True}, "fusion": {"kind": "add"}},
            "combine.gate",
        ),
        ({"combine": {"absent": "masked"}, "prior": {"reads_rgb": False}}, "combine.absent"),
        ({"modalities": RGB, "combine": {"absent": "masked"}}, "combine.absent"),
        ({"modalities": RGB, "combine": {"gate": True}}, "combine.gate"),
        ({"interaction": {"kind": "entry", "extractor": False}}, "interaction.extractor"),
        ({"encoder": {"lora_targets": ["x"]}}, "encoder.lora_targets"),
        ({"encoder": {"lora_targets": ["q", "q"]}}, "encoder.lora_targets"),
        ({"encoder": {"lora_targets": ["q", "qkv"]}}, "encoder.lora_targets"),
        ({"encoder": {"lora_rank": -1}}, "encoder.lora_rank"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ModelError, match=field):
        config_of(changes)


def test_larger_trunks_and_other_groups_fit() -> None:
    for widths, groups in (((128, 256, 512, 1024), 32), ((80, 160, 320, 640), 16)):
        values = ModelConfig.preset("vit_l", num_classes=25).to_dict()
        values["trunk"] |= {"widths": widths}
        values["fusion"] |= {"groups": groups, "norm_groups": groups}
        with torch.device("meta"):
            model = build_model(ModelConfig.from_dict(values))
        fusions = list(model.prior.fusion["lidar"])
        assert [f.coordinate.gate_h.out_channels for f in fusions] == [2 * w for w in widths]
        assert {f.recalibration.norm.num_groups for f in fusions} == {groups}
