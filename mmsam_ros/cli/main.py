# SPDX-License-Identifier: Apache-2.0
"""Entry point of `mmsam`: finds the verb, runs it, turns the package's errors into one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mmsam_ros import __version__
from mmsam_ros._util import MmsamError
from mmsam_ros.cli import (
    bag,
    data,
    evaluate,
    experiments,
    muses_project,
    predict,
    replay,
    synth,
    train,
    weights,
)
from mmsam_ros.cli.arguments import Parser

VERBS = (predict, train, evaluate, experiments, weights, data, muses_project, synth, bag, replay)


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The parser with every verb; if one is given, the others lack their options, which saves the
    time of importing what these name as choices.
    """
    parser = Parser(prog="mmsam", description="Segment camera, LiDAR and thermal data.")
    parser.add_argument("--version", action="version", version=f"mmsam_ros {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for module in VERBS:
        added = verbs.add_parser(module.NAME, help=module.HELP, description=module.HELP)
        if verb in (None, module.NAME):
            module.add_arguments(added)
        added.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; 0 on success, 2 on an error that the user can fix."""
    words = sys.argv[1:] if argv is None else argv
    parser = build_parser(words[0] if words else "")
    args, rest = parser.parse_known_args(words)
    if rest and not getattr(args, "takes_keys", False):  # keys of the training configuration
        parser.error(f"unrecognised arguments: {' '.join(rest)}")
    args.rest = rest
    try:
        return int(args.run(args))
    except (MmsamError, OSError) as error:
        print(f"mmsam: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
