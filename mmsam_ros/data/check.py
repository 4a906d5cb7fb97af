# SPDX-License-Identifier: Apache-2.0
"""Reads a whole data set and says what is in it, what is broken, and where it differs from what is
published.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mmsam_ros.data.deliver import unknown_case
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import SPLITS, FrameSet, Record
from mmsam_ros.data.open import scan_frames
from mmsam_ros.sensors import FIELDS, ClassInfo

_DELIVER_TEST = {
    "all": 1897, "weather=cloud": 379, "weather=fog": 379, "weather=night": 379,
    "weather=rain": 380, "weather=sun": 380, "case=ordinary": 1198, "case=motionblur": 300,
    "case=overexposure": 100, "case=underexposure": 100, "case=lidarjitter": 99,
    "case=eventlowres": 100, "difficulty=easy": 1797, "difficulty=hard": 100,
}  # fmt: skip
_MUSES_TEST = {
    "all": 750, "weather=clear": 225, "weather=fog": 175, "weather=rain": 175, "weather=snow": 175,
    "time=day": 450, "time=night": 300,
}  # fmt: skip
PUBLISHED: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    "deliver": {"train": {"all": 3983}, "val": {"all": 2005}, "test": _DELIVER_TEST},
    "fmb": {
        "train": {"all": 1060, "difficulty=easy": 752, "difficulty=hard": 308},
        "val": {"all": 160, "difficulty=easy": 80, "difficulty=hard": 80},
        "test": {"all": 280, "difficulty=easy": 183, "difficulty=hard": 97},
    },
    "muses": {"train": {"all": 1500}, "val": {"all": 250}, "test": _MUSES_TEST},
}
"""Frames by kind, split and group."""
_SIZES = {"deliver": "1042x1042", "fmb": "800x600", "muses": "1920x1080"}
_PNG = {0: "grey", 2: "RGB", 3: "palette", 4: "grey + alpha", 6: "RGBA"}


@dataclass(frozen=True)
class Statistics:
    """Of an auxiliary's channels over the train split, in stored units.

    Mean of the images' means; variance of those means plus mean of the images' variances: the rule
    of the MUSES tools, which gave the published constants.
    """

    fields: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass
class Report:
    """What `check_dataset` found.

    Attributes:
        classes: table of the training ids.
        counts: by split, frames of each group ("all", "weather=fog" …).
        forms: by modality, how many files are stored in which size and format.
        pixels: by split, pixels of each training id (256).
        statistics: by auxiliary.
        faults: files that are missing, broken or do not fit.
        notes: what differs from the publication without being broken.
    """

    classes: tuple[ClassInfo, ...] = ()
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    forms: dict[str, Counter[str]] = field(default_factory=dict)
    pixels: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    statistics: dict[str, Statistics] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class _Facts:
    """Of one frame; moments (train only) are mean, variance, minimum and maximum (4, C).

    blank: auxiliaries with one value everywhere.
    """

    split: str
    faults: list[str] = field(default_factory=list)
    forms: dict[str, str] = field(default_factory=dict)
    pixels: NDArray[np.int64] | int = 0
    moments: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    blank: list[str] = field(default_factory=list)


def check_dataset(
    kind: str,
    root: str | Path,
    sources: Sequence[str],
    lists: str | Path = "",
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Reads every file of all splits.

    progress: is called with the frames that are done, and all. The other arguments are those of
    `open_frames`; what it refuses becomes a fault here.
    """
    report = Report()
    work: list[tuple[FrameSet, Record]] = []
    for split in SPLITS:
        try:
            frames = scan_frames(kind, root, split, sources, lists)
        except DataError as error:
            report.faults.append(str(error))
            continue
        if kind != "folder" and not frames.records:
            report.faults.append(f"{root}: found no frames of the split {split!r}")
        report.classes = frames.classes
        report.counts[split] = _groups(frames.records)
        report.pixels[split] = np.zeros(256, np.int64)
        work += [(frames, record) for record in frames.records]
    report.faults = list(dict.fromkeys(report.faults))
    moments: dict[str, list[NDArray[np.float64]]] = {}
    blank: Counter[str] = Counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, facts in enumerate(pool.map(_examine, work), start=1):
            report.faults += facts.faults
            for modality, form in facts.forms.items():
                report.forms.setdefault(modality, Counter())[form] += 1
            report.pixels[facts.split] += facts.pixels
            blank.update(facts.blank)
            for source, values in facts.moments.items():
                moments.setdefault(source, []).append(values)
            if progress:
                progress(done, len(work))
    encodings = work[0][0].encodings if work else {}
    for source, rows in moments.items():
        report.statistics[source] = _statistics(encodings[source], np.stack(rows))
    names = {record.name for _, record in work}
    report.notes += _notes(kind, Path(root), names, report)
    for source, count in blank.items():
        report.notes.append(f"{count} of {len(work)} frames of {source} show nothing")
    return report


