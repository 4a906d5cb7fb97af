# SPDX-License-Identifier: Apache-2.0
"""Gradients: the same when activations are recomputed, and looked at before a step is made."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from runs import SENSORS, in_float64, run_config
from torch import Tensor, nn

from mmsam_ros.data.open import open_frames
from mmsam_ros.training.config import LossConfig
from mmsam_ros.training.devices import recompute_activations, start_fabric
from mmsam_ros.training.loader import FrameSampler, TrainingFrames, make_loader
from mmsam_ros.training.loop import (
    accumulate,
    gradient_size,
    loss_function,
    mean_over_processes,
    not_finite,
)
from mmsam_ros.training.start import build


def test_recomputing_changes_neither_names_nor_gradients(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    fabric = start_fabric(config.device)
    frames = open_frames("folder", config.data.root, "train", SENSORS)
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(3)
        net, spec = build(config, frames)
        names, parameters = list(net.state_dict()), list(net.parameters())
        network = fabric.setup_module(net.double())
        if recompute:
            recompute_activations(net)
            wrapped = [m for m in net.modules() if type(m).__name__ == "CheckpointWrapper"]
            # 4 blocks of SAM, 3 x 5 of ConvNeXt, 4 injectors, 4 + 2 extractors
            assert len(wrapped) == 4 + 15 + 4 + 6
        assert list(net.state_dict()) == names
        batch = next(make_loader(TrainingFrames(frames, spec, config), FrameSampler(4, config)))
        torch.manual_seed(4)  # drop paths
        accumulate(fabric, network, loss_function(config.loss), [in_float64(batch)])
        gradients.append([p.grad for p in parameters])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed)


class SquareRootAtZero(nn.Module):
    """A finite loss with gradients that are not: the slope of sqrt(0) times 0."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (0 * logits).sum().sqrt()


def test_gradients_that_are_not_finite_are_seen_before_the_step(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    fabric = start_fabric(config.device)
    frames = open_frames("folder", config.data.root, "train", SENSORS)
    net, spec = build(config, frames)
    network = fabric.setup_module(net)
    batch = next(make_loader(TrainingFrames(frames, spec, config), FrameSampler(4, config)))
    loss = accumulate(fabric, network, SquareRootAtZero(), [batch])
    assert loss.isfinite()
    loss, size = mean_over_processes(fabric, loss, gradient_size(net))
    assert loss == 0
    assert not math.isfinite(size)
    assert "a gradient is nan, the loss 0.0 at step 3" in str(not_finite(loss, size, 2, 0, 1, []))
    net.zero_grad()
    loss = accumulate(fabric, network, loss_function(config.loss), [batch])
    norms = [p.grad.norm() for p in net.parameters() if p.grad is not None]
    torch.testing.assert_close(gradient_size(net), torch.stack(norms).norm())


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
