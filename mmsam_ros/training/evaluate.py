# SPDX-License-Identifier: Apache-2.0
"""Weights on a data set: predictions as the published numbers were made, or as the node makes them.

Both decode and project each sensor once, by `inference.prepare`. A folder has no published
protocol; there both are the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsam_ros._util import Checked, MmsamError, check_word, ranged
from mmsam_ros.data.corrupt import CORRUPTIONS, corrupt
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import FrameSet, LabelledFrame, Record
from mmsam_ros.data.open import BENCHMARKS, find_benchmark, open_frames
from mmsam_ros.inference import Engine, Segmenter
from mmsam_ros.inference.geometry import Plan
from mmsam_ros.inference.prepare import Prepared, prepare
from mmsam_ros.inference.segmenter import predict
from mmsam_ros.sensors import BLANK
from mmsam_ros.training.config import TrainConfig
from mmsam_ros.training.devices import own_share
from mmsam_ros.training.errors import TrainingError
from mmsam_ros.training.metrics import SubsetMatrices
from mmsam_ros.training.start import benchmark_geometry
from mmsam_ros.weights import Geometry, Spec

Prediction = tuple[Tensor, Tensor | None]  # (h, w) training ids, and the truth where it is known


@dataclass(frozen=True, eq=False)
class FrameResult:
    """An evaluated frame: the predicted training ids (h, w), and the confusion matrix, None without
    ground truth.
    """

    item: LabelledFrame
    prediction: Tensor
    matrix: Tensor | None


def evaluate_frames(
    predict: Callable[[LabelledFrame], Prediction],
    frames: FrameSet,
    matrices: SubsetMatrices,
    indices: Iterable[int] | None = None,
    on_frame: Callable[[FrameResult], None] | None = None,
) -> None:
    """Count the predictions of the frames (all, or those at `indices`) into `matrices`."""
    for index in range(len(frames)) if indices is None else indices:
        item = frames[index]
        prediction, target = predict(item)
        matrix = None
        if target is not None:
            matrix = matrices.update(prediction, target, item.record.subsets)
        if on_frame is not None:
            on_frame(FrameResult(item, prediction, matrix))


def published_geometry(spec: Spec, dataset: str) -> Geometry:
    """How a data set's published numbers read a frame, with the network's own size."""
    benchmark = find_benchmark(dataset)
    if benchmark.protocol is None:
        return spec.geometry
    return benchmark_geometry(benchmark.protocol.mode, benchmark, spec.config.image_size)


def published_prediction(
    engine: Engine, item: LabelledFrame, spec: Spec, dataset: str
) -> Prediction:
    """Prediction and ground truth of a frame, at the size where the published metric is taken.

    Args:
        engine: the network.
        item: the frame; a sensor that it does not have is absent.
        spec: of the network.
        dataset: name of the benchmark.

    Raises:
        DataError: a sensor's data does not fit the spec; names the file.
    """
    protocol = find_benchmark(dataset).protocol
    plan = Plan.of(published_geometry(spec, dataset), item.size)
    if protocol is not None and protocol.score_on_canvas:
        plan = dataclasses.replace(plan, output=plan.canvas)
    pad_raw = protocol is not None and protocol.pad_raw
    prepared = prepare(item.frame, spec, plan, engine.device, pad_raw=pad_raw)
    check_refused(prepared, item.record)
    prediction = predict(engine, prepared).argmax(dim=1)[0].to(torch.uint8)
    if item.label is None:
        return prediction, None
    label = torch.from_numpy(item.label)[None, None]
    target = F.interpolate(label, plan.output, mode="nearest")
    return prediction, target[0, 0].to(prediction.device)


def check_refused(prepared: Prepared, record: Record) -> None:
    """DataError where a sensor's data could not be used, unless it merely shows nothing."""
    for refusal in prepared.refused.values():
        if refusal.reason != BLANK:
            raise DataError(f"{record.sensors[refusal.sensor]}: {refusal.text}")