def _groups(records: Sequence[Record]) -> Counter[str]:
    counts = Counter(
        f"{key}={value}"
        for record in records
        for key, value in record.subsets.items()
        if key != "product"
    )
    return Counter({"all": len(records)}) + counts


def count_notes(frames: FrameSet) -> list[str]:
    """Where the number of frames differs from what is published of the split."""
    return _differ(frames.kind, frames.split, _groups(frames.records))


def _differ(kind: str, split: str, counts: Mapping[str, int]) -> list[str]:
    known = {group.partition("=")[0] for group in counts}  # FMB has no difficulty without lists
    return [
        f"{split}: {counts.get(group, 0)} frames of {group}, published are {published}"
        for group, published in PUBLISHED.get(kind, {}).get(split, {}).items()
        if group.partition("=")[0] in known and counts.get(group, 0) != published
    ]


def _examine(item: tuple[FrameSet, Record]) -> _Facts:
    frames, record = item
    try:
        sample = frames.reader(record)
    except DataError:
        return _Facts(frames.split, _part_faults(frames, record))
    facts = _Facts(frames.split, forms={"rgb": _form(record.image, sample["rgb"])})
    for source, planes in sample["sources"].items():
        facts.forms[source] = _form(record.sources[source], planes)
        if bool(planes.min() == planes.max()):
            facts.blank.append(source)
        if frames.split == "train":
            values = planes.numpy().reshape(len(planes), -1).astype(np.float64)
            moments = (values.mean(1), values.var(1), values.min(1), values.max(1))
            facts.moments[source] = np.stack(moments)
    if record.label is not None:
        facts.forms["label"] = _form(record.label, sample["label"])
        facts.pixels = np.bincount(sample["label"].numpy().ravel(), minlength=256)
    return facts


def _part_faults(frames: FrameSet, record: Record) -> list[str]:
    """Every fault of a frame: each file is read on its own with the RGB image."""
    bare = dataclasses.replace(record, sources={}, label=None)
    parts = [bare, dataclasses.replace(bare, label=record.label)]
    parts += [dataclasses.replace(bare, sources={s: p}) for s, p in record.sources.items()]
    faults: dict[str, None] = {}
    for part in parts:
        try:
            frames.reader(part)
        except DataError as error:
            faults[str(error)] = None
    return list(faults)


def _form(path: Path, image: Tensor) -> str:
    """Size and format of a file that could be read."""
    with path.open("rb") as file:
        head = file.read(26)
    if not head.startswith(b"\x89PNG"):
        return f"{image.shape[-1]}x{image.shape[-2]} {path.suffix}"
    width, height, depth, colour = struct.unpack(">IIBB", head[16:])
    return f"{width}x{height} {_PNG[colour]}, {depth} bit"


def _statistics(encoding: str, moments: NDArray[np.float64]) -> Statistics:
    """moments: (frames, 4, C)."""
    means, variances, low, high = moments.swapaxes(0, 1)
    rows = (means.mean(0), np.sqrt(means.var(0) + variances.mean(0)), low.min(0), high.max(0))
    return Statistics(FIELDS[encoding], *(tuple(map(float, row)) for row in rows))


def _name(path: Path, top: Path | None) -> str:
    """An image's name in the splits: below `top` without the suffix, or the stem."""
    return path.relative_to(top).with_suffix("").as_posix() if top else path.stem


def _notes(kind: str, root: Path, names: set[str], report: Report) -> list[str]:
    notes = [n for split, counts in report.counts.items() for n in _differ(kind, split, counts)]
    for form, count in report.forms.get("rgb", {}).items():
        if not form.startswith(_SIZES.get(kind, "")):
            notes.append(f"{count} RGB images are {form}, published is {_SIZES[kind]}")
    for split, pixels in report.pixels.items():
        absent = [info.name for info in report.classes if not pixels[info.id]]
        if pixels.any() and absent:
            notes.append(f"{split}: no pixel of {', '.join(absent)}")
    if kind == "deliver" and (coloured := sum(1 for _ in root.glob("lidar/**/*_color.png"))):
        notes.append(f"{coloured} coloured LiDAR variants are not read")
    if kind == "deliver" and (odd := sorted(filter(unknown_case, names))):
        notes.append(f"{len(odd)} frames of unknown cases count as ordinary, such as {odd[0]}")
    images = {"fmb": "*/Visible/**/*.png", "folder": "images/**/*.*"}.get(kind)
    top = root / "images" if kind == "folder" else None
    paths = [path for path in root.glob(images) if path.is_file()] if images else []
    found = {_name(path, top) for path in paths}
    if unused := found - names:
        notes.append(f"{len(unused)} images are in no split, such as {min(unused)}")
    return notes
