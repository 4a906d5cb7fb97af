# SPDX-License-Identifier: Apache-2.0
"""The training loop: it learns, writes weights that load, and stops with advice."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import resource
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from runs import SOURCES, options, run_config
from torch import Tensor, nn
from trees import make_deliver, make_fmb, make_folder, make_muses

from mmsam_ros.cli.main import main
from mmsam_ros.data.open import open_frames
from mmsam_ros.inference import Segmenter
from mmsam_ros.training.config import BatchConfig, DeviceConfig, LossConfig
from mmsam_ros.training.devices import memory_advice, recompute_activations, start_fabric
from mmsam_ros.training.errors import TrainingError
from mmsam_ros.training.evaluate import as_frame
from mmsam_ros.training.loader import Draws, TrainingFrames, make_loader
from mmsam_ros.training.loop import (
    accumulate,
    agree,
    gradient_size,
    loss_function,
    not_finite,
    train,
)
from mmsam_ros.training.start import build
from mmsam_ros.training.stop import StopSignals
from mmsam_ros.weights import load_model

LAYOUTS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "deliver": ("deliver_rgb_lidar", make_deliver),
    "deliver, flat": ("deliver_rgb_lidar", partial(make_deliver, layout="flat")),
    "fmb": ("fmb_rgb_thermal", make_fmb),
    "fmb, moved": ("fmb_rgb_thermal", partial(make_fmb, moved=True)),
    "muses": ("muses_rgb_event", make_muses),
    "folder": ("folder_rgb_lidar_thermal", make_folder),
}


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_trains(layout: str, tmp_path: Path) -> None:
    setting, make = LAYOUTS[layout]
    make(tmp_path / "data")
    kind = layout.split(",")[0]
    size = "[64, 64]" if kind == "deliver" else "[64, 96]"
    more = [f"--setting={setting}", "--model.preset=tiny", f"--model.image_size={size}"]
    more += [f"--augment.{key}={size}" for key in ("base_size", "crop")]
    more += ["--optimiser.lr=1e-3"]
    if kind == "folder":
        more.append("--device.precision=bf16-mixed")
    if kind == "fmb":
        more.append(f"--data.lists={tmp_path / 'data/lists'}")
    run = train(run_config(tmp_path, *more))
    first, second, third, fourth = losses(run)
    assert third + fourth < 0.95 * (first + second)
    _, spec = load_model(run / "last.safetensors")
    sources = "+".join(["camera", *spec.sources])
    assert spec.presence.trained_subsets == (tuple(sources.split("+")),)
    assert spec.presence.scores[sources].dataset == f"{kind} val"


def test_four_frames_are_learned_by_heart(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", SOURCES, per_split={"train": 4, "val": 4})
    for path in root.glob("*/train_*"):
        shutil.copy(path, path.with_name(path.name.replace("train", "val")))
    more = ["--schedule.epochs=80", "--batch.effective=4", "--batch.per_device=4"]
    more += ["--optimiser.lr=3e-3", "--log.validate_every=20", "--log.pictures=0"]
    run = train(run_config(tmp_path, *more))
    model, spec = load_model(run / "best.safetensors")
    best = spec.presence.scores["camera+lidar+thermal"].miou
    assert best >= 90

    # the node's way to the labels agrees
    segmenter = Segmenter(model, spec, device="cpu")
    right = total = 0
    for sample in (frames := open_frames("folder", root, "train", SOURCES)):
        label = sample["label"].numpy()
        right += int((segmenter(as_frame(sample, spec)).labels == label).sum())
        total += int((label != 255).sum())
    assert len(frames) == 4
    assert right / total > 0.9


def test_recomputing_changes_neither_names_nor_gradients(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    fabric = start_fabric(config.device)
    frames = open_frames("folder", config.data.root, "train", SOURCES)
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(3)
        net, spec = build(config, frames)
        names, parameters = list(net.state_dict()), list(net.parameters())
        network = fabric.setup_module(net)
        if recompute:
            recompute_activations(net)
            wrapped = [m for m in net.modules() if type(m).__name__ == "CheckpointWrapper"]
            # 4 blocks of SAM, 3 x 5 of ConvNeXt, 4 injectors, 4 + 2 extractors
            assert len(wrapped) == 4 + 15 + 4 + 6
        assert list(net.state_dict()) == names
        batch = next(make_loader(TrainingFrames(frames, spec, config), Draws(4, config)))
        torch.manual_seed(4)  # drop paths
        accumulate(fabric, network, loss_function(config.loss), [batch])
        gradients.append([p.grad for p in parameters])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed)


def test_averaged_weights_are_what_is_scored_and_written(tmp_path: Path) -> None:
    run = train(run_config(tmp_path, "--optimiser.ema=0.999"))
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    written = load_model(run / "last.safetensors")[0].state_dict()
    name = "head.classifier.weight" if "head.classifier.weight" in written else list(written)[-2]
    assert torch.equal(written[name], content["average"][f"module.{name}"])
    assert not torch.equal(written[name], content["model"][name])


def test_nan_stops_with_the_frames_and_leaves_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate that no network survives: the first step is made and kept."""
    more = ["--optimiser.lr=1e30", "--schedule.epochs=50", "--log.checkpoint_every=1"]
    run_config(tmp_path)  # makes the data
    assert main(["train", *options(tmp_path, *more)]) == 2
    said = capsys.readouterr().err
    assert re.search(r"loss is (nan|inf).*learning rate 1e\+30", said)
    assert "train_000" in said
    assert "--optimiser.lr" in said
    assert "Traceback" not in said
    steps = len(losses(tmp_path / "run"))
    assert steps >= 1
    content = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert content["progress"]["step"] == steps


