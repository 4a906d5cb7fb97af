# SPDX-License-Identifier: Apache-2.0
"""`mmsam data`: looks after data sets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mmsam_ros.cli.arguments import add_dataset, add_words, auxiliary_sensors
from mmsam_ros.cli.output import print_table, progress, say

if TYPE_CHECKING:
    from mmsam_ros.data.check import Report

NAME = "data"
HELP = "check a data set"
_LINES = 20  # of faults, and of notes, unless all are asked for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the sub-verb `check` and its options."""
    verbs = parser.add_subparsers(dest="data_verb", required=True, metavar="VERB")
    check = verbs.add_parser(
        "check",
        help="read every file of a data set and report what is wrong",
        description="Read every file of a data set and report what it holds, what is broken, and "
        "where it differs from the published one. The exit status is 1 if something is broken.",
    )
    add_dataset(check, "kind of data set", required=True)
    add_words(check, "--sensors", "sensors to check (default: all)", auxiliary_sensors())
    check.add_argument("--all", action="store_true", help="list all faults and notes")


def run(args: argparse.Namespace) -> int:
    """Prints one screen; 0 if all is well."""
    from mmsam_ros.data.check import check_dataset
    from mmsam_ros.data.open import find_benchmark

    sensors = args.sensors
    if sensors is None:
        sensors = find_benchmark(args.dataset).known_sensors(Path(args.root))
    with progress("reading") as advance:
        report = check_dataset(args.dataset, args.root, sensors, args.lists or "", advance)
    _print(args.dataset, report)
    _print_lines("notes", report.notes, args.all)
    _print_lines("faults", report.faults, args.all)
    return 1 if report.faults else 0


def _print(dataset: str, report: Report) -> None:
    import numpy as np

    from mmsam_ros.sensors import NO_LABEL

    for modality, forms in report.forms.items():
        say(f"{modality}: {'; '.join(f'{n} of {form}' for form, n in forms.most_common())}")
    counts = report.counts.values()
    groups = sorted(set().union(*counts))
    print_table(
        ["frames", *report.counts], [[g, *(str(c.get(g, 0)) for c in counts)] for g in groups]
    )
    names = {info.id: info.name for info in report.classes} | {NO_LABEL: "no label"}
    for split, pixels in report.pixels.items():
        present = map(int, np.flatnonzero(pixels))
        shares = (f"{names[i]} {100 * pixels[i] / pixels.sum():.2g}" for i in present)
        say(f"{split} labels, % of pixels: {', '.join(shares) or 'none'}")
    if report.statistics:
        header = ["train", "channel", "min", "max", "mean", "std", "published mean, std"]
        print_table(header, _statistics(dataset, report))


def _statistics(dataset: str, report: Report) -> list[list[str]]:
    from mmsam_ros.data.open import find_benchmark

    published_modalities = find_benchmark(dataset).modalities
    rows = []
    for sensor, found in report.statistics.items():
        given = published_modalities.get(sensor)
        for i, field in enumerate(found.fields):
            values = (found.low[i], found.high[i], found.mean[i], found.std[i])
            known = given is not None and any(given.mean)
            published = f"{given.mean[i]:.5g}, {given.std[i]:.5g}" if given and known else ""
            rows.append([sensor, field, *(f"{value:.5g}" for value in values), published])
    return rows


def _print_lines(title: str, lines: list[str], every: bool) -> None:
    shown = lines if every else lines[:_LINES]
    say(f"{title}: {len(lines)}")
    for line in shown:
        say(f"  {line}")
    if len(shown) < len(lines):
        say(f"  ... and {len(lines) - len(shown)} more (--all)")
