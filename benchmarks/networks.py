# SPDX-License-Identifier: Apache-2.0
"""Networks with random weights, and a clock for their device."""

import time

import torch
from torch import Tensor

from mmsam_ros.inference import TorchEngine
from mmsam_ros.inference.export import sample_inputs
from mmsam_ros.model import CombineConfig, MMSAMAdapter, ModelConfig, build_model


class Clock:
    """Seconds, once the device has done what it was given."""

    def __init__(self, device: str) -> None:
        self.device = device

    def now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def config_of(preset: str) -> ModelConfig:
    """`vit_l` with one auxiliary, as published; others with two and the gate, as the package's."""
    if preset.startswith("vit"):
        return ModelConfig.preset(preset, num_classes=25)
    modalities, combine = ("rgb", "lidar", "thermal"), CombineConfig("masked", gate=True)
    return ModelConfig.preset(preset, num_classes=14, modalities=modalities, combine=combine)


def network(config: ModelConfig, device: str) -> tuple[MMSAMAdapter, dict[str, Tensor]]:
    """A network in eval mode, and inputs with all modalities."""
    torch.manual_seed(0)
    model = build_model(config).eval().to(device)
    inputs = sample_inputs(config.modalities, (1, 3, *config.image_size))
    return model, {name: x.to(device) for name, x in inputs.items()}


def random_network(config: ModelConfig, device: str) -> tuple[TorchEngine, dict[str, Tensor]]:
    """The same in an engine, as users run it."""
    model, inputs = network(config, device)
    return TorchEngine(model, device), inputs