class SquareRootAtZero(nn.Module):
    """A finite loss with gradients that are not: the slope of sqrt(0) times 0."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (0 * logits).sum().sqrt()


def test_gradients_that_are_not_finite_are_seen_before_the_step(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    fabric = start_fabric(config.device)
    frames = open_frames("folder", config.data.root, "train", SOURCES)
    net, spec = build(config, frames)
    network = fabric.setup_module(net)
    batch = next(make_loader(TrainingFrames(frames, spec, config), Draws(4, config)))
    loss = accumulate(fabric, network, SquareRootAtZero(), [batch])
    assert loss.isfinite()
    loss, size, _ = agree(fabric, loss, gradient_size(net), StopSignals())
    assert loss == 0
    assert not math.isfinite(size)
    assert "a gradient is nan, the loss 0.0 at step 3" in str(not_finite(loss, size, 2, 0, 1, []))
    net.zero_grad()
    loss = accumulate(fabric, network, loss_function(config.loss), [batch])
    norms = [p.grad.norm() for p in net.parameters() if p.grad is not None]
    torch.testing.assert_close(gradient_size(net), torch.stack(norms).norm())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_one_line_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    config = run_config(tmp_path)
    broken = Path(config.data.root) / "thermal" / "train_0002.png"
    broken.write_bytes(b"no image")
    assert main(["train", *options(tmp_path, f"--data.workers={workers}")]) == 2
    said = capsys.readouterr().err
    assert said == f"mmsam: error: {broken}: is broken, expected a whole PNG or JPEG image\n"


def test_what_ends_validation_leaves_the_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_config(tmp_path, "--schedule.epochs=1")
    broken = Path(config.data.root) / "images" / "val_0001.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"no image")
    assert main(["train", *options(tmp_path, "--schedule.epochs=1")]) == 2
    assert "images/val_0001.png: is broken" in capsys.readouterr().err
    run = tmp_path / "run"
    content = torch.load(run / "checkpoint.pt", weights_only=True)
    assert content["progress"]["unvalidated"]
    trained = losses(run)
    assert len(trained) == content["progress"]["step"]
    broken.write_bytes(whole)
    assert main(["train", "--resume", str(run), *options(tmp_path, "--schedule.epochs=1")]) == 0
    assert losses(run) == trained, "nothing is trained again"
    lines = (run / "metrics.jsonl").read_text()
    assert lines.count("miou") == 1
    assert main(["train", "--resume", str(run), *options(tmp_path, "--schedule.epochs=1")]) == 0
    assert (run / "metrics.jsonl").read_text() == lines, "nor validated again"
    assert load_model(run / "best.safetensors")


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk's."""
    run = train(run_config(tmp_path, "--schedule.epochs=1"))
    progress = torch.load(run / "checkpoint.pt", weights_only=True)["progress"]
    assert not progress["unvalidated"]
    torch.save(  # as of a run that was stopped before its last validation
        torch.load(run / "checkpoint.pt", weights_only=True)
        | {"progress": progress | {"unvalidated": True}},
        run / "checkpoint.pt",
    )
    before = (run / "checkpoint.pt").read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limit[1]))
        with pytest.raises(TrainingError, match=r"checkpoint.pt cannot be written with .* free"):
            train(run_config(tmp_path, "--schedule.epochs=1"), resume=run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (run / "checkpoint.pt").read_bytes() == before
    assert [path.name for path in run.iterdir() if "checkpoint" in path.name] == ["checkpoint.pt"]


def test_a_full_memory_names_what_helps(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    config = dataclasses.replace(
        config, batch=BatchConfig(8, 4), device=DeviceConfig(checkpointing=False)
    )
    with pytest.raises(TrainingError) as caught, memory_advice(config):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore")
    text = str(caught.value)
    assert "batch.per_device 4" in text
    assert "precision 32" in text
    for advice in ("--batch.per_device 1", "--device.checkpointing true", "bf16-mixed"):
        assert advice in text
    assert "Tried to allocate 2 GiB." in text
    assert "More" not in text


def test_plain_cross_entropy_counts_every_labelled_pixel() -> None:
    logits = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (2, 8, 12), generator=torch.Generator().manual_seed(1))
    labels[:, 0] = 255
    resized = torch.nn.functional.interpolate(
        logits, size=(8, 12), mode="bilinear", align_corners=False
    )
    expected = torch.nn.functional.cross_entropy(resized, labels, ignore_index=255)
    loss = loss_function(LossConfig(kind="ce"))(logits, labels.byte())
    torch.testing.assert_close(loss, expected)


def test_a_machine_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(TrainingError, match=r"accelerator='cuda'.* does not fit this machine"):
        start_fabric(DeviceConfig(accelerator="cuda"))
