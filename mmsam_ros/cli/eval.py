# SPDX-License-Identifier: Apache-2.0
"""`mmsam eval`: scores weights on a data set, and prepares a submission to the MUSES server."""

import argparse
import itertools
import sys
from pathlib import Path
from typing import get_args

from mmsam_ros.cli.arguments import (
    CliError,
    add_dataset,
    add_inference,
    add_out,
    add_words,
    count,
    number,
)
from mmsam_ros.cli.output import print_paragraph, print_table, progress
from mmsam_ros.data import SPLITS
from mmsam_ros.data.corrupt import CORRUPTIONS
from mmsam_ros.inference import tune_allocator
from mmsam_ros.sensors import AUXILIARY_SENSORS
from mmsam_ros.training.devices import is_first, join_processes, own_share
from mmsam_ros.training.evaluate import EvalConfig, Evaluation, FrameResult
from mmsam_ros.training.metrics import SubsetMatrices
from mmsam_ros.training.report import Examples, Submission, results, summary, write_report
from mmsam_ros.training.tta import View


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--weights", required=True, metavar="FILE", help="weights file or name")
    add_dataset(parser, "kind of data set (default: the one with the weights' classes)")
    option("--split", choices=SPLITS, default="test", help="frames to evaluate")
    option("--geometry", choices=["published", "native"], default="published",
           help="resizing: as for the published numbers, or as in the node")  # fmt: skip
    add_words(parser, "--drop", "sensors to leave out", AUXILIARY_SENSORS, default="")
    add_words(parser, "--corrupt", "degradations of the data", CORRUPTIONS, default="")
    add_words(parser, "--tta", "test-time augmentation; averages the probabilities",
              get_args(View), default="")  # fmt: skip
    option("--limit", type=count, metavar="N", help="evaluate only the first N frames")
    option("--workers", type=number, default=EvalConfig.workers, metavar="N",
           help="loading processes for each device")  # fmt: skip
    add_inference(parser)
    add_out(parser, "folder for results.json, results.md and report.html")
    option("--submission", action="store_true", help="write a zip for MUSES's server")


def run(args: argparse.Namespace) -> None:
    tune_allocator()
    known = EvalConfig.__dataclass_fields__.keys()
    given = {k: value for k, value in vars(args).items() if k in known and value is not None}
    join_processes(args.device)
    evaluation = Evaluation(EvalConfig(**given))
    out, submit = args.out, args.submission
    if submit and (out is None or evaluation.frames.dataset != "muses"):
        raise CliError("--submission needs --out and the data set muses")
    if submit and (args.split != "test" or args.limit is not None):
        raise CliError("--submission takes the whole split test: leave out --split and --limit")
    if not (evaluation.labelled or submit):
        raise CliError(f"labels of {args.split} are withheld, only --submission works without them")
    if out is not None:  # before hours of work, not after
        out.mkdir(parents=True, exist_ok=True)
    for doubt in evaluation.doubts() if is_first() else ():
        print(f"warning: {doubt}", file=sys.stderr)
    examples = Examples(evaluation)
    submission = Submission(out, len(evaluation.spec.classes)) if submit else None
    done, share = itertools.count(1), len(own_share(len(evaluation.frames)))
    with progress("evaluating", quiet=not is_first()) as advance:

        def on_frame(result: FrameResult) -> None:
            examples.add(result)
            if submission is not None:
                submission.add(result)
            advance(next(done), share)

        matrices = evaluation.run(on_frame)
    examples.gather()
    if submission is not None:
        submission.gather()
    if is_first():
        write(evaluation, matrices, examples, submission, out)


def write(
    evaluation: Evaluation, matrices: SubsetMatrices, examples: Examples,
    submission: Submission | None, out: Path | None,
) -> None:  # fmt: skip
    """Print the summary, and write the report and the submission's archive."""
    content = results(evaluation, matrices, examples)
    facts, tables, classes = summary(content)
    for key, word in facts.items():
        print(f"{key}: {word}")
    for title, header, rows in tables:
        print_table(header, rows, title)
    if classes:
        print_paragraph(classes)
    if out is None:
        print("every number of every subset: --out DIR")
    else:
        write_report(out, content, examples)
        print(f"{out}: results.json, results.md, report.html")
    if submission is not None:
        labels = "known, scored here as well" if evaluation.labelled else "withheld, nothing scored"
        print(f"{submission.close()}; labels are {labels}")
