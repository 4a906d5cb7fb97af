# SPDX-License-Identifier: Apache-2.0
"""Training sees what the node sees: one normalisation, one padding."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from support.networks import spec_for, spec_of
from support.trees import make_folder
from torch import Tensor
from torchvision import tv_tensors

from mmsam_ros.data.frames import FrameSet, Sample
from mmsam_ros.data.open import open_frames
from mmsam_ros.inference.geometry import Plan
from mmsam_ros.inference.prepare import prepare
from mmsam_ros.sensors import Frame
from mmsam_ros.training.loader import network_inputs, pad_to
from mmsam_ros.weights import Geometry, Spec

CPU = torch.device("cpu")


def folder(root: Path, *sensors: str, **options: object) -> tuple[FrameSet, Spec]:
    make_folder(root, sensors, **options)  # type: ignore[arg-type]
    frames = open_frames("folder", root, "train", sensors)
    return frames, spec_for(frames, image_size=frames[0].frame.size)


def as_the_node(frame: Frame, spec: Spec) -> dict[str, Tensor]:
    """The network's inputs (3, h, w) at the image's own size."""
    size = (frame.rgb.shape[0], frame.rgb.shape[1])
    prepared = prepare(frame, spec, Plan.of(Geometry("pad", size), size), CPU)
    assert not prepared.refused
    return {name: image[0] for name, image in prepared.inputs.items()}


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("sensors", [("lidar", "thermal"), ("lidar",), ("thermal",)])
@pytest.mark.parametrize(
    "encodings",
    [
        {"lidar": "muses_raw", "thermal": "mono16"},
        {"lidar": "muses_png16", "thermal": "frame_gain"},
    ],
)
def test_training_and_node_give_the_network_the_same(
    tmp_path: Path, sensors: tuple[str, ...], calibrated: bool, encodings: dict[str, str]
) -> None:
    frames, spec = folder(tmp_path, *sensors, calibrated=calibrated, encodings=encodings)
    item = frames[0]
    ours, theirs = network_inputs(frames.sample(item), spec), as_the_node(item.frame, spec)
    assert ours.keys() == theirs.keys() == set(spec.config.modalities)
    for name, image in ours.items():
        assert torch.equal(image, theirs[name]), name


def test_missing_and_blank_sensors_are_left_out(tmp_path: Path) -> None:
    frames, spec = folder(tmp_path, "lidar", "thermal")
    item = frames[0]
    sample = frames.sample(item)
    whole = network_inputs(sample, spec)
    assert set(whole) == {"rgb", "lidar", "thermal"}
    sample["planes"]["thermal"] = tv_tensors.Image(torch.full((1, *item.frame.size), 120.0))
    part = network_inputs(sample, spec)
    assert set(part) == {"rgb", "lidar"}
    assert torch.equal(part["lidar"], whole["lidar"])
    del sample["planes"]["lidar"]
    assert set(network_inputs(sample, spec)) == {"rgb"}
    alone = dataclasses.replace(item.frame, sensors={})
    assert set(as_the_node(alone, spec)) == {"rgb"}


def test_padding_is_zero_after_normalisation() -> None:
    spec = spec_of("muses_rgb_lidar", image_size=(64, 96))
    black = tv_tensors.Image(torch.zeros(3, 40, 50, dtype=torch.uint8))
    sample = Sample(rgb=black, planes={"lidar": tv_tensors.Image(torch.zeros(3, 40, 50))})
    label: Tensor = torch.zeros(40, 50, dtype=torch.uint8)
    inputs, padded = pad_to(network_inputs(sample, spec), label, (64, 96))
    assert set(inputs) == {"rgb", "lidar"}
    for image in inputs.values():
        assert image.shape == (3, 64, 96)
        assert image[:, :40, :50].all()  # raw zero is not zero any more
        assert not image[:, 40:].any()
        assert not image[:, :, 50:].any()
    assert bool((padded[:40, :50] == 0).all())
    assert bool((padded[40:] == 255).all())
    assert bool((padded[:, 50:] == 255).all())
