# SPDX-License-Identifier: Apache-2.0
"""What a run begins with: the network, its spec, start weights, and what does not train."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence

from mmsam_ros._util import near_match
from mmsam_ros.data.frames import FrameSet
from mmsam_ros.data.transforms import fit_factor
from mmsam_ros.model import CombineConfig, MMSAMAdapter, ModelConfig, build_model
from mmsam_ros.model.config import legal_sizes
from mmsam_ros.model.prior import SpatialPrior
from mmsam_ros.training.config import StartConfig, TrainConfig
from mmsam_ros.training.errors import TrainingError
from mmsam_ros.weights import (
    SETTINGS,
    Setting,
    Spec,
    find_setting,
    folder_setting,
    load_convnext,
    load_model,
    load_sam_encoder,
    make_spec,
    setting_config,
)

SCRATCH = "scratch"


def benchmark_setting(dataset: str, sensors: Sequence[str]) -> Setting:
    """The setting of a benchmark; without sensors any one, they differ in the auxiliaries alone.

    Raises:
        WeightsError: there is none.
    """
    start = f"{dataset}_rgb_"
    any_name = next((name for name in SETTINGS if name.startswith(start)), start)
    return find_setting(f"{start}{'_'.join(sensors)}" if sensors else any_name)


def network_config(config: TrainConfig, setting: Setting) -> ModelConfig:
    """The network of a run.

    Raises:
        ModelError, TrainingError: its parts do not fit together, or it cannot take the crop.
    """
    net = config.model
    built = setting_config(
        setting, net.preset, net.image_size, rgb_only=net.inputs == "rgb",
        combine=net.combine if net.inputs == "all" else CombineConfig(),
        encoder=net.encoder, prior=net.prior, trunk=net.trunk, fusion=net.fusion,
        interaction=net.interaction, head=net.head,
    )  # fmt: skip
    legal = legal_sizes(built.image_size)
    if config.augment.crop not in legal:
        raise TrainingError(
            f"augment.crop: found {config.augment.crop}, but the network's image_size "
            f"{built.image_size} takes {', '.join(map(str, legal))}"
        )
    return built


def build(config: TrainConfig, frames: FrameSet) -> tuple[MMSAMAdapter, Spec]:
    """Network and spec for a run on `frames`; scratch is drawn from torch's generator.

    Raises:
        TrainingError: a key of the configuration does not fit.
        ModelError, WeightsError: network or start weights do not fit.
    """
    if frames.kind == "folder":
        # points are as large for the node as they are after the augmentation's plain resize
        growth = 2
        if frames.growth:
            factor = fit_factor(frames.camera_size, config.augment.base_size)
            growth = max(1, round(frames.growth * factor))
        setting = Setting("folder_rgb", frames.classes, {}, (1024, 1024))
        if config.sensors:
            setting = folder_setting(frames.classes, frames.encodings, frames.limits, growth)
    else:
        setting = benchmark_setting(config.dataset, config.sensors)
    model = build_model(network_config(config, setting))
    data = f"{'+'.join(('camera', *config.sensors))} of {config.dataset}"
    spec = make_spec(
        setting,
        model.config,
        trained=True,
        dropped=config.modality_dropout > 0,
        data=f"{frames.kind}, {len(frames)} frames of {frames.split}",
        recipe=f"{data}, {config.model.preset}, {config.schedule.epochs} epochs",
        seed=config.seed,
    )
    _load(model, config.start, spec)
    freeze(model, config.start.freeze)
    return model, spec


def start_line(start: StartConfig) -> str:
    """Where the weights came from and what stays as it is, for people."""
    parts = f"encoder {start.sam}, trunks {start.convnext}"
    frozen = f"; frozen: {', '.join(start.freeze)}" if start.freeze else ""
    return f"start weights: {start.weights or parts}{frozen}"


def _load(model: MMSAMAdapter, start: StartConfig, spec: Spec) -> None:
    if start.weights:
        loaded, found = load_model(start.weights)
        ours, theirs = spec.config.to_dict(), found.config.to_dict()
        if keys := [key for key in ours if ours[key] != theirs[key]]:
            raise TrainingError(
                f"{start.weights}: its network differs from the run's in {', '.join(keys)}"
            )
        names, others = ([info.name for info in s.classes] for s in (spec, found))
        if names != others:
            raise TrainingError(f"{start.weights}: its classes are {others}, the run's {names}")
        for name, given in spec.inputs.items():
            # a point's size and a thermal image's limits belong to the cameras
            other = dataclasses.replace(
                found.inputs[name], growth=given.growth, limits=given.limits
            )
            if given != other:
                raise TrainingError(f"{start.weights}: its input {name} is {other}, now {given}")
        model.load_state_dict(loaded.state_dict())
        return
    if start.sam != SCRATCH:
        load_sam_encoder(model, start.sam)
    if start.convnext != SCRATCH and isinstance(model.prior, SpatialPrior):
        load_convnext(model, start.convnext)


def freeze(model: MMSAMAdapter, prefixes: tuple[str, ...]) -> None:
    """Take the parameters below these prefixes out of the training; LoRA's own still train.

    Raises:
        TrainingError: a prefix that no parameter has.
    """
    for prefix in prefixes:
        below = [(n, p) for n, p in model.named_parameters() if f"{n}.".startswith(f"{prefix}.")]
        if not below:
            parts = {name.split(".")[0] for name, _ in model.named_parameters()}
            raise TrainingError(
                f"start.freeze: no parameter below {prefix!r}{near_match(prefix, parts)}"
            )
        for name, p in below:
            p.requires_grad = ".lora_" in name


_COMPONENTS = (
    r"(encoder|head)\.",
    r"(prior\.trunks\.\w+)\.",
    r"(prior\.\w+)\.",
    r"interactions\.\d+\.(injector)\.",
    r"interactions\.\d+\.(?:extra_)?(extractor)s?\.",
)


def components(model: MMSAMAdapter) -> dict[str, tuple[int, int]]:
    """Parameters by part of the network: all, and those that train."""
    total: Counter[str] = Counter()
    trainable: Counter[str] = Counter()
    for name, p in model.named_parameters():
        pattern = next((m for c in _COMPONENTS if (m := re.match(c, name))), None)
        part = pattern[1] if pattern else "level_embed, up, norms"
        part = "LoRA" if ".lora_" in name else part
        total[part] += p.numel()
        trainable[part] += p.numel() * p.requires_grad
    return {part: (count, trainable[part]) for part, count in total.items()}
