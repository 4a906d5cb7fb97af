# SPDX-License-Identifier: Apache-2.0
"""Reads a whole data set: its content, broken files, and differences from what is published."""

import dataclasses
import os
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data import SPLITS
from mmsam_ros.data.benchmark import Benchmark
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.files import IMAGES
from mmsam_ros.data.frames import FrameSet, Record
from mmsam_ros.data.images import read_image
from mmsam_ros.data.open import (
    find_benchmark,
    nothing_labelled,
    scan_frames,
    shared_frames,
)
from mmsam_ros.data.shift import Counts, find_shift, value_counts
from mmsam_ros.sensors import FIELDS, NO_LABEL, ClassInfo, SensorImage, clipping
from mmsam_ros.sensors.camera_info import centre_doubts
from mmsam_ros.sensors.pixels import channel_spread

if TYPE_CHECKING:
    from torch import Tensor

_PNG = {0: "grey", 2: "RGB", 3: "palette", 4: "grey + alpha", 6: "RGBA"}
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of an auxiliary's planes over the train split, in their units; arrays by field.

    Mean of the images' means; variance of those means plus mean of the images' variances: the rule
    of the MUSES tools, which gave the published constants.
    """

    fields: tuple[str, ...]
    mean: Array
    std: Array
    low: Array
    high: Array


@dataclass
class Report:
    """What `check_dataset` found.

    Faults are files that are missing, broken or do not fit; notes say what differs from the
    publication without being broken.
    """

    classes: tuple[ClassInfo, ...] = ()  # table of the training ids
    counts: dict[str, Counter[str]] = field(default_factory=dict)  # split -> group -> frames
    forms: dict[str, Counter[str]] = field(default_factory=dict)  # modality -> form -> files
    pixels: dict[str, NDArray[np.int64]] = field(default_factory=dict)  # split -> (256,), by id
    statistics: dict[str, Statistics] = field(default_factory=dict)  # by auxiliary
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class _Facts:
    """What one frame holds; moments (4, fields: mean, variance, min, max) in `train` alone."""

    faults: list[str] = field(default_factory=list)
    forms: dict[str, str] = field(default_factory=dict)
    pixels: NDArray[np.int64] | int = 0
    stored: dict[Path, Counts] = field(default_factory=dict)  # see `value_counts`
    moments: dict[str, Array] = field(default_factory=dict)
    blank: list[str] = field(default_factory=list)  # sensors that show nothing
    uneven: list[str] = field(default_factory=list)  # sensors whose grey images are not quite grey
    clipped: dict[str, str] = field(default_factory=dict)  # sensors whose limits do not fit


@dataclass
class _Seen:
    """What all frames hold, by sensor or split."""

    stored: dict[str, dict[Path, Counts]] = field(default_factory=lambda: defaultdict(dict))
    moments: dict[str, list[Array]] = field(default_factory=lambda: defaultdict(list))
    blank: Counter[str] = field(default_factory=Counter)
    uneven: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    clipped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, frames: FrameSet, record: Record, facts: _Facts) -> None:
        """Add a frame."""
        self.stored[frames.split] |= facts.stored
        self.blank.update(facts.blank)
        for sensor in facts.uneven:
            self.uneven[sensor].append(record.sensors[sensor])
        for sensor, text in facts.clipped.items():
            self.clipped[sensor].append(text)
        for sensor, values in facts.moments.items():
            self.moments[sensor].append(values)

    def statistics(self, frames: FrameSet) -> dict[str, Statistics]:
        """Statistics by auxiliary."""
        found = {}
        for sensor, rows in self.moments.items():
            means, variances, low, high = np.stack(rows, axis=1)
            std = np.sqrt(means.var(0) + variances.mean(0))
            fields = FIELDS[frames.modalities[sensor].encoding]
            found[sensor] = Statistics(fields, means.mean(0), std, low.min(0), high.max(0))
        return found

    def faults(self, total: int) -> list[str]:
        """Limits that most of all frames do not fit."""
        return [
            f"{len(texts)} of {total} frames of {sensor}: {texts[0]}"
            for sensor, texts in self.clipped.items()
            if 2 * len(texts) > total
        ]

    def notes(self, total: int) -> list[str]:
        """Notes on sensors that show nothing, and on grey images that are not quite grey."""
        shown = [f"{n} of {total} frames of {s} show nothing" for s, n in self.blank.items()]
        return shown + [
            f"{len(paths)} of {total} {sensor} images have channels that differ, such as "
            f"{paths[0]}: their mean is read"
            for sensor, paths in self.uneven.items()
        ]


def check_dataset(
    dataset: str, root: str | Path, sensors: Sequence[str], lists: str | Path = "",
    progress: Callable[[int, int], None] | None = None,
) -> Report:  # fmt: skip
    """Reads every file of all splits.

    progress: is called with the frames that are done, and all. The other arguments are those of
    `open_frames`; what it refuses becomes a fault here.
    """
    report, benchmark = Report(), find_benchmark(dataset)
    splits = list(_scan(report, benchmark, dataset, root, sensors, lists))
    report.faults = list(dict.fromkeys(report.faults))
    work = [(frames, record) for frames in splits for record in frames.records]
    seen = _read_all(report, work, progress or (lambda done, total: None))
    by_split = {frames.split: frames for frames, _ in work}
    for split, frames in by_split.items():
        text, proven = find_shift(frames, seen.stored[split])
        if text:
            (report.faults if proven else report.notes).append(text)
    if work:
        report.statistics = seen.statistics(work[0][0])
    report.faults += seen.faults(len(work))
    for split, frames in by_split.items():
        if report.pixels[split].any() and not report.pixels[split][:NO_LABEL].any():
            text = nothing_labelled(frames)  # those of a test may be withheld
            (report.notes if split == "test" else report.faults).append(text)
    for one, other in combinations(by_split, 2):
        if pairs := shared_frames(by_split[one], by_split[other]):
            text = f"{len(pairs)} frames are in {one} and in {other}, such as {pairs[0][1]}"
            (report.faults if (one, other) == ("train", "val") else report.notes).append(text)
    report.notes += dict.fromkeys(n for f in by_split.values() for n in _calibration_notes(f))
    report.notes += _published_notes(benchmark, report)
    if benchmark.notes:
        try:
            report.notes += benchmark.notes(Path(root), {record.name for _, record in work})
        except DataError as error:
            report.faults = list(dict.fromkeys([*report.faults, str(error)]))
    report.notes += _label_notes(report.forms.get("label", {})) + seen.notes(len(work))
    return report


def _scan(
    report: Report, benchmark: Benchmark, dataset: str, root: str | Path,
    sensors: Sequence[str], lists: str | Path,
) -> Iterator[FrameSet]:  # fmt: skip
    """The splits that can be opened; the others are faults."""
    for split in SPLITS:
        try:
            frames = scan_frames(dataset, root, split, sensors, lists)
        except DataError as error:
            report.faults.append(str(error))
            continue
        if benchmark.counts and not frames.records:
            report.faults.append(f"{root}: found no frames of the split {split!r}")
        report.classes = frames.classes
        report.counts[split] = _groups(frames.records)
        report.pixels[split] = np.zeros(256, np.int64)
        yield frames


def _read_all(
    report: Report, work: Sequence[tuple[FrameSet, Record]], progress: Callable[[int, int], None]
) -> _Seen:
    seen = _Seen()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = zip(work, pool.map(_examine, work), strict=True)
        for done, ((frames, record), facts) in enumerate(results, start=1):
            report.faults += facts.faults
            for modality, form in facts.forms.items():
                report.forms.setdefault(modality, Counter())[form] += 1
            report.pixels[frames.split] += facts.pixels
            seen.add(frames, record, facts)
            progress(done, len(work))
    return seen


def count_notes(frames: FrameSet) -> list[str]:
    """Differences between the split's numbers of frames and the published ones."""
    return find_benchmark(frames.dataset).count_notes(frames.split, _groups(frames.records))


