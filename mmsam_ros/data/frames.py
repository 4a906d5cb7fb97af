# SPDX-License-Identifier: Apache-2.0
"""What every data set looks like to training and evaluation: frames on disk, read one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from mmsam_ros.data.errors import DataError
from mmsam_ros.sensors import ClassInfo, Frame, Modality, frame_planes


class Sample(TypedDict, total=False):
    """One frame as planes at its camera image's size; torchvision's v2 transforms act on all.

    Attributes:
        rgb: uint8 (3, H, W).
        planes: per auxiliary sensor float32 (C, H, W), see `sensors.frame_planes`.
        label: uint8 (H, W) training ids, 255 where there is none; absent without ground truth.
    """

    rgb: tv_tensors.Image
    planes: dict[str, tv_tensors.Image]
    label: tv_tensors.Mask


@dataclass(frozen=True)
class Record:
    """Where one frame lies.

    Attributes:
        name: unique within the data set, and stable over its layouts.
        image: the RGB image.
        sensors: file of each sensor besides the camera.
        label: the ground truth, or None where it is withheld.
        subsets: what evaluation groups by, e.g. {"weather": "fog", "difficulty": "hard"}.
    """

    name: str
    image: Path
    sensors: Mapping[str, Path]
    label: Path | None
    subsets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """What the sensors measured, and the ground truth: uint8 (H, W) training ids, 255 for none."""

    record: Record
    frame: Frame
    label: NDArray[np.uint8] | None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the camera image."""
        return (self.frame.rgb.shape[0], self.frame.rgb.shape[1])


@dataclass(frozen=True, eq=False)
class FrameSet:
    """One split of a data set.

    Attributes:
        dataset: name of the benchmark.
        split: `train`, `val` or `test`.
        records: the frames, sorted by name.
        classes: table of the training ids.
        modalities: of the sensors besides the camera; sizes of points are in pixels of the camera
            image.
        reader: reads a record; DataError names the file that is missing or does not fit.
        point_image: (height, width) of the camera that points are projected into; None where
            rasters are read as they are.
    """

    dataset: str
    split: str
    records: tuple[Record, ...]
    classes: tuple[ClassInfo, ...]
    modalities: Mapping[str, Modality]
    reader: Callable[[Record], LabelledFrame]
    point_image: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> LabelledFrame:
        return self.reader(self.records[index])

    def sample(self, item: LabelledFrame) -> Sample:
        """Planes and label of a frame of this set.

        Raises:
            DataError: a sensor's data does not fit its modality; names the file.
        """
        planes = frame_planes(item.frame, self.modalities, item.size)
        for refusal in planes.refused.values():
            raise DataError(f"{item.record.sensors[refusal.sensor]}: {refusal.text}")
        auxiliaries = {sensor: _image(values) for sensor, values in planes.auxiliaries.items()}
        sample = Sample(rgb=_image(planes.rgb), planes=auxiliaries)
        if item.label is not None:
            sample["label"] = tv_tensors.Mask(torch.from_numpy(item.label))
        return sample


def _image(planes: NDArray[Any]) -> tv_tensors.Image:
    return tv_tensors.Image(torch.from_numpy(planes).permute(2, 0, 1).contiguous())
