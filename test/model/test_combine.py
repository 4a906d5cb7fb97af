# SPDX-License-Identifier: Apache-2.0
"""Several auxiliaries: absent means absent, present ones are combined by pixel, RGB is gated."""

from __future__ import annotations

import pytest
import torch
from support.randomise import randomise
from torch import Tensor, nn

from mmsam_ros.model import (
    CombineConfig,
    FusionConfig,
    MMSAMAdapter,
    ModelConfig,
    build_model,
)
from mmsam_ros.model.combine import Part, image_statistics

SENSORS = ("lidar", "thermal")
EVERYONE = slice(None)
# rows: both, LiDAR alone, thermal alone, none
PRESENT = {
    "lidar": torch.tensor([True, True, False, False]),
    "thermal": torch.tensor([True, False, True, False]),
}


def config_of(*auxiliaries: str, gate: bool = True, fusion: str = "road") -> ModelConfig:
    return ModelConfig.preset(
        "nano",
        num_classes=5,
        modalities=("rgb", *auxiliaries),
        combine=CombineConfig("masked", gate),
        fusion=FusionConfig(kind=fusion, groups=16, norm_groups=16),
    )


def network(*auxiliaries: str, gate: bool = True, fusion: str = "road") -> MMSAMAdapter:
    model = build_model(config_of(*auxiliaries, gate=gate, fusion=fusion))
    randomise(model, seed=3)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> MMSAMAdapter:
    return network(*SENSORS)


def images(batch: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    stack = torch.randn(3, batch, 3, 128, 192, generator=generator)
    return dict(zip(("rgb", *SENSORS), stack, strict=True))


def buffers(fill: float | None) -> dict[str, Tensor]:
    """The images, absent ones overwritten by `fill` (None: by noise)."""
    given = images()
    for name, mask in PRESENT.items():
        shape = given[name][~mask].shape
        given[name][~mask] = torch.randn(shape) if fill is None else fill
    return given


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["road", "concat"])
def test_buffers_of_absent_samples_do_not_matter(fusion: str) -> None:
    model = network(*SENSORS, fusion=fusion)
    expected = model(images(), PRESENT)
    assert bool(expected.isfinite().all())
    for fill in (0.0, float("nan"), float("inf"), None):
        assert torch.equal(model(buffers(fill), PRESENT), expected)
    missing = images()["rgb"]
    nothing = model({"rgb": missing})
    nobody = {name: torch.zeros(4, dtype=torch.bool) for name in SENSORS}
    assert torch.equal(model({"rgb": missing, "lidar": None, "thermal": None}), nothing)
    assert torch.equal(model(buffers(float("nan")), nobody), nothing)


@torch.no_grad()
def test_the_order_of_dictionaries_does_not_matter(model: MMSAMAdapter) -> None:
    backwards = dict(reversed(images().items()))
    expected = model(images(), PRESENT)
    assert torch.equal(model(backwards, dict(reversed(PRESENT.items()))), expected)


@torch.no_grad()
@pytest.mark.parametrize(("fusion", "gate"), [("road", True), ("concat", True), ("add", False)])
def test_mixed_batch_equals_its_samples(fusion: str, gate: bool) -> None:
    model, given = network(*SENSORS, gate=gate, fusion=fusion), images()
    mixed = model(given, PRESENT)
    for i in range(4):
        own = {n: x[i : i + 1] for n, x in given.items() if n == "rgb" or PRESENT[n][i]}
        torch.testing.assert_close(mixed[i : i + 1], model(own))
    assert (mixed - model({"rgb": given["rgb"]})).abs().amax((1, 2, 3))[:3].min() > 0.1


def test_gradients_are_finite_and_skip_the_absent(model: MMSAMAdapter) -> None:
    found = []
    for fill in (0.0, float("nan")):
        given = buffers(fill)
        for name in SENSORS:
            given[name].requires_grad_()
        model.zero_grad()
        model(given, PRESENT).square().mean().backward()
        for name in SENSORS:
            gradient = given[name].grad
            assert gradient is not None
            assert bool((gradient[PRESENT[name]].abs().amax((1, 2, 3)) > 0).all())
            assert bool((gradient[~PRESENT[name]] == 0).all())
        gradients = {n: p.grad for n, p in model.named_parameters()}
        assert all(g is not None and bool(g.isfinite().all()) for g in gradients.values())
        found.append(gradients)
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


