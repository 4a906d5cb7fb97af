# SPDX-License-Identifier: Apache-2.0
"""`mmsam experiments`: the paper's experiments, trained, evaluated and put beside its numbers."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmsam_ros.cli.arguments import add_out
from mmsam_ros.cli.output import print_table, say

NAME = "experiments"
HELP = "run the paper's experiments"
_OUT = "out/experiments"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the sub-verbs `run`, `table` and `list`."""
    verbs = parser.add_subparsers(dest="experiments_verb", required=True, metavar="VERB")
    run = verbs.add_parser(
        "run",
        help="train and evaluate; finished runs are not repeated",
        description="Train and evaluate experiments with several seeds. Finished runs are not "
        "repeated, interrupted ones go on. Further options are keys of `mmsam train` and hold for "
        "all of them.",
    )
    run.add_argument("names", nargs="+", metavar="NAME", help="experiment, or a YAML file")
    run.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N",
                     help="seeds to run each with (default: 0)")  # fmt: skip
    add_out(run, "folder of all runs", _OUT)
    run.set_defaults(takes_keys=True)
    table = verbs.add_parser("table", help="print mean and spread beside the paper's numbers")
    add_out(table, "folder of all runs", _OUT)
    verbs.add_parser("list", help="list the experiments")


def run(args: argparse.Namespace) -> int:
    """Runs the chosen sub-verb."""
    if args.experiments_verb == "run":
        return _run(args)
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
    from mmsam_ros.training.experiments import HEADER, table_rows, write_table

    rows = table_rows(out)
    print_table(HEADER, rows)
    say(f"{write_table(out, rows)}: the same as Markdown")
    return 0


def _list() -> int:
    from mmsam_ros.training.experiments import experiment_names, load_experiment

    for name in experiment_names():
        print(f"{name:20s} {load_experiment(name).title}")
    return 0
