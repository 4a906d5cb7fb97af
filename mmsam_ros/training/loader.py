# SPDX-License-Identifier: Apache-2.0
"""Which frames a training step sees, and how they are read.

Order and augmentation follow from (seed, epoch, frame) alone: not from the number of processes or
workers, and not from where a run was interrupted.
"""

import math
import os
import shutil
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info
from torchvision import tv_tensors

from mmsam_ros._util import MmsamError, stop_signals
from mmsam_ros.data.errors import DataWarning
from mmsam_ros.data.frames import FrameSet, LabelledFrame, Sample
from mmsam_ros.data.meanings import LabelCodes
from mmsam_ros.data.transforms import Augment
from mmsam_ros.inference.prepare import normalise, without_blank
from mmsam_ros.sensors import NO_LABEL, RGB, made_of_points, stored_alike
from mmsam_ros.training.config import TrainConfig, TrainingError
from mmsam_ros.weights import Spec

Draw = tuple[int, int, int]  # round through the data set's frames, index of the frame, data set
Item = tuple[dict[str, Tensor], Tensor, str]  # inputs by modality (3, h, w), label (h, w), name


class Batch(NamedTuple):
    """A micro-batch."""

    inputs: dict[str, Tensor]  # normalised images (B, 3, h, w) by modality
    present: dict[str, Tensor]  # (B,) of the auxiliaries that some of the frames lack
    label: Tensor  # (B, h, w), see `TrainingFrames.codes`
    names: list[str]  # of the frames


class FrameSampler(Sampler[list[Draw]]):
    """The micro-batches that process `rank` of `world_size` reads in a run, from step `start` on.

    Every epoch is a permutation of its own. A step takes the next `effective` frames of it, split
    over the accumulation's micro-steps and then over the processes, so that all processes together
    see what one would. Frames that do not fill a last step are left out of their epoch.

    With `others`, the numbers of frames of `data.mix`, an epoch has as many frames as all sets
    together, each set its share, shuffled. A set goes round through permutations of its frames,
    on from where the last epoch ended, so that none comes more often than another.

    TrainingError where the numbers do not divide, a step takes more frames than there are, or a
    set with a weight would never come.
    """

    def __init__(
        self, frames: int, config: TrainConfig, rank: int = 0, world_size: int = 1, start: int = 0,
        others: Sequence[int] = (),
    ) -> None:  # fmt: skip
        batch, data = config.batch, config.data
        weights = np.array(data.shares)
        self._sizes = np.array([frames, *others])
        frames = int(self._sizes[weights > 0].sum())
        bounds = np.rint(frames * weights.cumsum() / weights.sum()).astype(int)
        self._counts = np.diff(bounds, prepend=0)  # of an epoch's frames, by data set
        for name, weight, count in zip(("", *data.mix), weights, self._counts, strict=True):
            if weight and not count:
                least = weights.sum() / frames
                raise TrainingError(
                    f"data.{f'mix.{name}.' if name else ''}weight: found {weight:g}, too little "
                    f"for one of the {frames} frames of an epoch, expected 0 or at least "
                    f"{least:.2g}"
                )
        self.accumulation, rest = divmod(batch.effective, batch.per_device * world_size)
        if rest:
            raise TrainingError(
                f"batch.effective is {batch.effective}, expected a multiple of batch.per_device "
                f"{batch.per_device} times {world_size} processes"
            )
        if frames < batch.effective:
            raise TrainingError(
                f"the train split has {frames} frames, fewer than batch.effective {batch.effective}"
            )
        self.steps_per_epoch = frames // batch.effective
        self.steps = range(start, config.schedule.epochs * self.steps_per_epoch)
        self._seed, self._rank = config.seed, rank
        self._shape = (self.accumulation, world_size, batch.per_device)

    def __len__(self) -> int:
        return len(self.steps) * self.accumulation

    def __iter__(self) -> Iterator[list[Draw]]:
        read = lru_cache(maxsize=1)(self._epoch)
        for step in self.steps:
            epoch, position = divmod(step, self.steps_per_epoch)
            taken = read(epoch)[: self.steps_per_epoch * math.prod(self._shape)]
            for draws in taken.reshape(-1, *self._shape, 3)[position, :, self._rank].tolist():
                yield [tuple(draw) for draw in draws]

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        """Every draw of an epoch (frames, 3), in order."""
        own, kinds = self._counts, len(self._counts)
        which = self._permuted(np.repeat(np.arange(kinds), own), epoch, kinds)
        draws = np.empty((len(which), 3), np.int64)
        for kind, (size, count) in enumerate(zip(self._sizes, own, strict=True)):
            rounds, places = np.divmod(epoch * count + np.arange(count), size)
            orders = {r: self._permuted(np.arange(size), r, kind) for r in np.unique(rounds)}
            indices = [orders[r][place] for r, place in zip(rounds, places, strict=True)]
            draws[which == kind] = np.stack([rounds, indices, np.full(count, kind)], axis=1)
        return draws

    def _permuted(self, values: NDArray[np.int64], *key: int) -> NDArray[np.int64]:
        return np.random.default_rng((self._seed, *key)).permutation(values)


