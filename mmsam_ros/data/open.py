# SPDX-License-Identifier: Apache-2.0
"""The registry of data sets, and how a split of any is opened."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from mmsam_ros._util import check_word
from mmsam_ros.data import SPLITS, deliver, fmb, folder, muses
from mmsam_ros.data.benchmark import Benchmark
from mmsam_ros.data.errors import DataError, beside
from mmsam_ros.data.frames import FrameSet
from mmsam_ros.data.shift import check_shift

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
    names an unknown word, a file or folder that is missing, or labels that are shifted.
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
    return frames


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