def test_absent_samples_leave_batch_statistics_alone() -> None:
    """In training as well; a branch that no sample of the batch has keeps them as they were."""
    for fill in (0.0, float("nan")):
        model = network(*SENSORS).train()
        before = {n: b.clone() for n, b in model.named_buffers()}
        only_lidar = {"lidar": PRESENT["lidar"], "thermal": torch.zeros(4, dtype=torch.bool)}
        model(buffers(fill), only_lidar).mean().backward()
        after = dict(model.named_buffers())
        for name, value in after.items():
            assert torch.equal(value, before[name]) == ("fusion.thermal" in name), name
        assert all(bool(value.isfinite().all()) for value in after.values())
        assert all(p.grad is not None for p in model.parameters())


@torch.no_grad()
def test_one_present_auxiliary_has_weight_one(model: MMSAMAdapter) -> None:
    combination = model.prior.combinations[1]
    rgb, fused = torch.randn(2, 32, 16, 24), torch.randn(2, 64, 16, 24)
    nobody = torch.empty(0, dtype=torch.long)
    every = {"lidar": Part(EVERYONE, fused)}
    assert torch.equal(combination(rgb, every, nobody), fused)
    # beside another one that the first sample has
    other = Part(torch.tensor([0]), torch.randn(1, 64, 16, 24))
    both = combination(rgb, {**every, "thermal": other}, nobody)
    assert torch.equal(both[1], fused[1])
    share = (both[0] - other.fused[0]) / (fused[0] - other.fused[0])
    assert 0 < share.median() < 1


@torch.no_grad()
def test_weights_are_a_softmax_of_the_scores(model: MMSAMAdapter) -> None:
    combination = model.prior.combinations[0]
    rgb, (a, b) = torch.randn(1, 16, 8, 12), torch.randn(2, 1, 32, 8, 12)
    nobody = torch.empty(0, dtype=torch.long)
    ours = combination(rgb, {"lidar": Part(EVERYONE, a), "thermal": Part(EVERYONE, b)}, nobody)
    scores = [combination.scores[n](x) for n, x in zip(SENSORS, (a, b), strict=True)]
    weight = torch.sigmoid(scores[0] - scores[1])
    torch.testing.assert_close(ours, weight * a + (1 - weight) * b)
    assert weight.std() > 0.05


@torch.no_grad()
def test_the_gate_begins_as_exactly_one() -> None:
    """So a network with a gate begins as the one without."""
    gated = build_model(config_of(*SENSORS)).eval()
    plain = build_model(config_of(*SENSORS, gate=False)).eval()
    left = plain.load_state_dict(gated.state_dict(), strict=False)
    assert not left.missing_keys
    assert left.unexpected_keys
    assert all(".gates." in key for key in left.unexpected_keys)
    _, gates = gated.prior(images(), {})
    assert all(torch.equal(g, torch.ones_like(g)) for g in gates)
    assert torch.equal(gated(images(), PRESENT), plain(images(), PRESENT))


def test_the_gate_learns_from_its_first_step() -> None:
    model = build_model(config_of(*SENSORS)).eval()
    model(images(), PRESENT).square().mean().backward()
    for gate in model.prior.gates:
        assert gate.out.weight.grad.abs().max() > 0
        assert gate.out.bias.grad.abs().max() > 0


@torch.no_grad()
def test_the_gate_weighs_rgb_and_what_the_encoder_adds() -> None:
    model, given = network(*SENSORS), images(1)
    for gate in model.prior.gates:
        nn.init.zeros_(gate.out.weight)
        nn.init.constant_(gate.out.bias, -100.0)  # RGB is worth nothing
    maps, gates = model.prior(given, {})
    assert all(float(g.max()) < 1e-40 for g in gates)
    halves = [torch.cat([torch.zeros(1, d, 1, 1), torch.ones(1, d, 1, 1)], 1) for d in
              model.config.trunk.widths]  # fmt: skip
    plain = network(*SENSORS, gate=False)
    plain.load_state_dict(model.state_dict(), strict=False)
    rgb = plain.prior.trunks["rgb"](given["rgb"])
    fused = {n: plain.prior._fuse(n, rgb, plain.prior.trunks[n](given[n])) for n in SENSORS}
    for i, half in enumerate(halves):
        parts = {n: Part(EVERYONE, levels[i]) for n, levels in fused.items()}
        whole = plain.prior.combinations[i](rgb[i], parts, torch.empty(0, dtype=torch.long))
        torch.testing.assert_close(maps[i], plain.prior.projections[i](half * whole))
    # what the encoder adds at the end is gone: the level's own map is all that is read
    x = model.encoder.embed(given["rgb"])
    _, c_maps = model._interact(x, maps)
    features = model.forward_features(given)
    torch.testing.assert_close(features[1], model.norms[1](c_maps[1]))


