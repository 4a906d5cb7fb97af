# SPDX-License-Identifier: Apache-2.0
"""What a run begins with: the network, its spec, start weights, and what does not train."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from mmsam_ros._util import near_match, require
from mmsam_ros.data.benchmark import Benchmark
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import FrameSet
from mmsam_ros.data.meanings import meanings
from mmsam_ros.data.open import find_benchmark, open_frames, scan_frames
from mmsam_ros.data.transforms import fit_factor
from mmsam_ros.inference.geometry import Plan
from mmsam_ros.model import CombineConfig, MMSAMAdapter, ModelConfig, build_model, rgb_alone
from mmsam_ros.model.config import Size, legal_sizes
from mmsam_ros.model.prior import SpatialPrior
from mmsam_ros.sensors import (
    FIELDS,
    LIDAR_GAIN,
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
from mmsam_ros.weights import (
    Geometry,
    Spec,
    load_convnext,
    load_model,
    load_sam_encoder,
    make_spec,
    read_spec,
)
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


def open_mix(config: TrainConfig, split: str) -> dict[str, FrameSet]:
    """The frames of each data set of `data.mix`, with those of the run's sensors that it has; of
    the split `val` only where there are labels. Errors as `open_frames`.
    """
    found = {}
    for name, part in config.data.mix.items():
        known = find_benchmark(part.dataset).known_sensors(Path(part.root))
        sensors = [sensor for sensor in config.sensors if sensor in known]
        if split == "val":
            records = scan_frames(part.dataset, part.root, split, sensors).records
            if not any(record.label for record in records):
                continue
        found[name] = open_frames(part.dataset, part.root, split, sensors)
    return found


def build(
    config: TrainConfig, frames: FrameSet, others: Sequence[FrameSet] = ()
) -> tuple[MMSAMAdapter, Spec]:
    """Network and spec for a run on `frames` and `others`, those of `data.mix`; scratch is drawn
    from torch's generator. The classes are those of `frames`, or of the start weights where its
    labels mean classes of other names (`any_of`).

    Raises:
        ModelError, TrainingError: a key of the configuration does not fit, the network cannot take
            the crop, or a data set does not fit the network.
        WeightsError: start weights do not fit.
    """
    benchmark = find_benchmark(frames.dataset)
    modalities = {s: _as_augmented(m, frames, config) for s, m in frames.modalities.items()}
    classes = frames.classes
    if frames.any_of:
        expected = "weights that have the classes which any_of of the data set names"
        given = config.start.weights or config.start.fallback
        require(bool(given), "start.weights", given, expected, TrainingError)
        classes = read_spec(given).classes
    weights, names = config.loss.class_weights, [info.name for info in classes]
    expected = f"none, or {len(names)} values, not all 0, for {', '.join(names)}"
    fits = not weights or (len(weights) == len(names) and any(weights))
    require(fits, "loss.class_weights", weights, expected, TrainingError)
    network = network_of(config, benchmark, classes, modalities)
    model = build_model(network)
    geometry = benchmark_geometry(benchmark.mode, benchmark, network.image_size)
    sensors = f"{'+'.join(('camera', *network.auxiliaries))} of {frames.dataset}"
    trained = [x for x, share in zip((frames, *others), config.data.shares, strict=True) if share]
    data = " + ".join(f"{x.dataset}, {len(x)} frames of {x.split}" for x in trained)
    made = sorted({x.rasters for x in trained if x.rasters})
    provenance = {
        "data": "; ".join((data, *made)),
        "recipe": f"{sensors}, {config.model.preset}, {config.schedule.epochs} epochs",
        "seed": config.seed,
    }
    dropped = config.modality_dropout > 0
    spec = make_spec(
        network, modalities, classes, geometry, trained=True, dropped=dropped, **provenance
    )
    for part in (frames, *others):
        check_fit(spec, part)
        found, read = (x.get("lidar") for x in (part.modalities, spec.modalities))
        if found and read and found.encoding == LIDAR_GAIN != read.encoding:
            raise TrainingError(
                f"{part.records[0].image.parent}: lidar is {LIDAR_GAIN}, whose intensity may have "
                f"any unit, expected {read.encoding} as in {config.data.root}; or say {LIDAR_GAIN} "
                "in its meta.json"
            )
    spec = dataclasses.replace(spec, seen=look_at(trained[0], spec, others=trained[1:]))
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


def check_fit(spec: Spec, frames: FrameSet) -> None:
    """TrainingError where classes or encodings of a data set do not fit those of the weights. A
    sensor that the network does not read may have any.
    """
    where = f"{frames.dataset} {frames.split} ({frames.records[0].image.parent})"
    try:
        meanings(frames, spec.classes)
    except DataError as error:
        raise TrainingError(f"{where}: {error}") from error
    for sensor, modality in frames.modalities.items():
        found = modality.encoding
        read = spec.encodings.get(sensor, found)
        if not stored_alike(read, found):
            raise TrainingError(f"{sensor}: the weights read {read}, the data set has {found}")


def as_measured(spec: Spec, frames: FrameSet) -> Spec:
    """The spec for the frames of a data set: limits of thermal images belong to its camera."""
    found, read = (x.get("thermal") for x in (frames.modalities, spec.modalities))
    if found and read and found.limits and read.limits:
        read = dataclasses.replace(read, limits=found.limits)
        return dataclasses.replace(spec, inputs={**spec.inputs, "thermal": read})
    return spec


def look_at(
    frames: FrameSet, spec: Spec, count: int = 200, others: Sequence[FrameSet] = ()
) -> Seen:
    """What the auxiliaries' channels look like in a data set and others, to compare the node's
    sensors with: of `count` frames of each, spread over all, as the node makes planes of them.

    Raises:
        DataError: a frame cannot be read.
        TrainingError: limits clip nearly all of most thermal images.
    """
    if not spec.sensors:
        return {}

    def look(chosen: tuple[FrameSet, int]) -> tuple[dict[str, PlaneSample], list[str]]:
        frames, index = chosen
        frame = frames[index].frame
        canvas = Plan.of(spec.geometry, frame.size).canvas
        planes = frame_planes(frame, as_measured(spec, frames).modalities, canvas)
        shown = {
            s: sample_planes(p) for s, p in planes.auxiliaries.items() if s not in planes.blank
        }
        return shown, [blank.text for blank in planes.blank.values() if blank.reason == LIMITS]

    chosen = [
        (part, index) for part in (frames, *others) if part.modalities
        for index in np.unique(np.linspace(0, len(part) - 1, count).astype(int)).tolist()
    ]  # fmt: skip
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
    if start.fallback:
        others = start.auxiliaries or f"trunks {start.convnext}"
        parts = f"RGB {start.fallback} (frozen), {others}"
    frozen = f"; frozen: {', '.join(start.freeze)}" if start.freeze else ""
    return f"start weights: {start.weights or parts}{frozen}"


def _load(model: MMSAMAdapter, start: StartConfig, spec: Spec) -> None:
    if start.weights:
        found = _load_same(model, start.weights, spec, spec.config)
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
        return
    if model.fallback is not None:
        expected = "the weights of the network of RGB alone, with model.combine.absent 'fallback'"
        require(bool(start.fallback), "start.fallback", start.fallback, expected, TrainingError)
        _load_same(model.fallback, start.fallback, spec, spec.config.of_rgb)
        if start.auxiliaries:
            _load_auxiliaries(model, start.auxiliaries)
        model.begin_as_fallback()
    elif start.fallback:
        expected = "none unless model.combine.absent is 'fallback'"
        require(False, "start.fallback", start.fallback, expected, TrainingError)
    elif start.sam != "scratch":
        load_sam_encoder(model, start.sam)
    require(
        model.fallback is not None or not start.auxiliaries, "start.auxiliaries",
        start.auxiliaries, "none unless model.combine.absent is 'fallback'", TrainingError,
    )  # fmt: skip
    chosen = start.convnext != "scratch" and not start.auxiliaries
    if chosen and isinstance(model.prior, SpatialPrior):
        load_convnext(model, start.convnext)


def resize_norms(state: Mapping[str, Tensor], old: Size, new: Size) -> dict[str, Tensor]:
    """A network's state for another image size: the fusion's norms over space, which alone have a
    weight for each position, are resized bilinearly.
    """
    resized = dict(state)
    for name in state if old != new else ():
        if match := re.search(r"\.(\d)\.cross\.norm\.(?:weight|bias)$", name):
            stride = 4 * 2 ** int(match[1])
            before, after = ([side // stride for side in size] for size in (old, new))
            map_11hw = state[name].view(1, 1, *before)
            resized[name] = F.interpolate(map_11hw, size=after, mode="bilinear").flatten()
    return resized


def _load_same(model: MMSAMAdapter, path: str, spec: Spec, config: ModelConfig) -> Spec:
    """Load weights of the network `config` and the run's classes; returns their spec.

    They may be of another image size; for a network of RGB alone, of one with auxiliaries.
    """
    loaded, found = load_model(path)
    if not config.auxiliaries and found.config.combine.absent != "empty":
        loaded = rgb_alone(loaded)
    ours, theirs = config.to_dict(), loaded.config.to_dict()
    differing = [key for key in ours if ours[key] != theirs[key]]
    if keys := ", ".join(key for key in differing if key != "image_size"):
        raise TrainingError(f"{path}: its network differs from the run's in {keys}")
    names, others = ([info.name for info in s.classes] for s in (spec, found))
    if names != others:
        raise TrainingError(f"{path}: its classes are {others}, the run's {names}")
    sizes = found.config.image_size, config.image_size
    model.load_state_dict(resize_norms(loaded.state_dict(), *sizes))
    return found


def _load_auxiliaries(model: MMSAMAdapter, path: str) -> None:
    """Trunks and fusions of the auxiliaries, of a network that may differ in all else."""
    loaded, found = load_model(path)
    theirs = resize_norms(loaded.state_dict(), found.config.image_size, model.config.image_size)
    wanted = tuple(
        f"prior.{part}.{name}."
        for part in ("trunks", "fusion")
        for name in model.config.auxiliaries
    )
    ours = {name: value for name, value in model.state_dict().items() if name.startswith(wanted)}
    if unfit := [n for n, v in ours.items() if n not in theirs or theirs[n].shape != v.shape]:
        raise TrainingError(f"start.auxiliaries: {path} has no {unfit[0]} of the network's shape")
    model.load_state_dict({name: theirs[name] for name in ours}, strict=False)


def freeze(model: MMSAMAdapter, prefixes: tuple[str, ...]) -> None:
    """Take the parameters below these prefixes out of the training; LoRA's own still train. `*`
    stands for anything, as in `encoder.blocks.*.attn`.

    TrainingError for a prefix that no parameter has.
    """
    for prefix in prefixes:
        below = [(n, p) for n, p in model.named_parameters() if fnmatchcase(f"{n}.", f"{prefix}.*")]
        if not below:
            hint = near_match(prefix, {name.split(".")[0] for name, _ in model.named_parameters()})
            raise TrainingError(f"start.freeze: no parameter below {prefix!r}{hint}")
        for name, p in below:
            p.requires_grad = ".lora_" in name


_COMPONENT = re.compile(
    r"(?:interactions\.\d+\.(?:extra_)?)?"
    r"(fallback|encoder|head|prior\.trunks\.\w+|prior\.\w+|injector|extractor)s?\."
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
