# SPDX-License-Identifier: Apache-2.0
"""The loss falls on every layout, and four frames can be overfitted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from runs import NARROW, SENSORS, losses, run_config
from support.trees import make_deliver, make_fmb, make_folder, make_muses

from mmsam_ros.data.open import open_frames
from mmsam_ros.inference import Segmenter
from mmsam_ros.training.loop import train
from mmsam_ros.weights import load_model

pytestmark = pytest.mark.slow
LAYOUTS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "deliver": ("lidar", make_deliver),
    "deliver, flat": ("lidar", partial(make_deliver, layout="flat")),
    "fmb": ("thermal", make_fmb),
    "fmb, moved": ("thermal", partial(make_fmb, moved=True)),
    "muses": ("event", make_muses),
    "folder": ("lidar,thermal", make_folder),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_trains(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sensors, make = LAYOUTS[layout]
    make(tmp_path / "data")
    kind = layout.split(",")[0]
    size = "[64, 64]" if kind == "deliver" else "[64, 96]"
    more = [f"--dataset={kind}", f"--sensors={sensors}", "--model.preset=tiny"]
    more.append(f"--model.image_size={size}")
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
    subset = ("camera", *spec.sensors)
    assert spec.presence.trained_subsets == (subset,)
    made = "rasters of an unknown tool: no projection.json"
    assert (kind == "muses") == (made in spec.provenance.data) == (made in capsys.readouterr().out)
    assert spec.presence.scores["+".join(subset)].dataset == f"{kind} val"


def test_four_frames_are_overfitted(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", SENSORS, size=(64, 64), per_split={"train": 4, "val": 4})
    for path in root.glob("*/train_*"):
        shutil.copy(path, path.with_name(path.name.replace("train", "val")))
    more = [*NARROW, "--schedule.epochs=50", "--batch.effective=4", "--batch.per_device=4"]
    more += ["--optimiser.lr=1e-2", "--log.validate_every=25", "--log.pictures=0"]
    more += [
        f"--{key}=[64, 64]" for key in ("model.image_size", "augment.base_size", "augment.crop")
    ]
    run = train(run_config(tmp_path, *more))
    model, spec = load_model(run / "best.safetensors")
    best = spec.presence.scores["camera+lidar+thermal"].miou
    assert best >= 90

    # the node's way to the labels agrees
    segmenter = Segmenter(model, spec, device="cpu")
    right = total = 0
    for item in (frames := open_frames("folder", root, "train", SENSORS)):
        right += int((segmenter(item.frame).labels == item.label).sum())
        total += int((item.label != 255).sum())
    assert len(frames) == 4
    assert right / total > 0.9
