# SPDX-License-Identifier: Apache-2.0
"""Training sees what the node sees: one normalisation, one padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.trees import make_folder
from torch import Tensor
from torchvision import tv_tensors

from mmsam_ros.data.frames import Sample
from mmsam_ros.data.open import open_frames
from mmsam_ros.inference.geometry import Plan
from mmsam_ros.inference.prepare import prepare
from mmsam_ros.training.evaluate import as_frame
from mmsam_ros.training.inputs import network_inputs, pad_to
from mmsam_ros.weights import Spec, folder_setting, make_spec, setting_config


def folder_sample(root: Path, *sources: str) -> tuple[Sample, Spec]:
    make_folder(root, sources)
    frames = open_frames("folder", root, "train", sources)
    setting = folder_setting(frames.classes, frames.encodings, frames.limits)
    height, width = frames[0]["rgb"].shape[-2:]
    config = setting_config(setting, "nano", (height, width))
    return frames[0], make_spec(setting, config, data="", recipe="")


@pytest.mark.parametrize("sources", [("lidar", "thermal"), ("lidar",), ("thermal",)])
def test_training_and_node_give_the_network_the_same(
    tmp_path: Path, sources: tuple[str, ...]
) -> None:
    sample, spec = folder_sample(tmp_path, *sources)
    size = tuple(sample["rgb"].shape[-2:])
    ours = network_inputs(sample, spec)
    theirs, _ = prepare(as_frame(sample, spec), spec, Plan(size, size, size), torch.device("cpu"))
    assert ours.keys() == theirs.keys() == set(spec.config.modalities)
    for name, image in ours.items():
        assert torch.equal(image, theirs[name][0]), name


def test_missing_and_blank_sources_are_left_out(tmp_path: Path) -> None:
    sample, spec = folder_sample(tmp_path, "lidar", "thermal")
    whole = network_inputs(sample, spec)
    assert set(whole) == {"rgb", "lidar", "thermal"}
    sample["sources"]["thermal"] = torch.full_like(sample["sources"]["thermal"], 29000)
    part = network_inputs(sample, spec)
    assert set(part) == {"rgb", "lidar"}
    assert torch.equal(part["lidar"], whole["lidar"])
    del sample["sources"]["lidar"]
    assert set(network_inputs(sample, spec)) == {"rgb"}


def test_padding_is_zero_after_normalisation() -> None:
    config = setting_config("muses_rgb_lidar", "nano", (64, 96))
    spec = make_spec("muses_rgb_lidar", config, data="", recipe="")
    black = tv_tensors.Image(torch.zeros(3, 40, 50, dtype=torch.uint8))
    sample = Sample(name="x", rgb=black, sources={"lidar": torch.zeros(3, 40, 50)})
    label: Tensor = torch.zeros(40, 50, dtype=torch.uint8)
    inputs, padded = pad_to(network_inputs(sample, spec), label, (64, 96))
    for image in inputs.values():
        assert image.shape == (3, 64, 96)
        assert image[:, :40, :50].all()  # raw zero is not zero any more
        assert not image[:, 40:].any()
        assert not image[:, :, 50:].any()
    assert bool((padded[:40, :50] == 0).all())
    assert bool((padded[40:] == 255).all())
    assert bool((padded[:, 50:] == 255).all())
