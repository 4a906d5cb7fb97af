# SPDX-License-Identifier: Apache-2.0
"""What every data set looks like to training and evaluation: frames on disk, read one by one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from mmsam_ros.data.calibration import Calibration, SensorData, read_sensor
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.read import decode_label, read_image, read_rgb
from mmsam_ros.sensors import ClassInfo, Frame, Modality, SensorImage, frame_planes


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
    """The files of one frame.

    Attributes:
        name: unique within the data set, and stable over its layouts.
        image: the RGB image.
        sensors: file of each sensor besides the camera.
        label: the ground truth, or None where it is withheld.
        subsets: what evaluation groups by, e.g. {"weather": "fog", "difficulty": "hard"}.
        coarse: sensors whose raster is known to be smaller than the RGB image.
    """

    name: str
    image: Path
    sensors: Mapping[str, Path]
    label: Path | None
    subsets: Mapping[str, str] = field(default_factory=dict)
    coarse: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """What the sensors measured, and the ground truth: uint8 (H, W) training ids, 255 for none."""

    record: Record
    frame: Frame
    label: NDArray[np.uint8] | None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the camera image."""
        return self.frame.size


@dataclass(frozen=True)
class Reader:
    """Reads a record. A data set with labels of another form overrides `label`.

    Attributes:
        modalities: of the sensors besides the camera.
        classes: how many there are.
        offset: label value of the first class; 0 is no label where that is 1.
        calibration: for points, and for images that are not in the camera's view.
    """

    modalities: Mapping[str, Modality]
    classes: int
    offset: int = 0
    calibration: Calibration | None = None

    def __call__(self, record: Record) -> LabelledFrame:
        """The frame; DataError names a file that is missing, broken or does not fit."""
        rgb = read_rgb(record.image)
        sensors: dict[str, SensorData] = {}
        calibration, camera = self.calibration, None
        for sensor, path in record.sensors.items():
            encoding = self.modalities[sensor].encoding
            sensors[sensor] = data = read_sensor(sensor, path, encoding, calibration)
            if isinstance(data, SensorImage) and data.registration.homography is None:
                if sensor not in record.coarse:
                    _check_size(f"{path}:", data.data.shape, record.image, rgb.shape)
            elif calibration is not None:
                camera = calibration.camera
                size = camera.height, camera.width
                _check_size(f"{calibration.path}: camera", size, record.image, rgb.shape)
        label = None
        if record.label is not None:
            label = self.label(record.label)
            _check_size(f"{record.label}:", label.shape, record.image, rgb.shape)
        return LabelledFrame(record, Frame(rgb, sensors, camera), label)

    def label(self, path: Path) -> NDArray[np.uint8]:
        """Training ids (H, W), 255 where there is none."""
        return decode_label(path, read_image(path), self.classes, self.offset)


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


def _check_size(what: str, shape: tuple[int, ...], image: Path, expected: tuple[int, ...]) -> None:
    (h, w, *_), (height, width, *_) = shape, expected
    if (h, w) != (height, width):
        raise DataError(f"{what} is {w}x{h}, but {image} is {width}x{height}")
