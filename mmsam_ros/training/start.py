# SPDX-License-Identifier: Apache-2.0
"""What a run begins with: the network, its spec, start weights, and what does not train."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from mmsam_ros._util import near_match, require
from mmsam_ros.data.benchmark import Benchmark
from mmsam_ros.data.frames import FrameSet
from mmsam_ros.data.open import find_benchmark, open_frames
from mmsam_ros.data.transforms import fit_factor
from mmsam_ros.inference.geometry import Plan
from mmsam_ros.model import CombineConfig, MMSAMAdapter, ModelConfig, build_model
from mmsam_ros.model.config import Size, legal_sizes
from mmsam_ros.model.prior import SpatialPrior
from mmsam_ros.sensors import (
    FIELDS,
    LIMITS,
    RGB,
    ClassInfo,
    Modality,
    PlaneSample,
    Seen,
    channel_statistics,
    frame_planes,
    made_of_points,
    sample_planes,
    stored_alike,
)
from mmsam_ros.training.config import StartConfig, TrainConfig, TrainingError
from mmsam_ros.weights import Geometry, Spec, load_convnext, load_model, load_sam_encoder, make_spec
from mmsam_ros.weights.spec import empty_value

Mode = Literal["pad", "resize", "slide"]
Modalities = Mapping[str, Modality]  # by sensor


def network_config(
    benchmark: Benchmark,
    classes: Sequence[ClassInfo],
    modalities: Modalities,
    preset: str = "vit_l",
    image_size: Size | None = None,
    **changes: Any,
) -> ModelConfig:
    """The network of a data set, with the auxiliaries that `modalities` has.

    `tiny` and `nano` keep their own size unless one is given. Several auxiliaries are combined by
    presence, with RGB's reliability gate, unless `changes` (fields of `ModelConfig`) differ.
    ModelError for an unknown preset, or a size that no network takes.
    """
    if image_size is None and preset not in ("tiny", "nano"):
        image_size = benchmark.network_size
    changes = {"combine": default_combine(len(modalities)), "image_size": image_size, **changes}
    read = (RGB, *modalities)
    config = ModelConfig.preset(preset, num_classes=len(classes), modalities=read, **changes)
    return dataclasses.replace(config, empty=empty_value(config, modalities))


def default_combine(auxiliaries: int) -> CombineConfig:
    """How so many auxiliaries are combined unless asked otherwise; one: as published."""
    return CombineConfig("masked", gate=True) if auxiliaries > 1 else CombineConfig()


def benchmark_geometry(mode: Mode, benchmark: Benchmark, size: Size) -> Geometry:
    """A geometry of the benchmark's for a network of `size`; strides shrink with it."""
    if mode != "slide":
        return Geometry(mode, size)
    rows, columns = benchmark.stride or benchmark.network_size
    full_rows, full_columns = benchmark.network_size
    return Geometry(mode, size, (size[0] * rows // full_rows, size[1] * columns // full_columns))


def open_split(config: TrainConfig, split: str) -> FrameSet:
    """The frames of a run's data set; errors as `open_frames`."""
    data = config.data
    return open_frames(config.dataset, data.root, split, config.sensors, data.lists)


def build(config: TrainConfig, frames: FrameSet) -> tuple[MMSAMAdapter, Spec]:
    """Network and spec for a run on `frames`; scratch is drawn from torch's generator.

    Raises:
        ModelError, TrainingError: a key of the configuration does not fit, or the network cannot
            take the crop.
        WeightsError: start weights do not fit.
    """
    benchmark = find_benchmark(frames.dataset)
    modalities = {s: _as_augmented(m, frames, config) for s, m in frames.modalities.items()}
    network = network_of(config, benchmark, frames.classes, modalities)
    model = build_model(network)
    geometry = benchmark_geometry(benchmark.mode, benchmark, network.image_size)
    sensors = f"{'+'.join(('camera', *network.auxiliaries))} of {frames.dataset}"
    provenance = {
        "data": f"{frames.dataset}, {len(frames)} frames of {frames.split}",
        "recipe": f"{sensors}, {config.model.preset}, {config.schedule.epochs} epochs",
        "seed": config.seed,
    }
    dropped = config.modality_dropout > 0
    spec = make_spec(
        network, modalities, frames.classes, geometry, trained=True, dropped=dropped, **provenance
    )
    spec = dataclasses.replace(spec, seen=look_at(frames, spec))
    _load(model, config.start, spec)
    freeze(model, config.start.freeze)
    return model, spec


def network_of(
    config: TrainConfig, benchmark: Benchmark, classes: Sequence[ClassInfo], modalities: Modalities
) -> ModelConfig:
    """The network of a run; ModelError or TrainingError where parts or the crop do not fit it."""
    net = config.model
    reads = net.inputs == "all" and bool(modalities)
    if not reads and net.combine != CombineConfig():
        for key, default in dataclasses.asdict(default_combine(len(config.sensors))).items():
            expected = "no such key with model.inputs 'rgb': there is no auxiliary to combine"
            found = getattr(net.combine, key)
            require(found == default, f"model.combine.{key}", found, expected, TrainingError)
    built = network_config(
        benchmark, classes, modalities if reads else {}, net.preset, net.image_size,
        combine=net.combine if reads else CombineConfig(), encoder=net.encoder, prior=net.prior,
        trunk=net.trunk, fusion=net.fusion, interaction=net.interaction, head=net.head,
    )  # fmt: skip
    legal = legal_sizes(built.image_size)
    if config.augment.crop not in legal:
        raise TrainingError(
            f"augment.crop: found {config.augment.crop}, but the network's image_size "
            f"{built.image_size} takes {', '.join(map(str, legal))}"
        )
    return built


def look_at(frames: FrameSet, spec: Spec, count: int = 200) -> Seen:
    """What the auxiliaries' channels look like in a data set, to compare the node's sensors with:
    of `count` frames, spread over all, as the node makes planes of them.

    Raises:
        DataError: a frame cannot be read.
        TrainingError: limits clip nearly all of most thermal images.
    """
    if not spec.sensors:
        return {}

    def look(index: int) -> tuple[dict[str, PlaneSample], list[str]]:
        frame = frames[index].frame
        planes = frame_planes(frame, spec.modalities, Plan.of(spec.geometry, frame.size).canvas)
        shown = {
            s: sample_planes(p) for s, p in planes.auxiliaries.items() if s not in planes.blank
        }
        return shown, [blank.text for blank in planes.blank.values() if blank.reason == LIMITS]

    chosen = np.unique(np.linspace(0, len(frames) - 1, count).astype(int)).tolist()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looks = list(pool.map(look, chosen))
    clipped = [text for _, texts in looks for text in texts]
    if 2 * len(clipped) > len(looks):
        text = f"{len(clipped)} of {len(looks)} frames looked at: {clipped[0]}"
        raise TrainingError(f"thermal: {text}")
    samples = {s: [shown[s] for shown, _ in looks if s in shown] for s in spec.sensors}
    return {
        sensor: channel_statistics(some, FIELDS[spec.encodings[sensor]])
        for sensor, some in samples.items()
        if some
    }


def _as_augmented(modality: Modality, frames: FrameSet, config: TrainConfig) -> Modality:
    """Points are as large for the node as they are after the augmentation's plain resize."""
    calibration = frames.calibration
    if calibration is None or calibration.T_camera_lidar is None:
        return modality
    if not made_of_points(modality.encoding):
        return modality
    factor = fit_factor(calibration.size, config.augment.base_size)
    return dataclasses.replace(modality, point_size=max(1, round(modality.point_size * factor)))


def start_line(start: StartConfig) -> str:
    """Where the weights came from and what is frozen, in words."""
    parts = f"encoder {start.sam}, trunks {start.convnext}"
    frozen = f"; frozen: {', '.join(start.freeze)}" if start.freeze else ""
    return f"start weights: {start.weights or parts}{frozen}"


def _load(model: MMSAMAdapter, start: StartConfig, spec: Spec) -> None:
    if start.weights:
        loaded, found = load_model(start.weights)
        ours, theirs = spec.config.to_dict(), found.config.to_dict()
        if keys := ", ".join(key for key in ours if ours[key] != theirs[key]):
            raise TrainingError(f"{start.weights}: its network differs from the run's in {keys}")
        names, others = ([info.name for info in s.classes] for s in (spec, found))
        if names != others:
            raise TrainingError(f"{start.weights}: its classes are {others}, the run's {names}")
        for name, given in spec.inputs.items():
            # the size of points and the limits of thermal images belong to the cameras, and a
            # unit of intensity can be learnt anew
            other = found.inputs[name]
            same = stored_alike(given.encoding, other.encoding)
            other = dataclasses.replace(
                other, point_size=given.point_size, limits=given.limits,
                encoding=given.encoding if same else other.encoding,
            )  # fmt: skip
            if given != other:
                raise TrainingError(f"{start.weights}: its input {name} is {other}, now {given}")
        model.load_state_dict(loaded.state_dict())
        return
    if start.sam != "scratch":
        load_sam_encoder(model, start.sam)
    if start.convnext != "scratch" and isinstance(model.prior, SpatialPrior):
        load_convnext(model, start.convnext)


def freeze(model: MMSAMAdapter, prefixes: tuple[str, ...]) -> None:
    """Take the parameters below these prefixes out of the training; LoRA's own still train.

    TrainingError for a prefix that no parameter has.
    """
    for prefix in prefixes:
        below = [(n, p) for n, p in model.named_parameters() if f"{n}.".startswith(f"{prefix}.")]
        if not below:
            hint = near_match(prefix, {name.split(".")[0] for name, _ in model.named_parameters()})
            raise TrainingError(f"start.freeze: no parameter below {prefix!r}{hint}")
        for name, p in below:
            p.requires_grad = ".lora_" in name


_COMPONENT = re.compile(
    r"(?:interactions\.\d+\.(?:extra_)?)?"
    r"(encoder|head|prior\.trunks\.\w+|prior\.\w+|injector|extractor)s?\."
)


def components(model: MMSAMAdapter) -> dict[str, tuple[int, int]]:
    """Parameters by part of the network: all, and those that train."""
    total, trainable = Counter[str](), Counter[str]()
    for name, p in model.named_parameters():
        match = _COMPONENT.match(name)
        part = match[1] if match else "level_embed, up, norms"
        part = "LoRA" if ".lora_" in name else part
        total[part] += p.numel()
        trainable[part] += p.numel() * p.requires_grad
    return {part: (count, trainable[part]) for part, count in total.items()}
