# SPDX-License-Identifier: Apache-2.0
"""Segmentation scores of all frames and of subsets of them; everything in percent.

The official evaluation of MM SAM-adapter (arXiv 2509.10408) sums pixels over all frames, turns the
IoU of a class without pixels (0/0) into 0 and averages over all classes. A subset is scored from
the sums of its own frames, so that a group of subsets is pooled, never a mean of means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from mmsam_ros.sensors import NO_LABEL

ALL = "all"


@dataclass(frozen=True)
class Scores:
    """Scores of a set of frames, in percent.

    Attributes:
        frames: how many.
        classes: names, in the order of the training ids.
        iou: per class; None where no pixel of the ground truth is of it (absent).
        miou: mean IoU over all classes, an absent one counting 0: the official number.
        miou_present: mean IoU over the classes that are not absent.
        macc: mean share of found pixels over all classes, an absent one counting 0.
        aacc: share of right pixels.
        absent: names of the absent classes.
    """

    frames: int
    classes: tuple[str, ...]
    iou: tuple[float | None, ...]
    miou: float
    miou_present: float
    macc: float
    aacc: float
    absent: tuple[str, ...]

    @classmethod
    def of(cls, matrix: Tensor, frames: int, classes: Sequence[str]) -> Scores:
        """From a confusion matrix (truth, prediction) of pixel counts."""
        counts = matrix.double().cpu()
        hit, truth, found = counts.diag(), counts.sum(1), counts.sum(0)
        # 0/0 becomes 0; an absent class that is predicted somewhere has 0 anyway
        iou = 100 * hit / (truth + found - hit).clamp(min=1)
        accuracy = 100 * hit / truth.clamp(min=1)
        present = truth > 0
        return cls(
            frames,
            tuple(classes),
            tuple(float(x) if there else None for x, there in zip(iou, present, strict=True)),
            float(iou.mean()),
            float(iou.sum() / present.sum().clamp(min=1)),
            float(accuracy.mean()),
            float(100 * hit.sum() / truth.sum().clamp(min=1)),
            tuple(name for name, there in zip(classes, present, strict=True) if not there),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, IoU by class name."""
        return {
            "frames": self.frames,
            "miou": self.miou,
            "miou_present": self.miou_present,
            "macc": self.macc,
            "aacc": self.aacc,
            "absent": list(self.absent),
            "iou": dict(zip(self.classes, self.iou, strict=True)),
        }


class SubsetMatrices:
    """A confusion matrix for all frames ("all") and one for each subset ("weather=fog").

    Args:
        num_classes: classes.
        device: where the counts are kept.
    """

    def __init__(self, num_classes: int, device: str | torch.device = "cpu") -> None:
        self._num_classes, self._device = num_classes, torch.device(device)
        self._frames: dict[str, int] = {}
        self._matrices: dict[str, Tensor] = {}
        self._add(ALL, 0, torch.zeros(num_classes, num_classes, dtype=torch.long))

    def update(self, prediction: Tensor, target: Tensor, subsets: Mapping[str, str]) -> Tensor:
        """Count a frame.

        Args:
            prediction: (h, w) training ids.
            target: (h, w) training ids; pixels of 255 do not count.
            subsets: what the frame belongs to, as `Record.subsets`.

        Returns:
            The frame's own matrix (truth, prediction).
        """
        matrix = multiclass_confusion_matrix(
            prediction.to(self._device),
            target.to(self._device),
            self._num_classes,
            ignore_index=NO_LABEL,
            validate_args=False,  # of every pixel; data readers and argmax have seen to it
        )
        for name in (ALL, *(f"{key}={value}" for key, value in subsets.items())):
            self._add(name, 1, matrix)
        return matrix

    def reduce(self) -> None:
        """Sum over all processes, if there are several; every one must call it and has the sum."""
        if not torch.distributed.is_initialized():
            return
        own = {name: (self._frames[name], matrix.cpu()) for name, matrix in self._matrices.items()}
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, own)
        self._frames, self._matrices = {}, {}
        for part in gathered:
            for name, (frames, matrix) in part.items():
                self._add(name, frames, matrix)

    def matrix(self, name: str = ALL) -> Tensor:
        """Pixel counts (truth, prediction) of a subset; KeyError where no frame is of it."""
        return self._matrices[name]

    def scores(self, classes: Sequence[str]) -> dict[str, Scores]:
        """Scores by subset, "all" first, the others sorted."""
        names = [ALL, *sorted(set(self._matrices) - {ALL})]
        return {
            name: Scores.of(self._matrices[name], self._frames[name], classes) for name in names
        }

    def _add(self, name: str, frames: int, matrix: Tensor) -> None:
        matrix = matrix.to(self._device)
        self._frames[name] = self._frames.get(name, 0) + frames
        self._matrices[name] = self._matrices[name] + matrix if name in self._matrices else matrix
