# SPDX-License-Identifier: Apache-2.0
"""Configuration of a training run; the defaults are the published recipe (arXiv 2509.10408)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmsam_ros._util import near_match
from mmsam_ros.data.transforms import AugmentConfig
from mmsam_ros.model.config import (
    CombineConfig,
    EncoderConfig,
    FusionConfig,
    HeadConfig,
    InteractionConfig,
    PriorConfig,
    Size,
    TrunkConfig,
)
from mmsam_ros.training.errors import TrainingError


def _in_range(part: object, name: str, *fields: str, low: float, high: float = math.inf) -> None:
    for field_name in fields:
        value = getattr(part, field_name)
        if not low <= value <= high:
            expected = f"at least {low}" if high == math.inf else f"{low} to {high}"
            raise TrainingError(f"{name}.{field_name}: found {value}, expected {expected}")


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise TrainingError(f"{name}: found {value!r}{near_match(value, known)}")


@dataclass(frozen=True)
class DataConfig:
    """Where the frames come from.

    Attributes:
        root: the data set's top folder.
        lists: folder of FMB's easy/hard lists; other kinds need none.
        workers: loading processes per device.
    """

    root: str = ""
    lists: str = ""
    workers: int = 4

    def __post_init__(self) -> None:
        _in_range(self, "data", "workers", low=0)


@dataclass(frozen=True)
class NetworkConfig:
    """The network: a preset and what differs from it.

    Attributes:
        preset: `vit_b`, `vit_l` (published), `vit_h`, `tiny`, `nano`; gives the defaults below.
        image_size: (height, width) of the input; None: the setting's, or the preset's own.
        inputs: `all`, or `rgb` for a network without auxiliary.
    """

    preset: str = "vit_l"
    image_size: Size | None = None
    inputs: str = "all"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    combine: CombineConfig = field(default_factory=CombineConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    interaction: InteractionConfig = field(default_factory=InteractionConfig)
    head: HeadConfig = field(default_factory=HeadConfig)

    def __post_init__(self) -> None:
        _one_of("model.inputs", self.inputs, ("all", "rgb"))


@dataclass(frozen=True)
class StartConfig:
    """What the weights start from, and what does not train.

    Attributes:
        sam: official SAM checkpoint (`sam_vit_b`, `sam_vit_l`, `sam_vit_h`, or a file, which may
            be an mmsam weights file), or `scratch`.
        convnext: ConvNeXt weights (file or timm model name) for every trunk, or `scratch`; of an
            mmsam weights file the RGB trunk's.
        weights: an mmsam weights file to go on from instead of the two.
        freeze: prefixes of parameter names that stay as they are; LoRA's own still train.
    """

    sam: str = "sam_vit_l"
    convnext: str = "convnext_small.fb_in22k_ft_in1k_384"
    weights: str = ""
    freeze: tuple[str, ...] = ()


@dataclass(frozen=True)
class LossConfig:
    """`ohem` (published) or plain `ce`; threshold and pixels kept are OHEM's."""

    kind: str = "ohem"
    threshold: float = 0.7
    min_kept: int = 100_000

    def __post_init__(self) -> None:
        _one_of("loss.kind", self.kind, ("ohem", "ce"))
        _in_range(self, "loss", "threshold", low=0, high=1)
        _in_range(self, "loss", "min_kept", low=0)


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with layer-wise decay of the learning rate.

    Attributes:
        ema: decay of the averaged weights per step; 0 keeps none (published).
    """

    lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    layer_decay: float = 0.9
    ema: float = 0.0

    def __post_init__(self) -> None:
        _in_range(self, "optimiser", "lr", "weight_decay", low=0)
        _in_range(self, "optimiser", "layer_decay", "ema", low=0, high=1)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise TrainingError(f"optimiser.betas: found {self.betas}, expected 0 to 1, 1 excluded")


@dataclass(frozen=True)
class ScheduleConfig:
    """Poly decay per epoch with an exponential warm-up per step."""

    epochs: int = 100
    power: float = 0.9
    warmup_epochs: int = 10
    warmup_ratio: float = 0.1

    def __post_init__(self) -> None:
        _in_range(self, "schedule", "epochs", low=1)
        _in_range(self, "schedule", "power", "warmup_epochs", low=0)
        _in_range(self, "schedule", "warmup_ratio", low=1e-6, high=1)


@dataclass(frozen=True)
class BatchConfig:
    """Frames per optimiser step over all devices, and per device and forward pass."""

    effective: int = 8
    per_device: int = 1

    def __post_init__(self) -> None:
        _in_range(self, "batch", "effective", "per_device", low=1)


@dataclass(frozen=True)
class DeviceConfig:
    """Machines and arithmetic, for Lightning Fabric.

    Attributes:
        accelerator: `auto`, `cuda` or `cpu`.
        devices: `auto`, or their number on each node.
        nodes: machines.
        strategy: `auto`, `ddp` or `fsdp`.
        precision: `32` (published) or `bf16-mixed`.
        checkpointing: recompute activations in the backward pass instead of keeping them.
    """

    accelerator: str = "auto"
    devices: str = "auto"
    nodes: int = 1
    strategy: str = "auto"
    precision: str = "32"
    checkpointing: bool = True

    def __post_init__(self) -> None:
        _one_of("device.accelerator", self.accelerator, ("auto", "cuda", "cpu"))
        _one_of("device.strategy", self.strategy, ("auto", "ddp", "fsdp"))
        _one_of("device.precision", self.precision, ("32", "bf16-mixed"))
        _in_range(self, "device", "nodes", low=1)


@dataclass(frozen=True)
class LogConfig:
    """How often things are written: steps between log lines and between checkpoints, pictures per
    validation, epochs between validations.
    """

    every: int = 10
    checkpoint_every: int = 500
    pictures: int = 4
    validate_every: int = 1

    def __post_init__(self) -> None:
        _in_range(self, "log", "every", "checkpoint_every", "validate_every", low=1)
        _in_range(self, "log", "pictures", low=0)


@dataclass(frozen=True)
class TrainConfig:
    """A whole run.

    Attributes:
        setting: `deliver_rgb_lidar` and the like (see `weights.SETTINGS`), or `folder_rgb_` and
            the folders' sources, e.g. `folder_rgb_lidar_thermal`.
        out: the run's folder.
        seed: of initialisation, order and augmentation.
        modality_dropout: how likely each auxiliary of a frame is taken away, 0 to 1.
    """

    dataset: str
    sensors: tuple[str, ...] = ()
    out: str = "out/train"
    seed: int = 0
    modality_dropout: float = 0.0
    data: DataConfig = DataConfig()
    model: NetworkConfig = NetworkConfig()
    start: StartConfig = StartConfig()
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch: BatchConfig = BatchConfig()
    device: DeviceConfig = DeviceConfig()
    log: LogConfig = LogConfig()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise TrainingError(f"seed: found {self.seed}, expected 0 to {2**32 - 1}")
        if not 0 <= self.modality_dropout < 1:
            raise TrainingError(
                f"modality_dropout: found {self.modality_dropout}, expected 0 to 1, 1 excluded"
            )
