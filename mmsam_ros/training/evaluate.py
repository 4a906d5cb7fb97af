# SPDX-License-Identifier: Apache-2.0
"""Weights on a data set: predictions as the published numbers were made, or as the node makes them.

A folder has no published protocol; there both are the same.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mmsam_ros._util import Checked, MmsamError, check_word, ranged
from mmsam_ros.data.corrupt import CORRUPTIONS, corrupt
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import FrameSet, LabelledFrame
from mmsam_ros.data.meanings import Scoring
from mmsam_ros.data.open import (
    BENCHMARKS,
    any_labelled,
    find_benchmark,
    nothing_labelled,
    open_frames,
)
from mmsam_ros.inference import Engine, InferenceError, Segmenter
from mmsam_ros.inference.channels import compare
from mmsam_ros.inference.draw import colorise
from mmsam_ros.inference.geometry import Plan, resize_maps
from mmsam_ros.inference.labels import label_image
from mmsam_ros.inference.prepare import Prepared, prepare
from mmsam_ros.inference.segmenter import predict
from mmsam_ros.sensors import LIDAR_GAIN, LidarPoints, palette
from mmsam_ros.training.config import TrainConfig, TrainingError
from mmsam_ros.training.devices import own_share, worker_advice
from mmsam_ros.training.loader import read_frames
from mmsam_ros.training.metrics import SubsetMatrices
from mmsam_ros.training.start import (
    as_measured,
    benchmark_geometry,
    check_fit,
    look_at,
    open_split,
)
from mmsam_ros.training.tta import View, flipped, scaled_plans
from mmsam_ros.weights import Geometry, Spec

_LOOKED_AT = 20  # frames that are compared with the training data


@dataclass(frozen=True, eq=False)
class Predictor:
    """Predictions of frames, as the published numbers were made or as the node makes them."""

    engine: Engine
    spec: Spec  # of the engine's network
    geometry: Geometry
    pad_raw: bool = False  # this one and the next as in `data.benchmark.Protocol`
    score_on_canvas: bool = False
    views: tuple[View, ...] = ()  # of test-time augmentation

    @classmethod
    def of(
        cls, engine: Engine, spec: Spec, dataset: str, way: str = "published",
        views: tuple[View, ...] = (),
    ) -> Self:  # fmt: skip
        """The way is `published`, at the network's own size, or `native`."""
        benchmark = find_benchmark(dataset)
        protocol = benchmark.protocol
        if way == "native" or protocol is None:
            return cls(engine, spec, spec.geometry, views=views)
        geometry = benchmark_geometry(protocol.mode, benchmark, spec.config.image_size)
        return cls(engine, spec, geometry, protocol.pad_raw, protocol.score_on_canvas, views)

    def __call__(self, item: LabelledFrame) -> tuple[Tensor, Tensor | None]:
        """Predicted training ids (h, w) of a frame, and the ground truth at that size, if any.

        DataError names the file of a sensor whose data does not fit the spec.
        """
        plan = Plan.of(self.geometry, item.frame.size)
        if self.score_on_canvas:
            plan = dataclasses.replace(plan, output=plan.canvas)
        if self.views:  # the largest sum is the largest mean
            scores = functools.reduce(torch.add, self._probabilities(item, plan))
        else:
            scores = predict(self.engine, self._prepared(item, plan))
        prediction, _ = label_image(scores, plan.output)
        if item.label is None:
            return prediction, None
        label = torch.from_numpy(item.label)[None, None].to(prediction.device)
        return prediction, F.interpolate(label, plan.output, mode="nearest")[0, 0]

    def _probabilities(self, item: LabelledFrame, plan: Plan) -> Iterator[Tensor]:
        """Class probabilities of every view, brought back to the frame."""
        for scaled in scaled_plans(plan, self.views):
            prepared = self._prepared(item, scaled)
            yield resize_maps(predict(self.engine, prepared), plan.output).softmax(dim=1)
            if "flip" in self.views:
                mirrored = resize_maps(predict(self.engine, flipped(prepared)), plan.output)
                yield mirrored.softmax(dim=1).flip(-1)

    def _prepared(self, item: LabelledFrame, plan: Plan) -> Prepared:
        prepared = prepare(item.frame, self.spec, plan, self.engine.device, pad_raw=self.pad_raw)
        for refusal in prepared.refused.values():
            if not refusal.of_frame:
                raise DataError(f"{item.record.sensors[refusal.sensor]}: {refusal.text}")
        return prepared


