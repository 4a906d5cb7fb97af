# SPDX-License-Identifier: Apache-2.0
"""`mmsam eval`: scores weights on a data set, and prepares a submission to the MUSES server."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmsam_ros.training.evaluate import EvalConfig, FrameResult

NAME = "eval"
HELP = "score weights on a data set"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--weights", required=True, help="an mmsam weights file")
    parser.add_argument("--root", "--data.root", required=True, help="the data set's top folder")
    parser.add_argument("--dataset", default="", help="deliver, fmb, muses or folder (default: "
                        "the one with the weights' classes)")  # fmt: skip
    parser.add_argument("--split", default="test", help="default: %(default)s")
    parser.add_argument("--lists", default="", help="folder of FMB's easy and hard lists")
    parser.add_argument("--geometry", default="published", help="or native, as the node (default: "
                        "%(default)s)")  # fmt: skip
    parser.add_argument(
        "--drop", action="append", default=[], help="take a sensor away; repeatable"
    )
    parser.add_argument("--corrupt", default="", help="degradations, e.g. motionblur,lidarjitter")
    parser.add_argument("--limit", type=int, help="only the first frames")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda[:N]")
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16")
    parser.add_argument("--out", type=Path, help="folder for results.json, .md and report.html")
    parser.add_argument("--submission", action="store_true", help="a zip for the MUSES server")


def run(args: argparse.Namespace) -> int:
    """Evaluates, prints the tables and writes the files."""
    from mmsam_ros.training.evaluate import EvalConfig

    values = {key: value for key, value in vars(args).items() if key in EvalConfig.__annotations__}
    values["drop"] = tuple(args.drop)
    values["corrupt"] = tuple(filter(None, args.corrupt.split(",")))
    return _evaluate(EvalConfig(**values), args.out, args.submission)


def _evaluate(config: EvalConfig, out: Path | None, submit: bool) -> int:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text

    from mmsam_ros.cli.errors import CliError
    from mmsam_ros.training.evaluate import Evaluation
    from mmsam_ros.training.report import Examples, facts, results, tables, write_report
    from mmsam_ros.training.submission import FULL, Submission

    evaluation = Evaluation(config)
    if submit and (out is None or evaluation.frames.dataset != "muses"):
        raise CliError("--submission needs --out and the data set muses")
    if submit and (config.split != "test" or config.limit is not None):
        raise CliError("--submission is of the whole split test, without --limit")
    if not (evaluation.labelled or submit):
        raise CliError(f"the labels of {config.split} are withheld; --submission needs none")
    if out is not None:  # before hours of work, not after
        out.mkdir(parents=True, exist_ok=True)
    console = Console()
    examples = Examples(evaluation)
    submission = Submission(out, len(evaluation.spec.classes)) if submit and out else None
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("evaluating", total=len(evaluation.frames))

        def on_frame(result: FrameResult) -> None:
            examples.add(result)
            if submission is not None:
                submission.add(result)
            progress.advance(task)

        matrices = evaluation.run(on_frame)
    content = results(evaluation, matrices, examples)
    for key, word in facts(content).items():
        console.print(f"{key}: {word}", markup=False, highlight=False, soft_wrap=True)
    for title, header, rows in tables(content):
        table = Table(*header, title=title, title_justify="left")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
    if out is not None:
        write_report(out, content, examples)
        print(f"{out}: results.json, results.md, report.html")
    if submission is not None:
        path, count = submission.close()
        known = "known, scored here as well" if evaluation.labelled else "withheld, nothing scored"
        whole = "all" if count == FULL else f"not complete: the test set has {FULL}"
        print(f"{path}: checked, {count} frames ({whole}); labels are {known}")
    return 0
