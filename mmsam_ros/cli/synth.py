# SPDX-License-Identifier: Apache-2.0
"""`mmsam synth`: data from the synthetic world."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

NAME = "synth"
HELP = "make synthetic data (camera, LiDAR, thermal, ground truth)"


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, expected WIDTHxHEIGHT")
    return int(match[1]), int(match[2])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the sub-verb `bag` and its options."""
    verbs = parser.add_subparsers(dest="synth_verb", required=True)
    bag = verbs.add_parser("bag", help="write a drive as a ROS 2 bag with calibration and truth")
    bag.add_argument("out", type=Path, help="folder of the new bag (must not exist)")
    bag.add_argument("--seed", type=int, default=0, help="which world (default: 0)")
    bag.add_argument("--seconds", type=float, default=10.0, help="length (default: 10)")
    bag.add_argument("--weather", default="sun", help="sun, cloud, fog, rain or night")
    bag.add_argument(
        "--size",
        type=_size,
        default=(640, 480),
        help="camera image, WIDTHxHEIGHT (default: 640x480)",
    )
    bag.add_argument("--camera-rate", type=float, default=5.0, help="Hz (default: 5)")


def run(args: argparse.Namespace) -> int:
    """Writes the bag and prints the number of messages by topic."""
    # numpy's products here are tiny: a second thread would only spin (read when numpy loads)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from rich.progress import Progress

    from mmsam_ros.data.synthetic import Vehicle, build_street, make_rig
    from mmsam_ros.data.synthetic.bag import write_bag

    rig = make_rig(*args.size, camera_rate=args.camera_rate)
    world = build_street(args.seed, weather=args.weather, seconds=args.seconds)
    with Progress() as progress:
        task = progress.add_task("rendering", total=1.0)
        counts = write_bag(
            args.out,
            Vehicle(world, rig),
            args.seconds,
            lambda share: progress.update(task, completed=share),
        )
    for topic, count in counts.items():
        print(f"{count:6d} {topic}")
    print(f"bag: {args.out}")
    return 0
