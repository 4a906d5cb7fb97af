# SPDX-License-Identifier: Apache-2.0
"""Configuration of a training run; the defaults are the published recipe (arXiv 2509.10408)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from mmsam_ros._util import Checked, MmsamError, ranged
from mmsam_ros.data.transforms import AugmentConfig
from mmsam_ros.model import config as network
from mmsam_ros.training.errors import TrainingError


class _Config(Checked):
    error: ClassVar[type[MmsamError]] = TrainingError


@dataclass(frozen=True)
class DataConfig(_Config):
    """Where the frames come from.

    Attributes:
        root: top folder of the data set.
        lists: folder of FMB's easy and hard lists; other data sets need none.
        workers: loading processes of each device.
    """

    root: str = ""
    lists: str = ""
    workers: int = ranged(4, 0)


@dataclass(frozen=True)
class NetworkConfig(_Config):
    """The network: a preset and what differs from it. Several auxiliaries are combined by presence
    unless `combine` says otherwise.

    Attributes:
        preset: defaults of the network's other keys; `vit_l` is published.
        image_size: [height, width] of the input; null for the data set's, or the preset's own.
        inputs: `rgb` leaves out the auxiliaries.
    """

    preset: network.Preset = "vit_l"
    image_size: network.Size | None = None
    inputs: Literal["all", "rgb"] = "all"
    encoder: network.EncoderConfig = network.EncoderConfig()
    combine: network.CombineConfig = network.CombineConfig()
    prior: network.PriorConfig = network.PriorConfig()
    trunk: network.TrunkConfig = network.TrunkConfig()
    fusion: network.FusionConfig = network.FusionConfig()
    interaction: network.InteractionConfig = network.InteractionConfig()
    head: network.HeadConfig = network.HeadConfig()


@dataclass(frozen=True)
class StartConfig(_Config):
    """What the weights start from, and what does not train.

    Attributes:
        sam: official SAM checkpoint (`sam_vit_b`, `sam_vit_l`, `sam_vit_h`, or a file, which may
            be an mmsam weights file), or `scratch`.
        convnext: ConvNeXt weights for every trunk (a file or a timm model name), or `scratch`; of
            an mmsam weights file the RGB trunk's.
        weights: mmsam weights file to start from instead of the two.
        freeze: prefixes of the names of parameters that do not train; LoRA's own still do.
    """

    sam: str = "sam_vit_l"
    convnext: str = "convnext_small.fb_in22k_ft_in1k_384"
    weights: str = ""
    freeze: tuple[str, ...] = ()


@dataclass(frozen=True)
class LossConfig(_Config):
    """The loss.

    Attributes:
        kind: `ohem` (cross-entropy of the hard pixels, published) or plain `ce`.
        threshold: OHEM: probability of the true class from which a pixel is easy.
        min_kept: OHEM: least number of pixels to keep, easy ones included.
    """

    kind: Literal["ohem", "ce"] = "ohem"
    threshold: float = ranged(0.7, 0, 1)
    min_kept: int = ranged(100_000, 0)


@dataclass(frozen=True)
class OptimiserConfig(_Config):
    """AdamW with layer-wise decay of the learning rate.

    Attributes:
        lr: peak learning rate, for this `batch.effective`.
        betas: AdamW's decay rates of the moments.
        weight_decay: AdamW's weight decay.
        layer_decay: factor on the learning rate from each encoder block to the one before it.
        ema: decay of the averaged weights per step; 0 keeps no average (published).
    """

    lr: float = ranged(2e-4, 0)
    betas: tuple[float, float] = ranged((0.9, 0.999), 0, 1, below=True)
    weight_decay: float = ranged(0.01, 0)
    layer_decay: float = ranged(0.9, 0, 1)
    ema: float = ranged(0.0, 0, 1)


@dataclass(frozen=True)
class ScheduleConfig(_Config):
    """Poly decay per epoch with an exponential warm-up per step.

    Attributes:
        epochs: length of the run.
        power: exponent of the decay.
        warmup_epochs: length of the warm-up.
        warmup_ratio: share of the learning rate that the warm-up starts from.
    """

    epochs: int = ranged(100, 1)
    power: float = ranged(0.9, 0)
    warmup_epochs: int = ranged(10, 0)
    warmup_ratio: float = ranged(0.1, 1e-6, 1)


@dataclass(frozen=True)
class BatchConfig(_Config):
    """Frames per optimiser step and per forward pass; gradients are accumulated in between.

    Attributes:
        effective: frames of an optimiser step, over all devices.
        per_device: frames of a forward pass on one device.
    """

    effective: int = ranged(8, 1)
    per_device: int = ranged(1, 1)


@dataclass(frozen=True)
class DeviceConfig(_Config):
    """Devices and arithmetic, for Lightning Fabric.

    Attributes:
        accelerator: `auto` takes GPUs if there are any.
        devices: devices of each node; 0 for all (one process on a CPU).
        nodes: number of machines.
        strategy: how several devices share the work.
        precision: `fp32` (published) or `bf16` (mixed).
        checkpointing: recompute activations in the backward pass instead of keeping them.
    """

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = ranged(0, 0)
    nodes: int = ranged(1, 1)
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpointing: bool = True


@dataclass(frozen=True)
class LogConfig(_Config):
    """How often things are written.

    Attributes:
        every: steps between log lines.
        checkpoint_every: steps between checkpoints.
        pictures: pictures of each validation.
        validate_every: epochs between validations.
    """

    every: int = ranged(10, 1)
    checkpoint_every: int = ranged(500, 1)
    pictures: int = ranged(4, 0)
    validate_every: int = ranged(1, 1)


@dataclass(frozen=True)
class TrainConfig(_Config):
    """A whole run.

    Attributes:
        dataset: kind of data set: `deliver`, `fmb`, `muses` or `folder`.
        sensors: sensors besides the camera, in the network's order.
        out: run directory.
        seed: of initialisation, order and augmentation.
        modality_dropout: probability that an auxiliary is left out of a frame, for each.
    """

    dataset: str
    sensors: tuple[str, ...]
    out: str = "out/train"
    seed: int = ranged(0, 0, 2**32 - 1)
    modality_dropout: float = ranged(0.0, 0, 1, below=True)
    data: DataConfig = DataConfig()
    model: NetworkConfig = NetworkConfig()
    start: StartConfig = StartConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch: BatchConfig = BatchConfig()
    device: DeviceConfig = DeviceConfig()
    log: LogConfig = LogConfig()

    def check(self) -> None:
        given = bool(self.sensors) or self.model.inputs == "rgb"
        self.require(given, "sensors", "at least one, or model.inputs 'rgb'")
        self.require(len(set(self.sensors)) == len(self.sensors), "sensors", "each once")
