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
    replay,
    synth,
    train,
    weights,
)

VERBS = (weights, data, muses_project, train, evaluate, experiments, bag, replay, synth)


def build_parser() -> argparse.ArgumentParser:
    """The parser with every verb."""
    parser = argparse.ArgumentParser(prog="mmsam", description="Tools of mmsam_ros.")
    parser.add_argument("--version", action="version", version=f"mmsam_ros {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for module in VERBS:
        own_help = getattr(module, "OWN_HELP", False)
        verb = verbs.add_parser(
            module.NAME, help=module.HELP, description=module.HELP, add_help=not own_help
        )
        module.add_arguments(verb)
        passes = getattr(module, "PASS_THROUGH", False)
        verb.set_defaults(run=module.run, passes=passes)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; 0 on success, 2 on an error that the user can mend."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and not args.passes:
        parser.error(f"unrecognised arguments: {' '.join(rest)}")
    args.rest = rest
    try:
        return int(args.run(args))
    except (MmsamError, OSError) as error:
        print(f"mmsam: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