@torch.no_grad()
def test_without_auxiliary_the_gate_is_open(model: MMSAMAdapter) -> None:
    rgb = images()["rgb"]
    assert model.prior({"rgb": rgb}, {}).gates is None
    _, gates = model.prior(images(), PRESENT)
    for g in gates:
        assert torch.equal(g[3], torch.ones_like(g[3]))
        assert (g[:3] - 1).abs().max() > 0.01


def test_statistics_are_those_of_the_picture() -> None:
    rgb = torch.randn(2, 3, 64, 96) * 2 + 1
    light = rgb.mean(1)
    for level, found in enumerate(image_statistics(rgb)):
        side = 4 << level
        cells = light.unflatten(1, (-1, side)).unflatten(3, (-1, side))
        expected = [
            cells.mean((2, 4)), cells.std((2, 4), correction=0), cells.amin((2, 4)),
            cells.amax((2, 4)),
        ]  # fmt: skip
        torch.testing.assert_close(found[:, :4], torch.stack(expected, 1))
        torch.testing.assert_close(found[:, 4, 0, 0], light.mean((1, 2)))
        torch.testing.assert_close(found[:, 5, 0, 0], light.std((1, 2)))


def test_one_auxiliary_gets_these_only_when_asked() -> None:
    published = build_model(ModelConfig.preset("nano", num_classes=5))
    masked = build_model(config_of("lidar", gate=False))
    gated = build_model(config_of("lidar"))
    names = [set(m.state_dict()) for m in (published, masked, gated)]
    assert not any("combinations" in n or "gates" in n for n in names[0])
    added = names[1] - names[0]
    assert {n.split(".")[3] for n in added} == {"alone"}
    assert all(n.startswith("prior.gates.") for n in names[2] - names[1])
    assert names[0] < names[1] < names[2]


def test_tiny_keeps_the_methods_asymmetry_within_12_million() -> None:
    model = build_model(
        ModelConfig.preset(
            "tiny",
            num_classes=19,
            modalities=("rgb", *SENSORS),
            combine=CombineConfig("masked", True),
        )
    )

    def size(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert size(model) <= 12e6
    assert size(model.encoder) >= 4 * size(model.prior.trunks["rgb"])


@pytest.mark.usefixtures("float32")
@torch.no_grad()
def test_presence_under_autocast() -> None:
    model = network(*SENSORS)
    plain = model(images(), PRESENT)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(images(), PRESENT)
    assert (half - plain).abs().mean() < 0.1 * plain.std()


@torch.no_grad()
def test_what_is_absent_is_not_computed(model: MMSAMAdapter) -> None:
    assert model.prior is not None
    ran: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, n=name: ran.append(n))
        for name, module in (*model.prior.trunks.items(), *model.prior.fusion.items())
    ]
    ran_with = {}
    for kept in ((), ("thermal",), SENSORS):
        ran.clear()
        given = {name: image[:1] for name, image in images().items() if name in ("rgb", *kept)}
        model(given)
        ran_with[kept] = sorted(ran)
    for hook in hooks:
        hook.remove()
    assert ran_with == {
        (): ["rgb"],
        ("thermal",): ["rgb", "thermal"],
        SENSORS: ["lidar", "rgb", "thermal"],
    }


@torch.no_grad()
def test_four_auxiliaries_in_any_combination() -> None:
    names = ("lidar", "thermal", "event", "depth")
    model = network(*names)
    generator = torch.Generator().manual_seed(5)
    rgb, *others = torch.randn(5, 3, 3, 128, 192, generator=generator)
    given = {"rgb": rgb, **dict(zip(names, others, strict=True))}
    rows = ((True, True, True, True), (False, True, False, True), (False, False, True, False))
    present = {name: torch.tensor(column) for name, *column in zip(names, *rows, strict=True)}
    mixed = model(given, present)
    for i, row in enumerate(rows):
        kept = [name for name, there in zip(names, row, strict=True) if there]
        alone = model({name: given[name][i : i + 1] for name in ("rgb", *kept)})
        torch.testing.assert_close(mixed[i : i + 1], alone)