@dataclass(frozen=True, eq=False)
class FrameResult:
    """An evaluated frame."""

    item: LabelledFrame
    prediction: Tensor  # (h, w) training ids of the network
    target: Tensor | None  # the ground truth, the data set's; None where it is withheld
    matrix: Tensor | None  # the frame's confusion matrix; None without ground truth

    def on_cpu(self) -> Self:
        """The same with the tensors in the CPU's memory."""
        target, matrix = (None if x is None else x.cpu() for x in (self.target, self.matrix))
        return type(self)(self.item, self.prediction.cpu(), target, matrix)

    def pictures(self, frames: FrameSet, spec: Spec) -> dict[str, NDArray[np.uint8]]:
        """RGB images (h, w, 3) of what the sensors gave, the truth and the prediction."""
        sample, colours = frames.sample(self.item), palette(spec.classes)
        names = [[info.name for info in owner.classes] for owner in (spec, frames)]
        true_colours = colours if names[0] == names[1] else palette(frames.classes)
        shown = {"camera": sample["rgb"], **sample["planes"]}
        images = {name: _visible(image.permute(1, 2, 0).numpy()) for name, image in shown.items()}
        if self.target is not None:
            images["truth"] = colorise(self.target.cpu().numpy(), true_colours)
        images["prediction"] = colorise(self.prediction.cpu().numpy(), colours)
        return images


def _visible(planes: NDArray[Any]) -> NDArray[np.uint8]:
    """Raw values (h, w, 1 or 3) as bytes; others are stretched to them."""
    if planes.dtype != np.uint8:
        planes = np.rint(np.interp(planes, (planes.min(), planes.max()), (0, 255))).astype(np.uint8)
    return np.broadcast_to(planes, (*planes.shape[:2], 3))


def evaluate_frames(
    predictor: Predictor,
    frames: FrameSet,
    indices: Sequence[int] | None = None,
    on_frame: Callable[[FrameResult], None] | None = None,
    workers: int = 0,
    stopped: Callable[[], bool] = lambda: False,
) -> SubsetMatrices:
    """Count the predictions of the frames, as `Scoring` says: this process's share, or those at
    `indices`.

    Every process of a distributed run has to call this, and has the sum over all of them.
    `workers` processes read the frames. Once it is `stopped`, no other frame is predicted.
    """
    scoring = Scoring.of(frames, predictor.spec.classes)
    subsets, device = (record.subsets for record in frames.records), predictor.engine.device
    matrices = SubsetMatrices(len(scoring.names) + scoring.rest, subsets, device)
    share = own_share(len(frames)) if indices is None else indices
    for item in read_frames(frames, share, workers):
        if stopped():
            break
        try:
            prediction, target = predictor(item)
        except InferenceError as error:
            raise InferenceError(f"frame {item.record.name}: {error}") from error
        matrix = None
        if target is not None:
            matrix = matrices.update(*scoring(prediction, target), item.record.subsets)
        if on_frame is not None:
            on_frame(FrameResult(item, prediction, target, matrix))
    matrices.all_reduce()
    return matrices


@dataclass(frozen=True)
class EvalConfig(Checked):
    """What is evaluated on what."""

    error: ClassVar[type[MmsamError]] = TrainingError

    weights: str  # file
    root: str  # top folder of the data set
    split: str = "test"
    dataset: str = ""  # name of the benchmark; empty: the one that has the weights' classes
    lists: str = ""  # folder of FMB's easy and hard lists
    geometry: Literal["published", "native"] = "published"  # `native`: as the node
    drop: tuple[str, ...] = ()  # sensors that are left out
    corrupt: tuple[str, ...] = ()  # degradations, of `data.corrupt.CORRUPTIONS`
    tta: tuple[View, ...] = ()  # views whose probabilities are averaged
    limit: int | None = ranged(None, 1)  # at most so many frames
    workers: int = ranged(4, 0)  # loading processes of each device
    device: str = "auto"  # this one and the next ones as `Segmenter.load` takes them
    precision: str = "fp32"
    engine: str = "torch"
    providers: tuple[str, ...] = ()