@dataclass(frozen=True, eq=False)
class TrainingFrames(Dataset[Batch | MmsamError]):
    """Micro-batches as the network takes them: augmented, normalised, padded to the crop, stacked.

    The error of a frame that cannot be read, or of a batch that does not fit the shared memory, is
    returned, not raised: torch would turn what a worker raises into the text of a traceback.
    """

    frames: FrameSet
    spec: Spec
    config: TrainConfig
    others: tuple[FrameSet, ...] = ()  # of `data.mix`

    def __post_init__(self) -> None:
        for frames in self.sets:
            bare = [record.name for record in frames.records if record.label is None]
            if bare:
                raise TrainingError(f"{len(bare)} frames have no label, the first is {bare[0]}")
        encoding = self.spec.encodings.get("lidar", "muses_raw")
        if self.config.augment.changes_intensity and not made_of_points(encoding):
            raise TrainingError(
                f"augment changes LiDAR intensity, but {encoding} images have none, expected "
                "no_intensity 0 and intensity_gamma [1, 1]"
            )

    @cached_property
    def sets(self) -> tuple[FrameSet, ...]:
        """The data sets, by their number in a draw, as the network reads their sensors."""
        return tuple(_as_read(frames, self.spec) for frames in (self.frames, *self.others))

    @cached_property
    def codes(self) -> LabelCodes:
        """What the values of a batch's labels mean."""
        return LabelCodes.of(self.sets, self.spec.classes)

    def __getitem__(self, draws: Sequence[Draw]) -> Batch | MmsamError:
        try:
            return _share(collate([self._read(*draw) for draw in draws]))
        except MmsamError as error:
            return error

    def _read(self, number: int, index: int, kind: int) -> Item:
        frames = self.sets[kind]
        # only the CPU's generator, and given back: without workers it is the network's own
        entropy = np.random.SeedSequence((self.config.seed, number, index, kind))
        with torch.random.fork_rng(devices=[]), _one_thread():
            torch.default_generator.manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
            item = frames[index]
            sample = frames.sample(item)
            codes = self.codes.tables[kind][sample["label"].numpy()]
            sample["label"] = tv_tensors.Mask(torch.from_numpy(codes))
            sample = Augment(self.config.augment)(sample)
            auxiliaries = self.spec.config.auxiliaries
            kept = torch.rand(len(auxiliaries)) >= self.config.modality_dropout
        inputs = network_inputs(sample, self.spec)
        lost = {name for name, keep in zip(auxiliaries, kept, strict=True) if not keep}
        # RGB alone is a network of its own with a fallback, and does not train
        if self.spec.config.combine.absent != "fallback" or inputs.keys() - lost - {RGB}:
            inputs = {name: image for name, image in inputs.items() if name not in lost}
        inputs, label = pad_to(inputs, sample["label"], self.config.augment.crop)
        return inputs, label, item.record.name


def _as_read(frames: FrameSet, spec: Spec) -> FrameSet:
    """A data set whose sensors are read in the weights' encodings, see `stored_alike`."""
    read = dict(frames.modalities)
    for sensor, encoding in spec.encodings.items():
        if sensor in read and stored_alike(read[sensor].encoding, encoding):
            read[sensor] = replace(read[sensor], encoding=encoding)
    return replace(frames, modalities=read)


def network_inputs(sample: Sample, spec: Spec) -> dict[str, Tensor]:
    """Normalised images (3, h, w) by modality, at the sample's size; as `inference.prepare`'s."""
    inputs = {RGB: normalise(sample["rgb"].as_subclass(Tensor), spec.inputs[RGB])}
    for sensor, modality in spec.modalities.items():
        if sensor in sample["planes"]:
            planes = sample["planes"][sensor].as_subclass(Tensor)
            blank = bool((planes.amax((1, 2)) == planes.amin((1, 2))).all())
            if not (blank and without_blank(spec)):
                inputs[sensor] = normalise(planes, modality)
    return inputs


