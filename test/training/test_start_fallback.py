# SPDX-License-Identifier: Apache-2.0
"""Training what auxiliaries add to a network of RGB alone, which stays as it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from runs import SENSORS, losses, options
from support.randomise import randomise
from support.trees import make_folder
from torch import Tensor

from mmsam_ros.data.open import open_frames
from mmsam_ros.model import MMSAMAdapter, rgb_alone
from mmsam_ros.training.config import TrainingError
from mmsam_ros.training.configure import load_config
from mmsam_ros.training.evaluate import EvalConfig, Evaluation, FrameResult
from mmsam_ros.training.loop import train
from mmsam_ros.training.start import build
from mmsam_ros.weights import Spec, load_model, save_model

RGB, FALLBACK = "rgb.safetensors", "--model.combine.absent=fallback"


def made(folder: Path, *more: str) -> tuple[MMSAMAdapter, Spec]:
    """Network and spec of a run on `folder`/data."""
    config = load_config(options(folder, *more))
    return build(config, open_frames("folder", config.data.root, "train", config.sensors))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, `streets` of the camera alone, and weights of RGB alone."""
    folder = tmp_path_factory.mktemp("fallback")
    make_folder(folder / "data", SENSORS)
    make_folder(folder / "streets", (), seed=1)
    model, spec = made(folder, "--model.inputs=rgb")
    save_model(folder / RGB, randomise(model.eval(), seed=3), spec)
    return folder


def run(folder: Path, out: Path, *more: str) -> Path:
    """The weights of a run of two steps."""
    wanted = (FALLBACK, f"--start.fallback={folder / RGB}", "--schedule.epochs=1", f"--out={out}")
    return train(load_config(options(folder, *wanted, *more))) / "last.safetensors"


def predictions(folder: Path, weights: Path, drop: tuple[str, ...]) -> list[Tensor]:
    found: list[FrameResult] = []
    given = EvalConfig(str(weights), str(folder / "data"), "val", drop=drop, workers=0)
    Evaluation(given).run(found.append)
    return [result.prediction for result in found]


def same(first: MMSAMAdapter, second: MMSAMAdapter) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def test_camera_alone_is_what_it_was_before_the_training(folder: Path, tmp_path: Path) -> None:
    more = ("--modality_dropout=0.3", f"--start.convnext={folder / RGB}", "--optimiser.lr=0.01")
    weights = run(folder, tmp_path / "run", *more)
    (before, _), (after, spec) = load_model(folder / RGB), load_model(weights)
    assert after.fallback is not None
    assert same(before, after.fallback)
    assert ("camera",) in spec.presence.trained_subsets
    expected = predictions(folder, folder / RGB, ())
    alone = predictions(folder, weights, SENSORS)
    assert len(expected) == len(alone) > 0
    assert all(map(torch.equal, alone, expected))
    assert not all(map(torch.equal, predictions(folder, weights, ()), expected))


def test_the_training_begins_at_the_rgb_network(folder: Path) -> None:
    model, spec = made(folder, FALLBACK, f"--start.fallback={folder / RGB}")
    rgb = load_model(folder / RGB)[0].eval()
    given = torch.randn(3, 2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    inputs = dict(zip(("rgb", *spec.sensors), given, strict=True))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(inputs), rgb({"rgb": given[0]}))


def test_auxiliaries_begin_as_those_of_another_network(folder: Path, tmp_path: Path) -> None:
    other, spec = made(folder, "--model.image_size=[128, 192]", "--augment.crop=[128, 192]")
    save_model(tmp_path / "w.safetensors", randomise(other, seed=5), spec)
    given = f"--start.auxiliaries={tmp_path / 'w.safetensors'}"
    model, _ = made(folder, FALLBACK, f"--start.fallback={folder / RGB}", given)
    theirs, rgb = other.state_dict(), load_model(folder / RGB)[0].state_dict()
    kept = ("prior.trunks.", "prior.fusion.")
    ours = {n: v for n, v in model.state_dict().items() if n.startswith(kept)}
    assert {n.split(".")[2] for n in ours} == set(SENSORS)
    differing = {n for n, v in ours.items() if not torch.equal(v, theirs[n])}
    assert all(".cross.norm." in n for n in differing)  # of another size
    assert model.fallback is not None
    assert same(model.fallback, load_model(folder / RGB)[0].eval())
    assert torch.equal(model.state_dict()["head.classifier.weight"], rgb["head.classifier.weight"])


@pytest.mark.parametrize("size", ["[64, 96]", "[128, 192]"])
def test_the_rgb_part_of_other_weights_will_do(folder: Path, tmp_path: Path, size: str) -> None:
    whole, spec = made(folder, f"--model.image_size={size}", f"--augment.crop={size}")
    save_model(tmp_path / "w.safetensors", randomise(whole, seed=4), spec)
    given = str(tmp_path / "w.safetensors")
    model, _ = made(folder, FALLBACK, f"--start.fallback={given}")
    assert model.fallback is not None
    assert same(model.fallback, rgb_alone(whole))
    alone, _ = made(folder, "--model.inputs=rgb", f"--start.weights={given}")
    assert same(alone, rgb_alone(whole))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ((FALLBACK,), r"start\.fallback: found '', expected the weights of the network of RGB"),
        (("--start.fallback=RGB",), r"start\.fallback: found .*expected none unless"),
        (
            (FALLBACK, "--start.fallback=RGB", "--model.head.channels=96"),
            "its network differs from the run's in head",
        ),
        ((FALLBACK, "--start.fallback=RGB", "--start.auxiliaries=RGB"), "has no prior.trunks"),
        (("--start.auxiliaries=RGB",), r"start\.auxiliaries: found .*expected none unless"),
        ((FALLBACK, "--start.fallback=OTHER"), r"its classes are \['Roof'"),
    ],
)
def test_what_is_no_fallback_is_refused(
    folder: Path, tmp_path: Path, more: tuple[str, ...], reason: str
) -> None:
    model, spec = load_model(folder / RGB)
    other = (dataclasses.replace(spec.classes[0], name="Roof"), *spec.classes[1:])
    save_model(tmp_path / "x.safetensors", model, dataclasses.replace(spec, classes=other))
    files = {"RGB": folder / RGB, "OTHER": tmp_path / "x.safetensors"}
    words = [next((w.replace(k, str(v)) for k, v in files.items() if k in w), w) for w in more]
    with pytest.raises(TrainingError, match=reason):
        made(folder, *words)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_frames_of_the_camera_alone_can_be_in_the_mix(
    folder: Path, tmp_path: Path, weight: float
) -> None:
    """Even in every sample of a step: the loss is the RGB network's, without a gradient."""
    more = (f"--data.weight={weight}", f"--data.mix.streets.root={folder / 'streets'}")
    weights = run(folder, tmp_path / "run", *more, "--optimiser.weight_decay=0")
    assert all(0 < loss < 100 for loss in losses(weights.parent))
    (before, _), (after, _) = load_model(folder / RGB), load_model(weights)
    assert after.fallback is not None
    assert same(before, after.fallback)
    begun, _ = made(folder, FALLBACK, f"--start.fallback={folder / RGB}")
    given, trained = begun.named_parameters(), after.state_dict()
    learned = [name for name, p in given if not torch.equal(p, trained[name])]
    scratch = [name for name in learned if name.startswith("prior.")]  # drawn anew
    assert (learned == scratch) == (weight == 0)
