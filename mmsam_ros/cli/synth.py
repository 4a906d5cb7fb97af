# SPDX-License-Identifier: Apache-2.0
"""`mmsam synth`: data from the synthetic world."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path

from mmsam_ros.cli.arguments import count, image_size
from mmsam_ros.cli.output import progress

NAME = "synth"
HELP = "make synthetic data with labels"


def _frames(text: str) -> dict[str, int]:
    found = re.fullmatch(r"(train|val|test)=(\d+)(,(train|val|test)=(\d+))*", text)
    pairs = [word.split("=") for word in text.split(",")]
    if not found or len(dict(pairs)) < len(pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not like train=200,val=40,test=40")
    return {split: int(count) for split, count in pairs}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the sub-verbs and their options."""
    from mmsam_ros.data import SPLITS
    from mmsam_ros.world.weather import CASES, WEATHERS

    verbs = parser.add_subparsers(dest="synth_verb", required=True, metavar="VERB")
    bag = verbs.add_parser("bag", help="write a drive as a ROS 2 bag with calibration and truth")
    bag.add_argument("out", type=Path, metavar="OUT", help="new bag; the folder must not exist")
    bag.add_argument("--seed", type=int, default=0, metavar="N", help="number of the world")
    bag.add_argument("--split", choices=SPLITS, default="test", help="worlds to choose from")
    bag.add_argument("--weather", choices=WEATHERS, default="sun", help="weather of the drive")
    bag.add_argument("--case", choices=CASES, default="ordinary", help="what makes it hard")
    bag.add_argument("--seconds", type=float, default=10.0, metavar="S", help="length")
    bag.add_argument("--camera-rate", type=float, default=5.0, metavar="HZ", help="images a second")
    _add_size(bag, "640x480")
    folder = verbs.add_parser("folder", help="write a data set in the folder layout")
    folder.add_argument("out", type=Path, metavar="OUT", help="top folder; must not exist")
    folder.add_argument(
        "--frames", type=_frames, required=True, metavar="SPLIT=N,...",
        help="by split, such as train=200,val=40,test=40",
    )  # fmt: skip
    _add_size(folder, "512x384")
    folder.add_argument("--per-scene", type=count, default=8, metavar="N", help="frames a drive")
    folder.add_argument(
        "--first", type=int, default=0, metavar="N", help="number of the first world"
    )
    folder.add_argument(
        "--workers", type=count, metavar="N", help="processes (default: one per core)"
    )


def _add_size(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--size", type=image_size, default=default, metavar="WIDTHxHEIGHT", help="camera image"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the bag or the data set and prints what it holds."""
    # read when numpy loads; its products are too small here for a second thread
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with progress("rendering") as advance:

        def report(share: float) -> None:
            advance(share, 1.0)

        lines = (_bag if args.synth_verb == "bag" else _folder)(args, report)
    print("\n".join(lines))
    return 0


def _bag(args: argparse.Namespace, report: Callable[[float], None]) -> list[str]:
    from mmsam_ros.world import Vehicle, build_street, make_rig, world_seed
    from mmsam_ros.world.bag import write_bag

    rig = make_rig(*args.size, camera_rate=args.camera_rate)
    seed = world_seed(args.split, args.seed)
    world = build_street(seed, weather=args.weather, case=args.case, seconds=args.seconds)
    counts = write_bag(args.out, Vehicle(world, rig), args.seconds, report)
    return [*(f"{count:6d} {topic}" for topic, count in counts.items()), f"bag: {args.out}"]


def _folder(args: argparse.Namespace, report: Callable[[float], None]) -> list[str]:
    from collections import Counter

    from mmsam_ros.world.dataset import plan, render

    scenes = plan(args.frames, per_scene=args.per_scene, first=args.first)
    rows = render(args.out, scenes, args.size, workers=args.workers, report=report)
    counts = Counter((row.split, row.difficulty) for row in rows)
    lines = [f"{count:6d} {split}, {word}" for (split, word), count in counts.items()]
    return [*lines, f"folder: {args.out}"]
