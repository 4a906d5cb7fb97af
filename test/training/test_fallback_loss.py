# SPDX-License-Identifier: Apache-2.0
"""The network of RGB alone teaches the gates, and its classes where labels leave them open."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import NARROW, SENSORS, Job, finish, losses, options, start
from support.randomise import randomise
from support.trees import make_folder
from torch import Tensor

from mmsam_ros.data.open import open_frames
from mmsam_ros.model import CombineConfig, MMSAMAdapter, ModelConfig, build_model
from mmsam_ros.training.config import TrainingError
from mmsam_ros.training.configure import load_config
from mmsam_ros.training.fallback import FallbackLoss
from mmsam_ros.training.loop import train
from mmsam_ros.training.recipe import OhemCrossEntropy
from mmsam_ros.training.start import build
from mmsam_ros.weights import load_model, save_model

SIZE, CLASSES = (64, 96), 5
WEIGHT = 0.5
ONE_OF = (1, 3)  # classes that a label of 5 means


@pytest.fixture(scope="module")
def network() -> MMSAMAdapter:
    modalities, combine = ("rgb", *SENSORS), CombineConfig("fallback", gate=True)
    config = ModelConfig.preset(
        "nano", num_classes=CLASSES, image_size=SIZE, modalities=modalities, combine=combine
    )
    return randomise(build_model(config), seed=1)


def batch(frames: int) -> tuple[dict[str, Tensor], Tensor]:
    """Images, and labels of which some are none and some mean one of `ONE_OF`."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(3, frames, 3, *SIZE, generator=generator)
    labels = torch.randint(0, CLASSES + 2, (frames, *SIZE), generator=generator)
    return dict(zip(("rgb", *SENSORS), images, strict=True)), labels.where(labels <= CLASSES, 255)


def criterion() -> OhemCrossEntropy:
    return OhemCrossEntropy(sets=[ONE_OF])


def test_right_and_wrong_pixels_count_the_same(network: MMSAMAdapter) -> None:
    """By definition, pixel by pixel; the first frame has no auxiliary and no gates."""
    inputs, labels = batch(3)
    present = {name: torch.tensor([False, True, True]) for name in SENSORS}
    seen: list[list[Tensor]] = []
    assert network.prior is not None
    handle = network.prior.register_forward_hook(lambda _, __, maps: seen.append(maps.gates))
    loss_of = FallbackLoss(criterion(), network, WEIGHT, keep=0)
    logits = network.train()(inputs, present)
    found = loss_of(logits, labels) - criterion()(logits, labels)
    handle.remove()
    assert network.fallback is not None
    with torch.no_grad():
        alone = network.fallback({"rgb": inputs["rgb"][1:]})
    guess = torch.nn.functional.interpolate(alone, size=SIZE, mode="bilinear").argmax(1)
    truth = labels[1:]
    either = (truth == CLASSES) & ((guess == ONE_OF[0]) | (guess == ONE_OF[1]))
    right = (guess == truth) | either
    wrong = ~right & (truth != 255)
    assert right.any()
    levels = []
    for gate in seen[0]:
        step = SIZE[0] // gate.shape[-2]
        p = gate[:, 0].repeat_interleave(step, 1).repeat_interleave(step, 2) / 2
        levels.append(((1 - p[right]).square().mean() + p[wrong].square().mean()) / 2)
    torch.testing.assert_close(found, WEIGHT * torch.stack(levels).mean())


def test_the_target_teaches_the_gates_alone(network: MMSAMAdapter) -> None:
    inputs, labels = batch(2)
    loss_of = FallbackLoss(criterion(), network, WEIGHT, keep=0)
    network.zero_grad()
    logits = network.train()(inputs, {})
    (loss_of(logits.detach(), labels) - criterion()(logits.detach(), labels)).backward()
    taught = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert taught
    assert all(name.startswith("prior.gates.") for name in taught)


