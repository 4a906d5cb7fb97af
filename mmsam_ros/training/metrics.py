# SPDX-License-Identifier: Apache-2.0
"""Segmentation scores of all frames and of subsets of them; everything in percent.

The official evaluation of MM SAM-adapter (arXiv 2509.10408) sums pixels over all frames, turns the
IoU of a class without pixels (0/0) into 0 and averages over all classes. A subset is scored from
the sums of its own frames, so that a group of subsets is pooled, never a mean of means.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from mmsam_ros.sensors import NO_LABEL

ALL = "all"
Subsets = Mapping[str, str]  # what a frame belongs to: {"weather": "fog"}


@dataclass(frozen=True)
class Scores:
    """Scores of a set of frames, in percent. A class is absent if no true pixel is of it."""

    frames: int  # how many
    miou: float  # mean IoU over all classes, an absent one counting 0: the official number
    miou_present: float  # mean IoU over the classes that are not absent
    macc: float  # mean share of found pixels over all classes, an absent one counting 0
    aacc: float  # share of right pixels
    absent: list[str]  # names of the absent classes
    iou: dict[str, float | None]  # by class name; None where it is absent

    @classmethod
    def of(cls, matrix: Tensor, frames: int, classes: Sequence[str]) -> Self:
        """From a confusion matrix (truth, prediction) of pixel counts; rows and columns beyond
        `classes` are of predictions that are none of them.
        """
        counts, own = matrix.double().cpu(), len(classes)
        hit, truth, found = counts.diag()[:own], counts.sum(1)[:own], counts.sum(0)[:own]
        # 0/0 becomes 0; an absent class that is predicted somewhere has 0 anyway
        iou = 100 * hit / (truth + found - hit).clamp(min=1)
        accuracy = 100 * hit / truth.clamp(min=1)
        present = truth > 0
        values = zip(classes, iou.tolist(), present, strict=True)
        by_class = {name: value if there else None for name, value, there in values}
        return cls(
            frames,
            miou=float(iou.mean()),
            miou_present=float(iou.sum() / present.sum().clamp(min=1)),
            macc=float(accuracy.mean()),
            aacc=float(100 * hit.sum() / truth.sum().clamp(min=1)),
            absent=[name for name, value in by_class.items() if value is None],
            iou=by_class,
        )


class SubsetMatrices:
    """A confusion matrix for all frames ("all") and one for each subset ("weather=fog").

    `subsets` are those of all frames of all processes, `device` that of predictions and truth.
    """

    def __init__(
        self, num_classes: int, subsets: Iterable[Subsets] = (), device: str | torch.device = "cpu"
    ) -> None:
        self._names = [ALL, *sorted({name for some in subsets for name in _names(some)})]
        shape = (len(self._names), num_classes, num_classes)
        self._matrices = torch.zeros(shape, dtype=torch.long, device=device)
        self._frames = torch.zeros(len(self._names), dtype=torch.long, device=device)

    def update(self, prediction: Tensor, target: Tensor, subsets: Subsets) -> Tensor:
        """Count a frame's pixels, but for those whose true id is 255; (h, w) training ids.

        Returns the frame's own matrix (truth, prediction).
        """
        matrix = multiclass_confusion_matrix(  # readers and argmax have seen to every pixel
            prediction, target, len(self.matrix()), ignore_index=NO_LABEL, validate_args=False
        )
        counted = [self._names.index(name) for name in (ALL, *_names(subsets))]
        self._matrices[counted] += matrix
        self._frames[counted] += 1
        return matrix

    def all_reduce(self) -> None:
        """Sum over all processes, if there are several; every one must call it and has the sum."""
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(self._matrices)
            torch.distributed.all_reduce(self._frames)

    def matrix(self) -> Tensor:
        """Pixel counts (truth, prediction) of all frames."""
        return self._matrices[0]

    def scores(self, classes: Sequence[str]) -> dict[str, Scores]:
        """Scores by subset that has frames, "all" first, the others sorted."""
        counted = zip(self._names, self._matrices, self._frames.tolist(), strict=True)
        return {
            name: Scores.of(matrix, frames, classes)
            for name, matrix, frames in counted
            if frames or name == ALL
        }


def _names(subsets: Subsets) -> list[str]:
    return [f"{key}={value}" for key, value in subsets.items()]
