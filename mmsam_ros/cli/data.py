# SPDX-License-Identifier: Apache-2.0
"""`mmsam data`: checks data sets."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmsam_ros.cli.arguments import add_dataset, add_verb, add_words
from mmsam_ros.cli.output import print_paragraph, print_table, progress
from mmsam_ros.data.check import Report, check_dataset
from mmsam_ros.data.open import find_benchmark
from mmsam_ros.sensors import AUXILIARY_SENSORS, NO_LABEL

_LINES = 20  # of faults, and of notes, unless all are asked for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    text = "read every file of a data set and report what is wrong"
    check = add_verb(verbs, "check", check_files, text)
    add_dataset(check, "kind of data set", required=True)
    add_words(check, "--sensors", "sensors to check (default: all)", AUXILIARY_SENSORS)
    check.add_argument("--all", action="store_true", help="list all faults and notes")


def check_files(args: argparse.Namespace) -> int:
    """Read every file of a data set and report what it holds, what is broken, and where it differs
    from the published one. The exit status is 1 if something is broken.
    """
    sensors = args.sensors
    if sensors is None:
        sensors = find_benchmark(args.dataset).known_sensors(Path(args.root))
    with progress("reading") as advance:
        report = check_dataset(args.dataset, args.root, sensors, args.lists or "", advance)
    _print(args.dataset, report)
    for title, lines in (("notes", report.notes), ("faults", report.faults)):
        shown = lines if args.all else lines[:_LINES]
        print(f"{title}: {len(lines)}", *shown, sep="\n  ")
        if len(shown) < len(lines):
            print(f"  ... and {len(lines) - len(shown)} more (--all)")
    return 1 if report.faults else 0


def _print(dataset: str, report: Report) -> None:
    for modality, forms in report.forms.items():
        print(f"{modality}: {'; '.join(f'{n} of {form}' for form, n in forms.most_common())}")
    counts = report.counts.values()
    groups = sorted(set().union(*counts))
    rows = [[group, *(str(count.get(group, 0)) for count in counts)] for group in groups]
    if rows:
        print_table(["frames", *report.counts], rows)
    names = {info.id: info.name for info in report.classes} | {NO_LABEL: "no label"}
    for split, pixels in report.pixels.items():
        present = map(int, np.flatnonzero(pixels))
        shares = (f"{names[i]} {100 * pixels[i] / pixels.sum():.2g}" for i in present)
        print_paragraph(f"{split} labels, % of pixels: {', '.join(shares) or 'none'}")
    if report.statistics:
        header = ["train", "channel", "min", "max", "mean", "std", "published mean, std"]
        print_table(header, _statistics(dataset, report))


def _statistics(dataset: str, report: Report) -> Iterator[list[str]]:
    for sensor, found in report.statistics.items():
        given = find_benchmark(dataset).modalities.get(sensor)
        for i, field in enumerate(found.fields):
            values = (found.low[i], found.high[i], found.mean[i], found.std[i])
            published = ""
            if given is not None and any(given.mean):
                published = f"{given.mean[i]:.5g}, {given.std[i]:.5g}"
            yield [sensor, field, *(f"{value:.5g}" for value in values), published]
