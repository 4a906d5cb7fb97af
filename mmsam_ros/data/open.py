# SPDX-License-Identifier: Apache-2.0
"""The registry of data sets, and how a split of any is opened."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from mmsam_ros._util import check_word
from mmsam_ros.data import SPLITS, deliver, fmb, folder, muses
from mmsam_ros.data.benchmark import Benchmark
from mmsam_ros.data.errors import DataError, beside
from mmsam_ros.data.frames import FrameSet
from mmsam_ros.data.shift import check_shift
from mmsam_ros.sensors import NO_LABEL

BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK for module in (deliver, fmb, muses, folder)
}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of a name; DataError with the near match where there is none."""
    return BENCHMARKS[check_word("dataset", name, BENCHMARKS, DataError)]


def open_frames(
    dataset: str, root: str | Path, split: str, sensors: Sequence[str], lists: str | Path = ""
) -> FrameSet:
    """One split of a data set, and these sensors besides the camera; no frame lacks a file.

    `root` is the data set's top folder, `lists` the folder of FMB's easy/hard lists. DataError
    names an unknown word, a file or folder that is missing, or labels that are shifted, or say
    nothing although the split is no test.
    """
    frames = scan_frames(dataset, root, split, sensors, lists)
    if not frames.records:
        raise DataError(f"{root}: found no frames of the split {split!r}, expected {dataset}")
    files = (p for r in frames.records for p in (r.image, *r.sensors.values(), r.label))
    if missing := [path for path in files if path is not None and not path.is_file()]:
        raise DataError(
            f"{missing[0]}: is missing ({len(missing)} missing files in {split})"
            f"{beside(missing[0])}"
        )
    check_shift(frames)
    if split != "test" and not any_labelled(frames):  # those of a test may be withheld
        raise DataError(nothing_labelled(frames))
    return frames


def any_labelled(frames: FrameSet) -> bool:
    """Whether a pixel of the split has a label; also where there is no label image at all, or one
    that cannot be read: who reads it is told.
    """
    given = [record for record in frames.records if record.label is not None]
    try:
        images = map(frames.label_values, given)
        says = (((v >= frames.first_label) & (v != NO_LABEL)).any() for v in images)
        return not given or any(says)
    except DataError:
        return True


def nothing_labelled(frames: FrameSet) -> str:
    """The fault of a split without a labelled pixel."""
    first = next(record.label for record in frames.records if record.label is not None)
    return (
        f"{first}: no pixel of the split {frames.split!r} has a label, here or in another file: "
        f"all are {NO_LABEL}{' or 0' if frames.first_label else ''}, expected ids of classes"
    )


def shared_frames(some: FrameSet, others: FrameSet) -> list[tuple[Path, Path]]:
    """Images of both sets that are one frame: they are one file, or have one name in a benchmark,
    whose names are those of the publication.
    """

    def by_key(frames: FrameSet) -> dict[str, Path]:
        found = {os.path.realpath(record.image): record.image for record in frames.records}
        if find_benchmark(frames.dataset).classes:
            found |= {f"{frames.dataset} {r.name}": r.image for r in frames.records}
        return found

    ours, theirs = by_key(some), by_key(others)
    return list(dict.fromkeys((ours[key], theirs[key]) for key in theirs if key in ours))


def check_apart(trained: Sequence[FrameSet], validated: Sequence[FrameSet]) -> None:
    """DataError where frames that are trained on are validated on, too."""
    for own in validated:
        found = [pair for frames in trained for pair in shared_frames(frames, own)]
        if found:
            one, other = found[0]
            raise DataError(
                f"{len(found)} of {len(own)} frames of {own.split} are trained on as well, such as "
                f"{other} ({one}): their scores would say nothing; take them out of one split"
            )


def scan_frames(
    dataset: str, root: str | Path, split: str, sensors: Sequence[str], lists: str | Path = ""
) -> FrameSet:
    """As `open_frames`, but files may be missing and there may be no frames."""
    benchmark, root = find_benchmark(dataset), Path(root)
    check_word("split", split, SPLITS, DataError)
    if not root.is_dir():
        raise DataError(f"{root}: is not a folder")
    known = benchmark.known_sensors(root)
    for sensor in sensors:
        check_word(f"sensors of {dataset}", sensor, known, DataError)
    frames = benchmark.scan(root, split, tuple(sensors), Path(lists) if lists else None)
    records = tuple(sorted(frames.records, key=lambda record: record.name))
    return dataclasses.replace(frames, records=records)
