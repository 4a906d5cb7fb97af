# SPDX-License-Identifier: Apache-2.0
"""Weights on a data set: predictions as the published numbers were made, or as the node makes them.

Published, at a single scale (arXiv 2509.10408): DeLiVER's images and ground truth are brought to
the network's size, FMB is padded at the bottom, MUSES is read in windows. A folder has no published
geometry; there both ways are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mmsam_ros._util import near_match
from mmsam_ros.data.corrupt import CORRUPTIONS, corrupt
from mmsam_ros.data.frames import FrameSet, Record, Sample
from mmsam_ros.data.open import open_frames
from mmsam_ros.inference import Segmenter
from mmsam_ros.inference.geometry import Plan
from mmsam_ros.inference.prepare import prepare
from mmsam_ros.inference.published import sliding_window
from mmsam_ros.sensors import CLASS_SETS, Frame, SensorImage
from mmsam_ros.training.config import TrainConfig
from mmsam_ros.training.devices import own_share
from mmsam_ros.training.errors import TrainingError
from mmsam_ros.training.metrics import SubsetMatrices
from mmsam_ros.weights import Geometry, Spec

GEOMETRIES = ("published", "native")
Network = Callable[[dict[str, Tensor]], Tensor]
Prediction = tuple[Tensor, Tensor | None]  # (h, w) training ids, and the truth where it is known
_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class FrameResult:
    """An evaluated frame: where it lies, what the network was given, the predicted training ids
    (h, w), and the confusion matrix, None without ground truth.
    """

    record: Record
    sample: Sample
    prediction: Tensor
    matrix: Tensor | None


@torch.no_grad()
def evaluate_frames(
    predict: Callable[[Sample], Prediction],
    frames: FrameSet,
    matrices: SubsetMatrices,
    indices: Iterable[int] | None = None,
    on_frame: Callable[[FrameResult], None] | None = None,
) -> None:
    """Count the predictions of the frames (all, or those at `indices`) into `matrices`."""
    for index in range(len(frames)) if indices is None else indices:
        record, sample = frames.records[index], frames[index]
        prediction, target = predict(sample)
        matrix = None
        if target is not None:
            matrix = matrices.update(prediction, target, record.subsets)
        if on_frame is not None:
            on_frame(FrameResult(record, sample, prediction, matrix))


def published_prediction(network: Network, sample: Sample, spec: Spec, kind: str) -> Prediction:
    """Prediction and ground truth of a frame, at the size where the published metric is taken.

    Args:
        network: normalised images (1, 3, h, w) by modality -> logits (1, classes, h', w').
        sample: the frame; a source that it does not have is absent.
        spec: of the network.
        kind: `deliver`, `fmb`, `muses` or `folder`.

    Raises:
        InferenceError: a source does not fit the spec.
    """
    frame, geometry = as_frame(sample, spec), published_geometry(spec, kind)
    plan = Plan.of(geometry, (frame.rgb.shape[0], frame.rgb.shape[1]))
    if kind == "fmb":  # padded before normalising: with the value of a raw zero
        bare = dataclasses.replace(plan, padded=plan.canvas)
        prepared = prepare(frame, spec, bare, _CPU).inputs
        inputs = {m: _pad(x, spec.inputs[m].empty, plan.padded) for m, x in prepared.items()}
    else:
        inputs = dict(prepare(frame, spec, plan, _CPU).inputs)

    def on_stack(image: Tensor) -> Tensor:
        return network(dict(zip(inputs, image.split(3, dim=1), strict=True)))

    if geometry.stride is not None:
        stack = torch.cat(list(inputs.values()), dim=1)
        logits = sliding_window(on_stack, stack, geometry.size, geometry.stride)
    else:
        logits = network(inputs)
    size = plan.canvas if kind == "deliver" else plan.native
    logits = dataclasses.replace(plan, native=size).restore(logits)
    prediction = logits.argmax(dim=1)[0].to(torch.uint8)
    if "label" not in sample:
        return prediction, None
    target = F.interpolate(sample["label"].as_subclass(Tensor)[None, None], size, mode="nearest")
    return prediction, target[0, 0].to(prediction.device)


def published_geometry(spec: Spec, kind: str) -> Geometry:
    """How a data set's published numbers read a frame, with the network's own size."""
    height, width = spec.config.image_size
    if kind == "deliver":
        return Geometry("resize", (height, width), keep_ratio=False)
    if kind == "fmb":
        return Geometry("pad", (height, width))
    if kind == "muses" and spec.geometry.stride is None:
        return Geometry("slide", (height, width), (height * 5 // 8, width * 5 // 8))
    return spec.geometry


def as_frame(sample: Sample, spec: Spec) -> Frame:
    """The frame as the node would get it: the spec's sources that are there, as they were measured,
    or else the rasters in the camera's view, as they are stored.
    """
    measured = sample.get("measured", {})
    sensors = {
        source: measured[source]
        if source in measured
        else SensorImage(_stored(_last(sample["sources"][source]), encoding))
        for source, encoding in spec.encodings.items()
        if source in sample["sources"]
    }
    return Frame(_last(sample["rgb"]), sensors, sample.get("camera"))


@dataclass(frozen=True)
class EvalConfig:
    """What is tried on what.

    Attributes:
        weights: the weights file.
        root: the data set's top folder.
        split: `train`, `val` or `test`.
        dataset: its kind; empty: the one that has the weights' classes.
        lists: folder of FMB's easy/hard lists.
        geometry: `published` or `native`.
        drop: sensors that are taken away.
        corrupt: degradations, of `data.corrupt.CORRUPTIONS`.
        limit: at most so many frames.
        device: as `Segmenter`.
        precision: as `Segmenter`.
    """

    weights: str
    root: str
    split: str = "test"
    dataset: str = ""
    lists: str = ""
    geometry: str = "published"
    drop: tuple[str, ...] = ()
    corrupt: tuple[str, ...] = ()
    limit: int | None = None
    device: str = "auto"
    precision: str = "fp32"


class Evaluation:
    """Weights and the frames that they are tried on, sources dropped and degraded as asked for.

    Raises:
        TrainingError: weights and data set do not fit together, or an unknown word.
        DataError, WeightsError, InferenceError: a file or device that cannot be used.
    """

    def __init__(self, config: EvalConfig) -> None:
        _check_words("geometry", [config.geometry], GEOMETRIES)
        if config.limit is not None and config.limit < 1:
            raise TrainingError(f"limit: found {config.limit}, expected at least 1")
        self.config = config
        self.segmenter = Segmenter.load(config.weights, config.device, config.precision)
        self.spec = self.segmenter.spec
        _check_words("drop", config.drop, self.spec.sources)
        _check_words("corrupt", config.corrupt, tuple(CORRUPTIONS))
        kept = [source for source in self.spec.sources if source not in config.drop]
        kind = config.dataset or _kind(self.spec)
        frames = open_frames(kind, config.root, config.split, kept, config.lists)
        _check_fit(self.spec, frames)

        def read(record: Record) -> Sample:
            sample = frames.reader(record)
            if frames.measure is not None:
                sample |= frames.measure(record)
            for name in config.corrupt:
                sample = corrupt(sample, name)
            return sample

        records = frames.records[: config.limit]
        self.frames = dataclasses.replace(frames, records=records, reader=read)
        self.labelled = any(record.label is not None for record in records)

    def predict(self, sample: Sample) -> Prediction:
        """Prediction and ground truth of a frame."""
        if self.config.geometry == "published":
            return published_prediction(self._network, sample, self.spec, self.frames.kind)
        result = self.segmenter(as_frame(sample, self.spec), confidence=False)
        return torch.from_numpy(result.labels), sample.get("label")

    def run(
        self,
        on_frame: Callable[[FrameResult], None] | None = None,
        indices: Iterable[int] | None = None,
    ) -> SubsetMatrices:
        """Evaluate all frames, or those at `indices`."""
        matrices = SubsetMatrices(len(self.spec.classes), self.segmenter.device)
        evaluate_frames(self.predict, self.frames, matrices, indices, on_frame)
        return matrices

    def _network(self, inputs: dict[str, Tensor]) -> Tensor:
        device, half = self.segmenter.device, self.segmenter.precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return self.segmenter.model({m: x.to(device) for m, x in inputs.items()}).float()


def evaluate_weights(weights: Path, config: TrainConfig, split: str) -> dict[str, dict[str, Any]]:
    """Scores by subset of a run's weights on a split of its data set, in the published geometry.

    The processes of a distributed run share the frames; every one of them has to call this.

    Raises:
        TrainingError: the split has no labels.
    """
    check_labels(config, split)
    data, device = config.data, config.device
    evaluation = Evaluation(
        EvalConfig(
            str(weights), data.root, split, config.dataset, data.lists,
            device=device.accelerator, precision=device.precision,
        )
    )  # fmt: skip
    names = [info.name for info in evaluation.spec.classes]
    matrices = evaluation.run(indices=own_share(len(evaluation.frames)))
    matrices.reduce()
    return {key: score.to_dict() for key, score in matrices.scores(names).items()}


def check_labels(config: TrainConfig, split: str) -> None:
    """TrainingError unless a run's data set has frames of a split, and labels of them."""
    data = config.data
    frames = open_frames(config.dataset, data.root, split, config.sensors, data.lists)
    if not any(record.label is not None for record in frames.records):
        raise TrainingError(f"{data.root}: the labels of the split {split!r} are withheld")