@dataclass(frozen=True)
class EvalConfig(Checked):
    """What is evaluated on what.

    Attributes:
        weights: the weights file.
        root: the data set's top folder.
        split: `train`, `val` or `test`.
        dataset: name of the benchmark; empty: the one that has the weights' classes.
        lists: folder of FMB's easy/hard lists.
        geometry: `published`, or `native` as the node.
        drop: sensors that are taken away.
        corrupt: degradations, of `data.corrupt.CORRUPTIONS`.
        limit: at most so many frames.
        device: as `Segmenter`.
        precision: as `Segmenter`.
    """

    error: ClassVar[type[MmsamError]] = TrainingError

    weights: str
    root: str
    split: str = "test"
    dataset: str = ""
    lists: str = ""
    geometry: Literal["published", "native"] = "published"
    drop: tuple[str, ...] = ()
    corrupt: tuple[str, ...] = ()
    limit: int | None = ranged(None, 1)
    device: str = "auto"
    precision: str = "fp32"


class Evaluation:
    """Weights and the frames that they are evaluated on, sensors dropped and degraded as asked for.

    Raises:
        TrainingError: weights and data set do not fit together, or an unknown word.
        DataError, WeightsError, InferenceError: a file or device that cannot be used.
    """

    def __init__(self, config: EvalConfig) -> None:
        self.config = config
        self.segmenter = Segmenter.load(config.weights, config.device, config.precision)
        self.spec = self.segmenter.spec
        for sensor in config.drop:
            check_word("drop", sensor, self.spec.sensors, TrainingError)
        for name in config.corrupt:
            check_word("corrupt", name, CORRUPTIONS, TrainingError)
        kept = [sensor for sensor in self.spec.sensors if sensor not in config.drop]
        dataset = config.dataset or _dataset(self.spec)
        frames = open_frames(dataset, config.root, config.split, kept, config.lists)
        _check_fit(self.spec, frames)

        def read(record: Record) -> LabelledFrame:
            item = frames.reader(record)
            for name in config.corrupt:
                item = corrupt(item, name, frames)
            return item

        records = frames.records[: config.limit]
        self.frames = dataclasses.replace(frames, records=records, reader=read)
        self.labelled = any(record.label is not None for record in records)

    def predict(self, item: LabelledFrame) -> Prediction:
        """Prediction and ground truth of a frame."""
        if self.config.geometry == "published":
            engine, dataset = self.segmenter.engine, self.frames.dataset
            return published_prediction(engine, item, self.spec, dataset)
        prepared = self.segmenter.prepare(item.frame)
        check_refused(prepared, item.record)
        labels = torch.from_numpy(self.segmenter.infer(prepared, confidence=False).labels)
        return labels, None if item.label is None else torch.from_numpy(item.label)

    def run(
        self,
        on_frame: Callable[[FrameResult], None] | None = None,
        indices: Iterable[int] | None = None,
    ) -> SubsetMatrices:
        """Evaluate all frames, or those at `indices`."""
        matrices = SubsetMatrices(len(self.spec.classes), self.segmenter.device)
        evaluate_frames(self.predict, self.frames, matrices, indices, on_frame)
        return matrices


def evaluate_weights(weights: Path, config: TrainConfig, split: str) -> dict[str, dict[str, Any]]:
    """Scores by subset of a run's weights on a split of its data set, by the published protocol.

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


def _dataset(spec: Spec) -> str:
    """The benchmark whose classes these are, or else a folder, which may have any."""
    known = (name for name, found in BENCHMARKS.items() if found.classes == spec.classes)
    return next(known, "folder")


def _check_fit(spec: Spec, frames: FrameSet) -> None:
    ours, theirs = ([info.name for info in owner.classes] for owner in (spec, frames))
    for i in range(max(len(ours), len(theirs))):
        a, b = (names[i] if i < len(names) else None for names in (ours, theirs))
        if a != b:
            raise TrainingError(f"class {i} is {a!r} in the weights, but {b!r} in the data set")
    for sensor, modality in frames.modalities.items():
        read, found = spec.encodings[sensor], modality.encoding
        if read != found:
            raise TrainingError(f"{sensor}: the weights read {read}, the data set has {found}")
