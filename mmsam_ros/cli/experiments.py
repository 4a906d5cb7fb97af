# SPDX-License-Identifier: Apache-2.0
"""`mmsam experiments`: the paper's experiments, trained, evaluated and put beside its numbers."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "experiments"
HELP = "run the paper's experiments and compare with its numbers"
PASS_THROUGH = True  # of `run`: options of mmsam train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the sub-verbs `run`, `table` and `list`."""
    verbs = parser.add_subparsers(dest="experiments_verb", required=True, metavar="VERB")
    run = verbs.add_parser(
        "run",
        help="train and evaluate; what is finished is not repeated",
        description="Train and evaluate experiments of config/experiments with several seeds. "
        "What is finished is not repeated, what was interrupted goes on. Further options are "
        "those of mmsam train and hold for all.",
    )
    run.add_argument("names", nargs="+", metavar="NAME", help="experiments, or files")
    run.add_argument("--seeds", type=int, nargs="+", default=[0])
    table = verbs.add_parser("table", help="mean and spread beside the paper's numbers")
    for verb in (run, table):
        verb.add_argument("--out", type=Path, default=Path("out/experiments"), help="%(default)s")
    verbs.add_parser("list", help="what there is")


def run(args: argparse.Namespace) -> int:
    """Runs the chosen sub-verb."""
    from mmsam_ros.cli.errors import CliError

    if args.experiments_verb == "run":
        return _run(args)
    if args.rest:
        raise CliError(f"unrecognised arguments: {' '.join(args.rest)}")
    return _table(args.out) if args.experiments_verb == "table" else _list()


def _run(args: argparse.Namespace) -> int:
    from mmsam_ros.inference import tune_allocator

    tune_allocator()
    from mmsam_ros.training.devices import is_first
    from mmsam_ros.training.experiments import load_experiment, run_experiment

    for name in args.names:  # a misspelt one is noticed before days of training
        load_experiment(name)
    for seed in args.seeds:
        for name in args.names:
            scores = run_experiment(name, seed, args.out, args.rest)["scores"]
            if is_first():
                print(f"{name}, seed {seed}: mIoU {scores['all']['miou']:.2f}")
    return _table(args.out) if is_first() else 0


def _table(out: Path) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mmsam_ros.training.experiments import HEADER, table_rows, write_table

    rows = table_rows(out)
    table = Table(*HEADER)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
    print(f"{write_table(out, rows)}: the same as Markdown")
    return 0


def _list() -> int:
    from mmsam_ros.training.experiments import experiment_names, load_experiment

    for name in experiment_names():
        print(f"{name:20s} {load_experiment(name).title}")
    return 0
