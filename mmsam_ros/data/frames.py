# SPDX-License-Identifier: Apache-2.0
"""What every data set looks like to training and evaluation: frames on disk, read one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from torch import Tensor
from torchvision import tv_tensors

from mmsam_ros.data.words import SPLITS as SPLITS
from mmsam_ros.sensors import CameraModel, ClassInfo, LidarPoints, SensorImage

Measured = LidarPoints | SensorImage


class Sample(TypedDict, total=False):
    """One frame in memory; torchvision's v2 transforms act on all its images together.

    Attributes:
        name: the record's.
        rgb: uint8 (3, H, W).
        sources: per auxiliary source float32 (C, H, W), the channels that `sensors.FIELDS` names,
            with the values of `sensors.decode_raster`, at the RGB image's size.
        label: uint8 (H, W) training ids, 255 where there is none; absent without ground truth.
        measured: per source what the sensor itself gave, where that is more than the raster in
            `sources`; evaluation attaches it.
        camera: the model of the camera, where `measured` needs one.
    """

    name: str
    rgb: tv_tensors.Image
    sources: dict[str, Tensor]
    label: tv_tensors.Mask
    measured: dict[str, Measured]
    camera: CameraModel


@dataclass(frozen=True)
class Record:
    """Where one frame lies.

    Attributes:
        name: unique within the data set, and stable over its layouts.
        image: the RGB image.
        sources: file of each auxiliary source.
        label: the ground truth, or None where it is withheld.
        subsets: what evaluation groups by, e.g. {"weather": "fog", "difficulty": "hard"}.
    """

    name: str
    image: Path
    sources: Mapping[str, Path]
    label: Path | None
    subsets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class FrameSet:
    """One split of a data set.

    Attributes:
        kind: `deliver`, `fmb`, `muses` or `folder`.
        split: `train`, `val` or `test`.
        records: the frames, sorted by name.
        classes: table of the training ids.
        encodings: how each auxiliary source is stored (see `sensors.ENCODINGS`).
        reader: reads a record; DataError names the file that is missing or does not fit.
        limits: counts of a 16-bit thermal image that map to 0 and 255, or None.
        growth: side of a projected point's square in pixels of the camera's image; 0 where rasters
            are read as they are.
        camera_size: (height, width) that `growth` holds for.
        measure: a sample's `measured` and `camera`, where the data set holds them.
    """

    kind: str
    split: str
    records: tuple[Record, ...]
    classes: tuple[ClassInfo, ...]
    encodings: Mapping[str, str]
    reader: Callable[[Record], Sample]
    limits: tuple[float, float] | None = None
    growth: int = 0
    camera_size: tuple[int, int] = (0, 0)
    measure: Callable[[Record], Sample] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        return self.reader(self.records[index])
