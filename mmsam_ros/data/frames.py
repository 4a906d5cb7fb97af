# SPDX-License-Identifier: Apache-2.0
"""What every data set looks like to training and evaluation: frames on disk, read one by one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.fit import LABEL_ADVICE, check_size, check_turns, thermal_advice
from mmsam_ros.data.images import Turns, read_rgb
from mmsam_ros.data.labels import Values, read_label, read_values
from mmsam_ros.data.read import Calibration, SensorData, read_sensor
from mmsam_ros.sensors import ClassInfo, Frame, Modality, SensorImage, frame_planes

if TYPE_CHECKING:  # with torch._dynamo, more than torch itself: not for what only reads files
    from torchvision import tv_tensors


class Sample(TypedDict, total=False):
    """One frame as planes at its camera image's size; torchvision's v2 transforms act on all."""

    rgb: "tv_tensors.Image"  # uint8 (3, H, W)
    planes: "dict[str, tv_tensors.Image]"  # float32 (C, H, W) by sensor, `sensors.frame_planes`
    label: "tv_tensors.Mask"  # uint8 (H, W) training ids, 255 for none; absent without ground truth


@dataclass(frozen=True)
class Record:
    """The files of one frame."""

    name: str  # unique within the data set, and the same in all of its layouts
    image: Path
    sensors: Mapping[str, Path]  # of each sensor besides the camera
    label: Path | None  # None where the ground truth is withheld
    subsets: Mapping[str, str] = field(default_factory=dict)  # to group scores: {"weather": "fog"}
    coarse: tuple[str, ...] = ()  # sensors whose raster is known to be smaller than the RGB image


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """What the sensors measured, and the ground truth: uint8 (H, W) training ids, 255 for none."""

    record: Record
    frame: Frame
    label: NDArray[np.uint8] | None


@dataclass(frozen=True, eq=False)
class FrameSet:
    """One split of a data set."""

    dataset: str  # name of the benchmark
    split: str  # `train`, `val` or `test`
    records: tuple[Record, ...]  # sorted by name
    classes: tuple[ClassInfo, ...]  # table of the training ids
    modalities: Mapping[str, Modality]  # by sensor; points have their size in camera pixels
    first_label: int = 0  # value of the first class in label images; 1: 0 is no label
    red_labels: bool = False  # the value of a label is the red channel of its image
    common: tuple[int, ...] = ()  # classes that have most pixels of any street; for `data.shift`
    uneven: tuple[str, ...] = ()  # sensors whose grey images may have channels that differ
    calibration: Calibration | None = None  # for points, and images not in the camera's view
    rasters: str = ""  # how the files of its sensors were made, where there are several ways
    change: Callable[[LabelledFrame], LabelledFrame] | None = None  # of what was read
    # names of the network's classes that a class means, by its name; else the one of its name
    any_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> LabelledFrame:
        return self.read(self.records[index])

    def read(self, record: Record) -> LabelledFrame:
        """The frame; DataError names a file that is missing, broken or does not fit."""
        turns: Turns = {}
        rgb = read_rgb(record.image, turns)
        size = rgb.shape[:2]
        sensors: dict[str, SensorData] = {}
        calibration, camera = self.calibration, None
        for sensor, path in record.sensors.items():
            encoding, uneven = self.modalities[sensor].encoding, sensor in self.uneven
            sensors[sensor] = data = read_sensor(sensor, path, encoding, calibration, uneven, turns)
            if isinstance(data, SensorImage) and data.registration.homography is None:
                if sensor not in record.coarse:
                    advice = self._advice(sensor, data.data.shape, size)
                    check_size(path, data.data.shape, record.image, size, turns, advice)
            elif calibration is not None:
                camera = calibration.camera
                advice = "calib.json is for images of one size"
                check_size(
                    calibration.path, calibration.size, record.image, size, turns, advice, "camera"
                )
        label = None
        if record.label is not None:
            count, first = len(self.classes), self.first_label
            label = read_label(record.label, count, first, self.red_labels, turns)
            check_size(record.label, label.shape, record.image, size, turns, LABEL_ADVICE)
        turns |= {path: 1 for path in record.sensors.values() if path not in turns}
        check_turns(record.image, turns, size)
        item = LabelledFrame(record, Frame(rgb, sensors, camera), label)
        return self.change(item) if self.change else item

    def _advice(self, sensor: str, shape: tuple[int, ...], size: tuple[int, ...]) -> str:
        """What to do about a raster of another size than the camera image."""
        if sensor == "thermal" and self.dataset == "folder":
            return thermal_advice(shape, size, self.calibration is not None)
        return "give it in the camera's view, at its size"

    def label_values(self, record: Record) -> Values:
        """The values that the label image of a frame stores; DataError as `read`."""
        assert record.label is not None
        return read_values(record.label, len(self.classes) + self.first_label, self.red_labels)

    def sample(self, item: LabelledFrame) -> Sample:
        """Planes and label of a frame of this set.

        DataError names the file of a sensor whose data does not fit its modality.
        """
        import torch
        from torchvision import tv_tensors

        def image(values: NDArray[Any]) -> tv_tensors.Image:
            return tv_tensors.Image(torch.from_numpy(values).permute(2, 0, 1).contiguous())

        planes = frame_planes(item.frame, self.modalities, item.frame.size)
        for refusal in planes.refused.values():
            raise DataError(f"{item.record.sensors[refusal.sensor]}: {refusal.text}")
        auxiliaries = {sensor: image(values) for sensor, values in planes.auxiliaries.items()}
        sample = Sample(rgb=image(planes.rgb), planes=auxiliaries)
        if item.label is not None:
            sample["label"] = tv_tensors.Mask(torch.from_numpy(item.label))
        return sample