def pad_to(
    inputs: Mapping[str, Tensor], label: Tensor, size: tuple[int, int]
) -> tuple[dict[str, Tensor], Tensor]:
    """Pad at the bottom and right to `size`: normalised images with 0, the label with 255."""
    padding = (0, size[1] - label.shape[-1], 0, size[0] - label.shape[-2])
    padded = {name: F.pad(image, padding) for name, image in inputs.items()}
    return padded, F.pad(label.as_subclass(Tensor), padding, value=NO_LABEL)


def collate(items: Sequence[Item]) -> Batch:
    """Stack frames; those that lack an auxiliary of others have zeros for it."""
    frames, labels, names = zip(*items, strict=True)
    given = dict.fromkeys(name for inputs in frames for name in inputs)
    blank = torch.zeros_like(frames[0][RGB])
    present = {name: torch.tensor([name in inputs for inputs in frames]) for name in given}
    return Batch(
        {name: torch.stack([inputs.get(name, blank) for inputs in frames]) for name in given},
        {name: mask for name, mask in present.items() if not mask.all()},
        torch.stack(labels),
        list(names),
    )


def _share(batch: Batch) -> Batch:
    """The batch as a worker hands it over, in shared memory; TrainingError where that is full.

    Torch would do it in a thread of the worker, and wait for ever after that has failed.
    """
    if get_worker_info() is None:
        return batch
    try:
        for tensor in (*batch.inputs.values(), *batch.present.values(), batch.label):
            tensor.share_memory_()
    except RuntimeError as error:
        size = shutil.disk_usage("/dev/shm").total / 2**20
        raise TrainingError(
            f"the loading processes' batches do not fit /dev/shm of {size:.0f} MiB ({error}): give "
            "it more (docker run --shm-size 2g), or load in the process itself (--data.workers 0)"
        ) from error
    return batch


def make_loader(dataset: TrainingFrames, sampler: FrameSampler) -> Iterator[Batch]:
    """Batches of a whole run, in the order of `sampler`; errors as those of `TrainingFrames`."""
    loader: DataLoader[Batch | MmsamError] = DataLoader(
        dataset,
        batch_size=None,  # the data set makes the batches
        sampler=sampler,
        num_workers=dataset.config.data.workers,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else it would draw from the network's
    )
    if dataset.config.data.workers:
        _check_shared_memory()
        # what the frames warn of is said here, and not by every worker
        for frames in dataset.sets:
            frames.read(frames.records[0])
    for batch in loader:
        if isinstance(batch, MmsamError):
            raise batch
        yield batch


def _check_shared_memory() -> None:
    """TrainingError where loading processes could not start."""
    if not os.access("/dev/shm", os.W_OK):
        raise TrainingError(
            "/dev/shm cannot be written, and loading processes need it: mount it (--tmpfs "
            "/dev/shm of docker), or load in the process itself (--data.workers 0, in mmsam eval "
            "--workers 0)"
        )


def read_frames(
    frames: FrameSet, indices: Sequence[int], workers: int = 0
) -> Iterator[LabelledFrame]:
    """Frames in the order of `indices`; errors as of `FrameSet.read`.

    `workers` processes read them, or as many as there are cores; 0: this one does.
    """
    if workers := min(workers, len(indices), len(os.sched_getaffinity(0))):
        _check_shared_memory()
    loader: DataLoader[_Read] = DataLoader(
        _Frames(frames),
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # else it would draw from the network's
    )
    for item, warned in loader:
        for warning in warned:
            warnings.warn(warning, stacklevel=1)
        if isinstance(item, MmsamError):
            raise item
        yield item


_Read = tuple[LabelledFrame | MmsamError, list[Warning]]  # a frame and the warnings of reading it


@dataclass(frozen=True, eq=False)
class _Frames(Dataset[_Read]):
    """Frames as they are; errors and warnings are handed over, as those of `TrainingFrames`."""

    frames: FrameSet

    def __getitem__(self, index: int) -> _Read:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DataWarning)
            try:
                item: LabelledFrame | MmsamError = self.frames[index]
            except MmsamError as error:
                item = error
        return item, [warning.message for warning in caught if isinstance(warning.message, Warning)]


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker: on several threads torch's resize rounds differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    warnings.simplefilter("ignore", DataWarning)  # `make_loader` has said it, once for all
    for number in stop_signals():  # sent to the whole group; the loop stops us
        signal.signal(number, signal.SIG_IGN)