def _groups(records: Sequence[Record]) -> Counter[str]:
    groups = (item for record in records for item in record.subsets.items())
    counts = Counter(f"{key}={value}" for key, value in groups if key != "product")
    return Counter({"all": len(records)}) + counts


def _examine(work: tuple[FrameSet, Record]) -> _Facts:
    frames, record = work
    stored = value_counts(frames, record)
    try:
        item = frames.read(record)
        sample = frames.sample(item)
    except DataError:
        return _Facts(_part_faults(frames, record), stored=stored)
    facts = _Facts(forms={"rgb": _form(record.image, sample["rgb"])}, stored=stored)
    for sensor, planes in sample["planes"].items():
        facts.forms[sensor] = _form(record.sensors[sensor], planes)
        if bool(planes.min() == planes.max()):
            facts.blank.append(sensor)
        if _is_uneven(record.sensors[sensor], FIELDS[frames.modalities[sensor].encoding]):
            facts.uneven.append(sensor)
        data = item.frame.sensors[sensor]
        if isinstance(data, SensorImage) and (text := clipping(data, frames.modalities[sensor])):
            facts.clipped[sensor] = text
        if frames.split == "train":
            values = planes.numpy().reshape(len(planes), -1).astype(np.float64)
            moments = (values.mean(1), values.var(1), values.min(1), values.max(1))
            facts.moments[sensor] = np.stack(moments)
    if record.label is not None:
        facts.forms["label"] = _form(record.label, sample["label"])
        facts.pixels = np.bincount(sample["label"].numpy().ravel(), minlength=256)
    return facts


