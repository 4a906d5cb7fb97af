# SPDX-License-Identifier: Apache-2.0
"""`mmsam data`: looks after data sets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from mmsam_ros.data.check import Report

NAME = "data"
HELP = "check a data set"
_LINES = 20  # of faults, and of notes, unless all are asked for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the sub-verb `check` and its options."""
    verbs = parser.add_subparsers(dest="data_verb", required=True, metavar="VERB")
    check = verbs.add_parser(
        "check",
        help="read every file of a data set and say what is wrong",
        description="Read every file of a data set; say what is in it, what is broken, and where "
        "it differs from what is published. The exit code is 1 where something is broken.",
    )
    check.add_argument("--dataset", required=True, help="deliver, fmb, muses or folder")
    check.add_argument("--root", type=Path, required=True, help="its top folder")
    check.add_argument("--lists", default="", help="folder of FMB's easy and hard lists")
    check.add_argument("--sources", help="sensors, e.g. lidar,event (default: all that it has)")
    check.add_argument("--all", action="store_true", help="list every fault")


def run(args: argparse.Namespace) -> int:
    """Prints one screen; 0 where all is well."""
    from rich.console import Console
    from rich.progress import Progress

    from mmsam_ros.data.check import check_dataset
    from mmsam_ros.data.open import find_benchmark

    if args.sources is None:
        sources = find_benchmark(args.dataset).known_sensors(args.root)
    else:
        sources = tuple(filter(None, args.sources.split(",")))
    console = Console()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("reading")
        report = check_dataset(
            args.dataset, args.root, sources, args.lists,
            lambda done, total: progress.update(task, completed=done, total=total),
        )  # fmt: skip
    _print(console, args.dataset, report)
    _lines(console, "notes", report.notes, args.all)
    _lines(console, "faults", report.faults, args.all)
    return 1 if report.faults else 0


def _print(console: Console, kind: str, report: Report) -> None:
    import numpy as np
    from rich.table import Table
    from rich.text import Text

    from mmsam_ros.sensors import NO_LABEL

    for modality, forms in report.forms.items():
        text = "; ".join(f"{count} of {form}" for form, count in forms.most_common())
        console.print(f"{modality}: {text}", highlight=False, markup=False)
    table = Table("frames", *report.counts)
    for group in sorted(set().union(*report.counts.values())):
        table.add_row(
            Text(group), *(str(counts.get(group, 0)) for counts in report.counts.values())
        )
    console.print(table)
    for split, pixels in report.pixels.items():
        names = {info.id: info.name for info in report.classes} | {NO_LABEL: "no label"}
        shares = (
            f"{names[i]} {100 * pixels[i] / pixels.sum():.2g}"
            for i in map(int, np.flatnonzero(pixels))
        )
        console.print(
            f"{split} labels, % of pixels: {', '.join(shares) or 'none'}",
            highlight=False,
            markup=False,
        )
    if report.statistics:
        console.print(_statistics(kind, report))


def _statistics(kind: str, report: Report) -> object:
    from rich.table import Table

    from mmsam_ros.data.open import find_benchmark

    published = find_benchmark(kind).modalities
    table = Table("train", "channel", "min", "max", "mean", "std", "published mean, std")
    for source, found in report.statistics.items():
        given = published.get(source)
        for i, field in enumerate(found.fields):
            values = (found.low[i], found.high[i], found.mean[i], found.std[i])
            constants = (
                f"{given.mean[i]:.5g}, {given.std[i]:.5g}" if given and any(given.mean) else ""
            )
            table.add_row(source, field, *(f"{value:.5g}" for value in values), constants)
    return table


def _lines(console: Console, title: str, lines: list[str], every: bool) -> None:
    shown = lines if every else lines[:_LINES]
    console.print(f"{title}: {len(lines)}")
    for line in shown:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if len(shown) < len(lines):
        console.print(f"  ... and {len(lines) - len(shown)} more (--all)", highlight=False)
