# SPDX-License-Identifier: Apache-2.0
"""Configuration of a training run; the defaults are the published recipe (arXiv 2509.10408)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mmsam_ros._util import Checked, MmsamError, ranged
from mmsam_ros.data.transforms import AugmentConfig
from mmsam_ros.model import config as network


class TrainingError(MmsamError):
    """A configuration, run directory or machine that training or evaluation cannot use."""


class _Config(Checked):
    """The comments beside fields, or those in "Attributes:", are the help texts of the keys."""

    error: ClassVar[type[MmsamError]] = TrainingError


@dataclass(frozen=True)
class MixConfig(_Config):
    """A further data set to train on. Its labels mean classes of the run's own (`any_of`)."""

    root: str  # top folder of the data set
    dataset: str = "folder"  # kind of data set
    weight: float = ranged(1.0, 0)  # share of the frames; the shares of all sets are scaled to 1


@dataclass(frozen=True)
class DataConfig(_Config):
    """Where the frames come from.

    Attributes:
        root: top folder of the data set.
        lists: folder of FMB's easy and hard lists; other data sets need none.
        weight: share of the frames where `mix` adds other data sets.
        mix: further data sets to train on, by names of one's own; keys of each are `root`,
            `dataset` (kind, default `folder`) and `weight` (share of the frames, default 1).
        workers: loading processes of each device.
    """

    root: str = ""
    lists: str = ""
    weight: float = ranged(1.0, 0)
    mix: Mapping[str, MixConfig] = field(default_factory=dict)
    workers: int = ranged(4, 0)

    def check(self) -> None:
        self.require(any(self.shares), "weight", "a share above 0, here or in mix")

    @property
    def shares(self) -> tuple[float, ...]:
        """The weights of the data sets: that of `root`, and those of `mix`."""
        return (self.weight, *(part.weight for part in self.mix.values()))