def _is_uneven(path: Path, fields: Sequence[str]) -> bool:
    """Whether a file that holds one quantity has several channels that differ."""
    if len(fields) > 1 or path.suffix.lower() not in IMAGES:
        return False
    image = read_image(path)
    return image.ndim == 3 and channel_spread(image) > 0


def _part_faults(frames: FrameSet, record: Record) -> list[str]:
    """Every fault of a frame: each file is read on its own with the RGB image."""
    bare = dataclasses.replace(record, sensors={}, label=None)
    parts = [bare, dataclasses.replace(bare, label=record.label)]
    parts += [dataclasses.replace(bare, sensors={s: p}) for s, p in record.sensors.items()]
    faults = []
    for part in parts:
        try:
            frames.sample(frames.read(part))
        except DataError as error:
            faults.append(str(error))
    return list(dict.fromkeys(faults))


def _form(path: Path, image: "Tensor") -> str:
    """Size and format of a file that could be read."""
    with path.open("rb") as file:
        head = file.read(26)
    if not head.startswith(b"\x89PNG"):
        return f"{image.shape[-1]}x{image.shape[-2]} {path.suffix}"
    width, height, depth, colour = struct.unpack(">IIBB", head[16:])
    return f"{width}x{height} {_PNG[colour]}, {depth} bit"


def _calibration_notes(frames: FrameSet) -> list[str]:
    """A camera matrix that may be one for images of another size or crop."""
    calibration = frames.calibration
    if calibration is None or calibration.camera is None:
        return []
    camera = calibration.camera
    doubts = centre_doubts(camera.K, (camera.width, camera.height))
    return [f"{calibration.path}: {doubt}" for doubt in doubts]


def _label_notes(forms: Mapping[str, int]) -> list[str]:
    """Label images of several forms: a tool that makes files smaller changes what a pixel says."""
    kinds = sorted({form.partition(" ")[2] for form in forms})
    if len(kinds) < 2:
        return []
    return [f"labels are stored as {' and as '.join(kinds)}: look whether the ids are still right"]


def _published_notes(benchmark: Benchmark, report: Report) -> list[str]:
    notes = []
    for split, counts in report.counts.items():
        notes += benchmark.count_notes(split, counts)
    for form, count in report.forms.get("rgb", {}).items():
        if not form.startswith(benchmark.image_size):
            notes.append(f"{count} RGB images are {form}, published is {benchmark.image_size}")
    for split, pixels in report.pixels.items():
        absent = [info.name for info in report.classes if not pixels[info.id]]
        if pixels.any() and absent:
            notes.append(f"{split}: no pixel of {', '.join(absent)}")
    return notes