def _kind(spec: Spec) -> str:
    """The benchmark whose classes these are, or else a folder, which may have any."""
    known = (kind for kind in ("deliver", "fmb", "muses") if CLASS_SETS[kind] == spec.classes)
    return next(known, "folder")


def _check_words(what: str, words: Iterable[str], known: tuple[str, ...]) -> None:
    for word in words:
        if word not in known:
            raise TrainingError(f"{what}: unknown {word!r}{near_match(word, known)}")


def _check_fit(spec: Spec, frames: FrameSet) -> None:
    ours, theirs = ([info.name for info in owner.classes] for owner in (spec, frames))
    for i in range(max(len(ours), len(theirs))):
        a, b = (names[i] if i < len(names) else None for names in (ours, theirs))
        if a != b:
            raise TrainingError(f"class {i} is {a!r} in the weights, but {b!r} in the data set")
    for source, encoding in frames.encodings.items():
        if (read := spec.encodings[source]) != encoding:
            raise TrainingError(f"{source}: the weights read {read}, the data set has {encoding}")


def _pad(image: Tensor, value: Iterable[float], size: tuple[int, int]) -> Tensor:
    padded = image.new_tensor(list(value))[None, :, None, None].repeat(1, 1, *size)
    padded[..., : image.shape[-2], : image.shape[-1]] = image
    return padded


def _last(image: Tensor) -> NDArray[Any]:
    """(C, H, W) -> (H, W, C)."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _stored(planes: NDArray[np.float32], encoding: str) -> NDArray[np.generic]:
    """Channel values (H, W, C) back to what an image message holds; degraded ones are rounded."""
    if encoding == "muses_raw":
        return planes
    if encoding == "muses_png16":
        planes = (planes + 100) * 150
    elif encoding == "frame_gain":  # the reader has applied it; once more changes next to nothing
        planes = planes * 257
    wide = encoding in ("mono16", "muses_png16", "frame_gain")
    stored = np.rint(planes).astype(np.uint16 if wide else np.uint8)
    return stored if stored.shape[2] == 3 else stored[..., 0]