@dataclass(frozen=True)
class NetworkConfig(_Config):
    """The network: a preset and what differs from it. Several auxiliaries are combined by presence
    unless `combine` says otherwise.
    """

    preset: network.Preset = "vit_l"  # defaults of the network's other keys; `vit_l` is published
    image_size: network.Size | None = None  # [height, width]; null: the data set's or the preset's
    inputs: Literal["all", "rgb"] = "all"  # `rgb` leaves out the auxiliaries
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
        fallback: mmsam weights file of the network of RGB alone, for `combine.absent: fallback`; it
            stays as it is, and what the auxiliaries add to it begins with zero.
        auxiliaries: with `fallback`, mmsam weights file whose auxiliary trunks and fusions to begin
            with, instead of `convnext` and chance.
        freeze: prefixes of the names of parameters that do not train, `*` stands for anything;
            LoRA's own still do.
    """

    sam: str = "sam_vit_l"
    convnext: str = "convnext_small.fb_in22k_ft_in1k_384"
    weights: str = ""
    fallback: str = ""
    auxiliaries: str = ""
    freeze: tuple[str, ...] = ()


@dataclass(frozen=True)
class LossConfig(_Config):
    """The loss.

    Attributes:
        class_weights: factors on the losses of the pixels of each class, in the classes' order;
            empty for none (published). The mean stays over the number of pixels.
        gate: weight of the gates' squared error, see docs/network.md; with `combine.absent:
            fallback`, whose network of RGB alone says where it is right. 0 for none.
        keep: weight of the divergence from that network's classes where the labels leave it open;
            with `combine.absent: fallback`. 0 for none.
    """

    kind: Literal["ohem", "ce"] = "ohem"  # cross-entropy of hard pixels (`ohem`, published) or all
    threshold: float = ranged(0.7, 0, 1)  # OHEM: true-class probability that makes a pixel easy
    min_kept: int = ranged(100_000, 0)  # OHEM: least number of pixels to keep, easy ones included
    frames: int = ranged(0, 0)  # OHEM: frames that share `min_kept`; 0: all of a forward pass
    class_weights: tuple[float, ...] = ranged((), 0)
    gate: float = ranged(0.0, 0)
    keep: float = ranged(0.0, 0)


@dataclass(frozen=True)
class OptimiserConfig(_Config):
    """AdamW with layer-wise decay of the learning rate."""

    lr: float = ranged(2e-4, 0)  # peak learning rate, for this `batch.effective`
    betas: tuple[float, float] = ranged((0.9, 0.999), 0, 1, below=True)  # decay of AdamW's moments
    weight_decay: float = ranged(0.01, 0)  # AdamW's weight decay
    layer_decay: float = ranged(0.9, 0, 1)  # learning rate of an encoder block over the next one's
    ema: float = ranged(0.0, 0, 1, below=True)  # decay of the averaged weights per step; 0: none
    clip_grad_norm: float = ranged(0.0, 0)  # largest norm of all gradients; 0 for any (published)


@dataclass(frozen=True)
class ScheduleConfig(_Config):
    """Poly decay per epoch with an exponential warm-up per step.

    Attributes:
        patience: early stopping: the run ends after so many validations in a row without a better
            mIoU; 0 for never (published).
    """

    epochs: int = ranged(100, 1)  # length of the run; a resumed one may be longer
    power: float = ranged(0.9, 0)  # exponent of the decay
    warmup_epochs: int = ranged(10, 0)  # length of the warm-up
    warmup_ratio: float = ranged(0.1, 1e-6, 1)  # share of the learning rate at the start of warm-up
    patience: int = ranged(0, 0)


@dataclass(frozen=True)
class BatchConfig(_Config):
    """Frames per optimiser step and per forward pass; gradients are accumulated in between."""

    effective: int = ranged(8, 1)  # frames of an optimiser step, over all devices
    per_device: int = ranged(1, 1)  # frames of a forward pass on one device


@dataclass(frozen=True)
class DeviceConfig(_Config):
    """Devices and arithmetic, for Lightning Fabric."""

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"  # `auto` takes GPUs if there are any
    devices: int = ranged(0, 0)  # devices of each node; 0 for all (one process on a CPU)
    nodes: int = ranged(1, 1)  # number of machines
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"  # how several devices share the work
    precision: Literal["fp32", "tf32", "bf16-mixed"] = "fp32"  # `tf32` (GPU only) is published
    checkpointing: bool = True  # recompute activations in the backward pass instead of keeping them

    @property
    def inference(self) -> Literal["fp32", "bf16"]:
        """The precision as inference names it."""
        return "bf16" if self.precision == "bf16-mixed" else "fp32"


@dataclass(frozen=True)
class LogConfig(_Config):
    """How often things are written, and how many are kept.

    Attributes:
        keep_best: weights to keep, of the validations with the best mIoU: best.safetensors, and
            from 2 on best_epoch_<epoch>.safetensors of each.
    """

    every: int = ranged(10, 1)  # steps between log lines
    checkpoint_every: int = ranged(500, 1)  # steps between checkpoints
    pictures: int = ranged(4, 0)  # pictures of each validation
    validate_every: int = ranged(1, 1)  # epochs between validations
    keep_best: int = ranged(1, 1)


@dataclass(frozen=True)
class TrainConfig(_Config):
    """A whole run."""

    dataset: str  # kind of data set: `deliver`, `fmb`, `muses` or `folder`
    sensors: tuple[str, ...]  # sensors besides the camera, in the network's order
    out: str = "out/train"  # run directory
    seed: int = ranged(0, 0, 2**32 - 1)  # of initialisation, order and augmentation
    modality_dropout: float = ranged(0.0, 0, 1, below=True)  # probability per frame and auxiliary
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
        combine, reads = self.model.combine, self.model.inputs == "all"
        falls_back = reads and combine.absent == "fallback"
        expected = "0 without model.combine.absent 'fallback'"
        self.require(falls_back or not self.loss.keep, "loss.keep", expected)
        gated, expected = falls_back and combine.gate, f"{expected} and model.combine.gate true"
        self.require(gated or not self.loss.gate, "loss.gate", expected)
