# SPDX-License-Identifier: Apache-2.0
"""Small data sets with nano networks for them, and `mmsam eval` on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.networks import random_network, spec_for, spec_of
from support.trees import make_deliver, make_fmb, make_folder, make_muses

from mmsam_ros.data.open import open_frames
from mmsam_ros.training.evaluate import EvalConfig
from mmsam_ros.weights import save_model

MAKERS = {"deliver": make_deliver, "fmb": make_fmb, "muses": make_muses, "folder": make_folder}
SENSORS = {"deliver": ("lidar",), "fmb": ("thermal",), "muses": ("lidar",),
           "folder": ("lidar", "thermal")}  # fmt: skip


def prepared(folder: Path, kind: str, **changes: Any) -> EvalConfig:
    """Data and random weights in `folder`, which is made once; `changes` of the configuration."""
    root, weights = folder / kind, folder / f"{kind}.safetensors"
    lists = str(root / "lists") if kind == "fmb" else ""
    if not root.is_dir():
        MAKERS[kind](root)
        spec = spec_for(open_frames(kind, root, "test", SENSORS[kind], lists))
        save_model(weights, random_network(spec), spec)
    values = {"weights": str(weights), "root": str(root), "lists": lists, "device": "cpu"}
    values["workers"] = 0
    return EvalConfig(**{**values, **changes})


def random_weights(folder: Path, network: str, size: tuple[int, int]) -> str:
    """Random weights of one of `NETWORKS`, as `nano`, for images of a size (height, width)."""
    spec = spec_of(network, image_size=size)
    path = folder / "w.safetensors"
    save_model(path, random_network(spec, seed=0), spec)
    return str(path)
