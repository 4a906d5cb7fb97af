# SPDX-License-Identifier: Apache-2.0
"""`mmsam experiments`: the paper's experiments, trained, evaluated and put beside its numbers."""

import argparse

from mmsam_ros.cli.arguments import add_out, add_verb
from mmsam_ros.cli.output import print_table

# the functions import what they need: torch loads for seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    run = add_verb(verbs, "run", run_all, "train and evaluate; finished runs are not repeated")
    run.set_defaults(takes_keys=True)
    run.add_argument("names", nargs="+", metavar="NAME", help="experiment, or a YAML file")
    run.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N",
                     help="seeds to run each with (default: 0)")  # fmt: skip
    text = "print mean and spread beside the paper's numbers"
    table = add_verb(verbs, "table", print_scores, text)
    for verb in (run, table):
        add_out(verb, "folder of all runs", "out/experiments")
    add_verb(verbs, "list", print_names, "list the experiments")


def run_all(args: argparse.Namespace) -> None:
    """Train and evaluate experiments with several seeds. Finished runs are not repeated,
    interrupted ones are resumed. Further options are keys of `mmsam train` and apply to all.
    """
    from mmsam_ros.inference import tune_allocator
    from mmsam_ros.training import experiments
    from mmsam_ros.training.devices import is_first

    tune_allocator()
    for name in args.names:  # a misspelt one is noticed before days of training
        experiments.load_experiment(name)
    for seed in args.seeds:
        for name in args.names:
            scores = experiments.run_experiment(name, seed, args.out, args.rest)["scores"]
            if is_first():
                print(f"{name}, seed {seed}: mIoU {scores['all']['miou']:.2f}")
    if is_first():
        print_scores(args)


def print_scores(args: argparse.Namespace) -> None:
    from mmsam_ros.training import experiments

    rows = experiments.table_rows(args.out)
    print_table(experiments.HEADER, rows)
    print(f"{experiments.write_table(args.out, rows)}: the same as Markdown")


def print_names(args: argparse.Namespace) -> None:
    from mmsam_ros.training.configure import config_files
    from mmsam_ros.training.experiments import load_experiment

    for name in config_files("experiments"):
        print(f"{name:20s} {load_experiment(name).title}")