def test_open_labels_keep_the_fallback_s_classes(network: MMSAMAdapter) -> None:
    """By definition, pixel by pixel at the logits' size; the first frame has no auxiliary."""
    inputs, labels = batch(3)
    labels = labels[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2)
    present = {name: torch.tensor([False, True, True]) for name in SENSORS}
    loss_of = FallbackLoss(criterion(), network, gate=0, keep=WEIGHT)
    logits = network.train()(inputs, present)
    found = loss_of(logits, labels) - criterion()(logits, labels)
    assert network.fallback is not None
    with torch.no_grad():
        alone = network.fallback({"rgb": inputs["rgb"][1:]})
    guess = torch.nn.functional.interpolate(alone, size=SIZE, mode="bilinear").argmax(1)
    counts = (labels[1:] == 255) | ((labels[1:] == CLASSES) & ((guess == 1) | (guess == 3)))
    share = torch.nn.functional.avg_pool2d(counts.float()[:, None], 4)[:, 0]
    assert ((share > 0) & (share < 1)).any()
    p, q = alone.softmax(1), logits[1:].softmax(1)
    divergence = (p * (p.log() - q.log())).sum(1)
    torch.testing.assert_close(found, WEIGHT * (share * divergence).mean())


def test_without_auxiliaries_there_is_nothing_to_teach(network: MMSAMAdapter) -> None:
    inputs, labels = batch(2)
    loss_of = FallbackLoss(criterion(), network, WEIGHT, WEIGHT)
    nobody = {name: torch.tensor([False, False]) for name in SENSORS}
    network.train()(inputs, {})  # whose gates are not the next pass's
    logits = network(inputs, nobody)
    assert torch.equal(loss_of(logits, labels), criterion()(logits, labels))
    network.eval()(inputs, {})
    assert torch.equal(loss_of(logits, labels), criterion()(logits, labels))


@pytest.mark.parametrize(
    "more",
    [(), ("--model.combine.absent=fallback", "--model.combine.gate=false"),
     ("--model.combine.absent=fallback", "--model.inputs=rgb")],
)  # fmt: skip
def test_a_target_needs_gates_and_a_fallback(tmp_path: Path, more: tuple[str, ...]) -> None:
    with pytest.raises(TrainingError, match=r"loss\.gate: found 0\.5, expected 0 without model\.c"):
        load_config(options(tmp_path, "--loss.gate=0.5", *more))


@pytest.mark.parametrize("more", [(), ("--model.inputs=rgb",)])
def test_who_keeps_the_fallback_s_classes_has_one(tmp_path: Path, more: tuple[str, ...]) -> None:
    with pytest.raises(TrainingError, match=r"loss\.keep: found 0\.5, expected 0 without model\.c"):
        load_config(options(tmp_path, "--loss.keep=0.5", *more))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, and weights of RGB alone."""
    folder = tmp_path_factory.mktemp("gate")
    make_folder(folder / "data", SENSORS)
    config = load_config(options(folder, *NARROW, "--model.inputs=rgb"))
    model, spec = build(config, open_frames("folder", config.data.root, "train", config.sensors))
    save_model(folder / "rgb.safetensors", randomise(model, seed=3), spec)
    return folder


def wanted(folder: Path, out: str, *more: str) -> list[str]:
    words = ("--model.combine.absent=fallback", f"--start.fallback={folder / 'rgb.safetensors'}")
    return options(
        folder, *NARROW, *words, f"--out={folder / out}", "--modality_dropout=0.3", *more
    )


def test_a_run_with_a_target(folder: Path) -> None:
    with_target, without = (
        train(load_config(wanted(folder, f"run{weight}", f"--loss.gate={weight}")))
        for weight in (100.0, 0.0)
    )
    first, second = losses(with_target), losses(without)
    # all gates are 1 at the beginning: p is 1/2, whose squared error is 1/4
    assert first[0] == pytest.approx(second[0] + 25, abs=1e-3)
    gates = [load_model(run / "last.safetensors")[0].prior for run in (with_target, without)]
    (own, _), (other, _) = (list(prior.gates.parameters())[::-1][:2] for prior in gates)  # type: ignore[union-attr]
    assert not torch.equal(own, other)


@pytest.mark.distributed
def test_several_processes_teach_the_gates(folder: Path) -> None:
    two = ("--batch.effective=2", "--batch.per_device=1", "--device.devices=2", "--loss.gate=1",
           "--loss.keep=1")  # fmt: skip
    more = (*two, "--schedule.epochs=1", "--device.checkpointing=true")
    jobs = [
        Job(["train", *wanted(folder, strategy, f"--device.strategy={strategy}", *more)])
        for strategy in ("ddp", "fsdp")
    ]
    status, said = finish(start(folder, jobs, processes=2))
    assert status == 0, said
    ddp, fsdp = (losses(folder / strategy) for strategy in ("ddp", "fsdp"))
    assert fsdp == pytest.approx(ddp, rel=1e-3)
