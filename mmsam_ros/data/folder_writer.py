# SPDX-License-Identifier: Apache-2.0
"""The `folder` layout, which docs/own_data.md describes: meta.json, and the writer of all files.

writer = FolderWriter(root, classes, {"lidar": "muses_raw", "thermal": "mono16"}, calibration)
for name, rgb, labels, points, counts in frames:
    writer.add("train", name, rgb, labels, {"lidar": points, "thermal": counts})
writer.finish()
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util import Checked, check_word, from_mapping, ranged, require, write_atomic
from mmsam_ros.data import SPLITS
from mmsam_ros.data.errors import DataError, naming
from mmsam_ros.data.files import composed, read_json
from mmsam_ros.data.read import Calibration
from mmsam_ros.sensors import (
    AUXILIARY_SENSORS,
    ENCODINGS,
    ClassInfo,
    Modality,
    SensorError,
    made_of_points,
    plain_modality,
    stored_alike,
    topic_names,
)
from mmsam_ros.sensors.encodings import MAX_POINT_SIZE, check_image, check_limits

FORMAT = "mmsam-folder/1"


@dataclass(frozen=True)
class Meta(Checked):
    """meta.json."""

    error = DataError

    format: str
    classes: tuple[ClassInfo, ...]  # table of the training ids 0, 1, 2, …
    encodings: Mapping[str, str]  # of each sensor besides the camera, see `sensors.ENCODINGS`
    splits: Mapping[str, tuple[str, ...]]  # names of the frames of train, val and test
    limits: tuple[float, float] | None = None  # `mono16` counts that map to 0 and 255
    subsets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # key -> name -> word
    point_size: int = ranged(2, 1, MAX_POINT_SIZE)  # side of a LiDAR point in the image, pixels
    # names of the network's classes that a class means, by its name; None: these are the network's
    any_of: Mapping[str, tuple[str, ...]] | None = None

    def check(self) -> None:
        self.require(self.format == FORMAT, "format", repr(FORMAT))
        topic_names(self.classes)  # SensorError where two collide
        ordered = tuple(sorted(self.classes, key=lambda info: info.id))
        ids = [info.id for info in ordered]
        if ids != list(range(len(ids))) or not ids:
            raise DataError(f"class ids are {ids}, expected 0, 1, 2, …")
        object.__setattr__(self, "classes", ordered)
        for name, means in (self.any_of or {}).items():
            check_word("any_of", name, [info.name for info in ordered], DataError)
            if not means or len(set(means)) < len(means):
                expected = "one or more classes of the network, each once"
                raise DataError(f"any_of.{name}: found {[*means]}, expected {expected}")
        for sensor, encoding in self.encodings.items():
            check_word("encodings", sensor, AUXILIARY_SENSORS, DataError)
            check_word(f"encodings.{sensor}", encoding, ENCODINGS[sensor], DataError)
        if "thermal" in self.encodings:
            check_limits("limits", self.encodings["thermal"], self.limits)
        else:
            self.require(self.limits is None, "limits", "none: there is no thermal sensor")
        split_of: dict[str, str] = {}
        places: dict[str, str] = {}
        for split, names in self.splits.items():
            check_word("splits", split, SPLITS, DataError)
            for name in names:
                _check_name(f"splits.{split}", name)
                if (key := composed(name)) in places:  # which names one file
                    raise DataError(f"{name!r} is in {places[key]} and in {split}")
                places[key] = split_of[name] = split
        for key, words in self.subsets.items():
            for name in words:
                check_word(f"subsets.{key}", name, split_of, DataError)

    @classmethod
    def read(cls, root: Path) -> Self:
        """The file below `root`; DataError names what is wrong."""
        values = read_json(path := root / "meta.json")
        if "growth" in values:  # the key's name in earlier files
            if "point_size" in values:
                raise DataError(f"{path}: found growth and point_size, expected point_size alone")
            values["point_size"] = values.pop("growth")
        with naming(path, TypeError, ValueError):
            return from_mapping(cls, values, path.stem)

    def modality(self, sensor: str) -> Modality:
        """How the network reads a sensor; points have their size in pixels of the image."""
        encoding = self.encodings[sensor]
        limits = self.limits if encoding == "mono16" else None
        return plain_modality(encoding, limits, self.point_size)


def _check_name(field: str, name: str) -> None:
    """DataError for a frame's name that is no path below the data set's folders."""
    whole = bool(name) and not name.startswith("/") and not {"", ".", ".."} & {*name.split("/")}
    require(whole and "\0" not in name, field, name, "names of files without suffix", DataError)


class FolderWriter:
    """Writes each frame when it is added, meta.json and calib.json at the end.

    Until `finish` there is no meta.json, so an interrupted set is not taken for a whole one.

    Args:
        root: top folder of the data set; created if missing.
        classes, encodings, limits, point_size, any_of: as in `Meta`.
        calibration: content of calib.json, may hold arrays. None if every sensor's image is in the
            camera's view already. DataError where this or `Meta` could not be read back.
    """

    def __init__(
        self, root: Path, classes: Sequence[ClassInfo], encodings: Mapping[str, str],
        calibration: Mapping[str, Any] | None = None, *,
        limits: tuple[float, float] | None = None, point_size: int = 2,
        any_of: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:  # fmt: skip
        with naming(root / "meta.json", ValueError):
            encodings = dict(encodings)
            self.meta = Meta(
                FORMAT, tuple(classes), encodings, {}, limits, point_size=point_size, any_of=any_of
            )
        if calibration is not None:
            Calibration.from_values(calibration, root / "calib.json")
        self.root, self.calibration = root, calibration
        self._split_of: dict[str, str] = {}
        self._subsets: dict[str, dict[str, str]] = {}

    def add(
        self, split: str, name: str, rgb: NDArray[np.uint8], labels: NDArray[np.uint8] | None,
        sensors: Mapping[str, NDArray[Any]], subsets: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Write the files of one frame and list it; DataError for arrays that do not fit.

        Args:
            split: `train`, `val` or `test`.
            name: unique within the data set; names the files.
            rgb: (H, W, 3).
            labels: class ids (H, W), 255 for no label; None if withheld.
            sensors: one array per sensor: its image, as its encoding says. Of LiDAR also points
                (N, 4 or more): x, y, z in the LiDAR's frame (m) and intensity.
            subsets: what evaluation groups by, e.g. {"weather": "fog"}.
        """
        encodings = self.meta.encodings
        if sensors.keys() != encodings.keys():
            found, expected = (", ".join(s) or "none" for s in (sensors, encodings))
            raise DataError(f"{name}: sensors are {found}, expected {expected}")
        if labels is not None and labels.shape != rgb.shape[:2]:
            raise DataError(f"{name}: labels are {labels.shape}, expected {rgb.shape[:2]}")
        self.list_frame(split, name, subsets)
        self._write("images", name, rgb, "rgb8")
        if labels is not None:
            self._write("labels", name, labels, "mono8")
        for sensor, array in sensors.items():
            self._write(sensor, name, array, encodings[sensor])

    def list_frame(self, split: str, name: str, subsets: Mapping[str, str] | None = None) -> None:
        """List a frame whose files are there already, e.g. written by another process."""
        check_word("split", split, SPLITS, DataError)
        _check_name("name", name)
        if name in self._split_of:
            raise DataError(f"{name}: found a second frame of this name, expected unique names")
        self._split_of[name] = split
        for key, word in (subsets or {}).items():
            self._subsets.setdefault(key, {})[name] = word

    def finish(self) -> None:
        """Write calib.json and meta.json."""
        if self.calibration is not None:
            self._write_json("calib.json", self.calibration)
        splits = {s: tuple(n for n, of in self._split_of.items() if of == s) for s in SPLITS}
        values = asdict(replace(self.meta, splits=splits, subsets=self._subsets))
        self._write_json("meta.json", {k: v for k, v in values.items() if v is not None})

    def _write(self, folder: str, name: str, array: NDArray[Any], encoding: str) -> None:
        points = array.ndim == 2 and made_of_points(encoding)
        arrays = stored_alike(encoding, "muses_raw") or encoding == "event_counts"
        path = self.root / folder / f"{name}{'.npy' if points else '.npz' if arrays else '.png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if points:
            if array.shape[1] < 4:
                raise DataError(f"{path}: points are {array.shape}, expected (N, 4) or more")
            np.save(path, array.astype(np.float32))
            return
        with naming(path, SensorError):
            check_image(array, encoding)
        if arrays:
            np.savez_compressed(path, array)
        else:
            write_png(path, array)

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=1, default=lambda array: array.tolist())
        write_atomic(self.root / name, text + "\n")


def write_png(path: Path, image: NDArray[Any]) -> None:
    """A PNG of an RGB, RGBA or single-channel image; creates its folder."""
    if image.ndim == 3:
        code = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
        image = cv2.cvtColor(image, code)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise DataError(f"{path}: could not be written")
