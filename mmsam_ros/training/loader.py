# SPDX-License-Identifier: Apache-2.0
"""Which frames a training step sees, and how they are read.

Order and augmentation follow from (seed, epoch, frame) alone: not from the number of processes or
workers, and not from where a run was interrupted.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import FrameSet
from mmsam_ros.data.transforms import Augment
from mmsam_ros.training.config import TrainConfig
from mmsam_ros.training.errors import TrainingError
from mmsam_ros.training.inputs import network_inputs, pad_to
from mmsam_ros.weights import Spec

Draw = tuple[int, int]  # epoch, index of the frame
Item = tuple[dict[str, Tensor], Tensor, str]  # inputs by modality (3, h, w), label (h, w), name


class Batch(NamedTuple):
    """Micro-batch: normalised images (B, 3, h, w), labels (B, h, w), names of the frames.

    present: (B,) bool of the auxiliaries that some of the frames lack
    """

    inputs: dict[str, Tensor]
    present: dict[str, Tensor]
    label: Tensor
    names: list[str]


class FrameSampler(Sampler[list[Draw]]):
    """The micro-batches that process `rank` of `world_size` reads in a run, from step `start` on.

    Every epoch is a permutation of its own. A step takes the next `effective` frames of it, split
    over the accumulation's micro-steps and then over the processes, so that all processes together
    see what one would. Frames that do not fill a last step are left out of their epoch.

    Raises:
        TrainingError: the numbers do not divide, or there are fewer frames than a step takes.
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
            size = int(np.prod(self._shape))
            taken = order[position * size : (position + 1) * size].reshape(self._shape)
            for indices in taken[:, self._rank]:
                yield [(epoch, int(index)) for index in indices]


@dataclass(frozen=True, eq=False)
class TrainingFrames(Dataset[Item | DataError]):
    """Frames as the network takes them: augmented, normalised and padded to the crop.

    The error of a frame that cannot be read is given, not raised: of what a worker raises, torch
    leaves a traceback as text.
    """

    frames: FrameSet
    spec: Spec
    config: TrainConfig

    def __post_init__(self) -> None:
        bare = [record.name for record in self.frames.records if record.label is None]
        if bare:
            raise TrainingError(f"{len(bare)} frames have no label, the first is {bare[0]}")

    def __getitem__(self, draw: Draw) -> Item | DataError:
        try:
            return self._read(*draw)
        except DataError as error:
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
        for name in (name for name, keep in zip(auxiliaries, kept, strict=True) if not keep):
            inputs.pop(name, None)
        inputs, label = pad_to(inputs, sample["label"], self.config.augment.crop)
        return inputs, label, item.record.name


def collate(found: Sequence[Item | DataError]) -> Batch | DataError:
    """Stack frames; those that lack an auxiliary of others have zeros for it. Or their error."""
    items = []
    for item in found:
        if isinstance(item, Exception):
            return item
        items.append(item)
    given = dict.fromkeys(name for inputs, _, _ in items for name in inputs)
    blank = torch.zeros_like(items[0][0]["rgb"])
    present = {name: torch.tensor([name in inputs for inputs, _, _ in items]) for name in given}
    return Batch(
        {n: torch.stack([inputs.get(n, blank) for inputs, _, _ in items]) for n in given},
        {name: mask for name, mask in present.items() if not mask.all()},
        torch.stack([label for _, label, _ in items]),
        [name for _, _, name in items],
    )


def make_loader(dataset: TrainingFrames, sampler: FrameSampler) -> Iterator[Batch]:
    """Batches of a whole run, in the order of `sampler`.

    Raises:
        DataError: a frame cannot be read, or does not fit its modality.
    """
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=dataset.config.data.workers,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else it would draw from the network's
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


@contextmanager
def worker_advice() -> Iterator[None]:
    """TrainingError where a worker was killed; torch raises that at any point of the process."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise TrainingError(
            f"{error} Where the memory was full, try fewer --data.workers"
        ) from error


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
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the loop stops us
        signal.signal(number, signal.SIG_IGN)
