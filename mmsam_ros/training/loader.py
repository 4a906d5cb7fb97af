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
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from mmsam_ros._util import MmsamError, stop_signals
from mmsam_ros.data.errors import DataWarning
from mmsam_ros.data.frames import FrameSet, LabelledFrame, Sample
from mmsam_ros.data.transforms import Augment
from mmsam_ros.inference.prepare import normalise, without_blank
from mmsam_ros.sensors import NO_LABEL, RGB
from mmsam_ros.training.config import TrainConfig, TrainingError
from mmsam_ros.weights import Spec

Draw = tuple[int, int]  # epoch, index of the frame
Item = tuple[dict[str, Tensor], Tensor, str]  # inputs by modality (3, h, w), label (h, w), name


class Batch(NamedTuple):
    """A micro-batch."""

    inputs: dict[str, Tensor]  # normalised images (B, 3, h, w) by modality
    present: dict[str, Tensor]  # (B,) of the auxiliaries that some of the frames lack
    label: Tensor  # (B, h, w)
    names: list[str]  # of the frames


class FrameSampler(Sampler[list[Draw]]):
    """The micro-batches that process `rank` of `world_size` reads in a run, from step `start` on.

    Every epoch is a permutation of its own. A step takes the next `effective` frames of it, split
    over the accumulation's micro-steps and then over the processes, so that all processes together
    see what one would. Frames that do not fill a last step are left out of their epoch.
    TrainingError where the numbers do not divide, or a step takes more frames than there are.
    """

    def __init__(
        self, frames: int, config: TrainConfig, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> None:
        batch = config.batch
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
        self._frames, self._seed, self._rank = frames, config.seed, rank
        self._shape = (self.accumulation, world_size, batch.per_device)

    def __len__(self) -> int:
        return len(self.steps) * self.accumulation

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in self.steps:
            epoch, position = divmod(step, self.steps_per_epoch)
            order = np.random.default_rng((self._seed, epoch)).permutation(self._frames)
            taken = order[: self.steps_per_epoch * math.prod(self._shape)]
            for indices in taken.reshape(-1, *self._shape)[position, :, self._rank].tolist():
                yield [(epoch, index) for index in indices]


@dataclass(frozen=True, eq=False)
class TrainingFrames(Dataset[Batch | MmsamError]):
    """Micro-batches as the network takes them: augmented, normalised, padded to the crop, stacked.

    The error of a frame that cannot be read, or of a batch that does not fit the shared memory, is
    returned, not raised: torch would turn what a worker raises into the text of a traceback.
    """

    frames: FrameSet
    spec: Spec
    config: TrainConfig

    def __post_init__(self) -> None:
        bare = [record.name for record in self.frames.records if record.label is None]
        if bare:
            raise TrainingError(f"{len(bare)} frames have no label, the first is {bare[0]}")

    def __getitem__(self, draws: Sequence[Draw]) -> Batch | MmsamError:
        try:
            return _share(collate([self._read(*draw) for draw in draws]))
        except MmsamError as error:
            return error

    def _read(self, epoch: int, index: int) -> Item:
        # only the CPU's generator, and given back: without workers it is the network's own
        entropy = np.random.SeedSequence((self.config.seed, epoch, index))
        with torch.random.fork_rng(devices=[]), _one_thread():
            torch.default_generator.manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
            item = self.frames[index]
            sample = Augment(self.config.augment)(self.frames.sample(item))
            auxiliaries = self.spec.config.auxiliaries
            kept = torch.rand(len(auxiliaries)) >= self.config.modality_dropout
        inputs = network_inputs(sample, self.spec)
        for name, keep in zip(auxiliaries, kept, strict=True):
            if not keep:
                inputs.pop(name, None)
        inputs, label = pad_to(inputs, sample["label"], self.config.augment.crop)
        return inputs, label, item.record.name


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
        dataset.frames.read(dataset.frames.records[0])
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
