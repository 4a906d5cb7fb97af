# SPDX-License-Identifier: Apache-2.0
"""Small data sets with nano networks for them, and `mmsam eval` on them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from support.randomise import randomise
from support.trees import make_deliver, make_fmb, make_folder, make_muses

from mmsam_ros.cli import evaluate as verb
from mmsam_ros.data.open import open_frames
from mmsam_ros.model import build_model
from mmsam_ros.training.evaluate import EvalConfig
from mmsam_ros.weights import folder_setting, make_spec, save_model, setting_config

MAKERS = {"deliver": make_deliver, "fmb": make_fmb, "muses": make_muses, "folder": make_folder}
SOURCES = {"deliver": ("lidar",), "fmb": ("thermal",), "muses": ("lidar",),
           "folder": ("lidar", "thermal")}  # fmt: skip


def prepared(folder: Path, kind: str, **changes: Any) -> EvalConfig:
    """Data and random weights in `folder`, which is made once; `changes` of the configuration."""
    root, weights = folder / kind, folder / f"{kind}.safetensors"
    lists = str(root / "lists") if kind == "fmb" else ""
    if not root.is_dir():
        MAKERS[kind](root)
        setting: Any = f"{kind}_rgb_{SOURCES[kind][0]}"
        if kind == "folder":
            frames = open_frames(kind, root, "test", SOURCES[kind])
            setting = folder_setting(frames.classes, frames.encodings, frames.limits)
        spec = make_spec(setting, setting_config(setting, "nano"), data="none", recipe="test")
        model = build_model(spec.config)
        randomise(model, seed=11)
        save_model(weights, model, spec)
    values = {"weights": str(weights), "root": str(root), "lists": lists, "device": "cpu"}
    return EvalConfig(**{**values, **changes})


def random_weights(folder: Path, setting: str, size: tuple[int, int]) -> str:
    """A nano network with random weights for a published setting, at a size (height, width)."""
    spec = make_spec(setting, setting_config(setting, "nano", size), data="none", recipe="test")
    model = build_model(spec.config)
    randomise(model, seed=0)
    path = folder / "w.safetensors"
    save_model(path, model, spec)
    return str(path)


def mmsam_eval(config: EvalConfig, *more: str) -> int:
    """`mmsam eval` with the configuration's paths and further options."""
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    paths = ["--weights", config.weights, "--root", config.root, "--lists", config.lists]
    return verb.run(parser.parse_args([*paths, "--device", "cpu", *more]))