class Evaluation:
    """Weights and the frames that they are evaluated on, sensors dropped and degraded as asked for.

    Raises:
        TrainingError: weights and data set do not fit together, or an unknown word.
        DataError, WeightsError, InferenceError: a file or device that cannot be used.
    """

    def __init__(self, config: EvalConfig) -> None:
        self.config = config
        self.segmenter = Segmenter.load(
            config.weights, config.device, config.precision,
            engine=config.engine, providers=config.providers,
        )  # fmt: skip
        self.spec = spec = self.segmenter.spec
        for sensor in config.drop:
            check_word("drop", sensor, spec.sensors, TrainingError)
        for name in config.corrupt:
            check_word("corrupt", name, CORRUPTIONS, TrainingError)
        kept = [sensor for sensor in spec.sensors if sensor not in config.drop]
        known = (name for name, found in BENCHMARKS.items() if found.classes == spec.classes)
        dataset = config.dataset or next(known, "folder")  # which may have any classes
        there = find_benchmark(dataset).known_sensors(Path(config.root))
        if lacking := [sensor for sensor in kept if sensor not in there]:
            raise TrainingError(
                f"{config.root}: the weights read {', '.join(lacking)}, the data set has "
                f"{', '.join(there) or 'the camera alone'}; give --drop {','.join(lacking)} to "
                "evaluate without"
            )
        frames = open_frames(dataset, config.root, config.split, kept, config.lists)
        if not any_labelled(frames):
            raise DataError(nothing_labelled(frames))
        check_fit(spec, frames)

        def change(item: LabelledFrame) -> LabelledFrame:
            for name in config.corrupt:
                item = corrupt(item, name, frames)
            return item

        self.names = Scoring.of(frames, spec.classes).names  # of the classes that are scored
        records = frames.records[: config.limit]
        self.frames = dataclasses.replace(frames, records=records, change=change)
        self.labelled = any(record.label is not None for record in records)
        engine = self.segmenter.engine
        own = as_measured(spec, frames)
        self.predict = Predictor.of(engine, own, dataset, config.geometry, config.tta)

    def doubts(self) -> list[str]:
        """What in some of the frames cannot be what the weights were trained on."""
        found = look_at(self.frames, self.spec, _LOOKED_AT)
        clouds = {
            sensor
            for sensor, data in self.frames[0].frame.sensors.items()
            if isinstance(data, LidarPoints)
        }
        made, trained = self.frames.rasters, self.spec.provenance.data
        differ = made and trained.partition("; ")[2] not in ("", made)
        doubts = [f"{made}; trained on {trained}"] if differ else []
        for sensor, live in found.items():
            seen = self.spec.seen.get(sensor, {})
            scale = None if self.spec.encodings[sensor] == LIDAR_GAIN else 1.0
            for finding in compare(sensor, live, seen, points=sensor in clouds, scale=scale):
                doubts.append(f"{sensor} {finding.subject} {finding.found}")
        return doubts

    def run(self, on_frame: Callable[[FrameResult], None] | None = None) -> SubsetMatrices:
        """Evaluate all frames, as `evaluate_frames`."""
        with worker_advice():
            workers = self.config.workers
            return evaluate_frames(self.predict, self.frames, on_frame=on_frame, workers=workers)


def evaluate_weights(weights: Path, config: TrainConfig, split: str) -> dict[str, dict[str, Any]]:
    """Scores by subset of a run's weights on a split of its data set, by the published protocol.

    Every process has to call this. TrainingError where the split has no labels.
    """
    check_labels(config, split)
    data, device = config.data, config.device
    evaluation = Evaluation(
        EvalConfig(
            str(weights), data.root, split, config.dataset, data.lists,
            workers=data.workers, device=device.accelerator, precision=device.inference,
        )
    )  # fmt: skip
    scores = evaluation.run().scores(evaluation.names)
    return {key: vars(score) for key, score in scores.items()}


def check_labels(config: TrainConfig, split: str) -> None:
    """TrainingError unless a run's data set has frames of a split, and labels of them."""
    if not any(record.label is not None for record in open_split(config, split).records):
        raise TrainingError(f"{config.data.root}: the labels of the split {split!r} are withheld")
