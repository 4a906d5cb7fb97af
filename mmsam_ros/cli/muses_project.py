# SPDX-License-Identifier: Apache-2.0
"""`mmsam muses-project`: raw MUSES recordings into the camera's view, as training reads them."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mmsam_ros.cli.arguments import add_out, add_words, count
from mmsam_ros.cli.output import progress

NAME = "muses-project"
HELP = "project MUSES's LiDAR and events into the camera image"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "--root", type=Path, metavar="DIR", required=True, help="MUSES folder with calib.json"
    )
    add_out(parser, "folder to write (default: ROOT/projected_to_rgb)")
    sensors = ("lidar", "event")
    add_words(parser, "--sensors", "sensors to project", sensors, default=",".join(sensors))
    parser.add_argument(
        "--motion-compensation", action="store_true",
        help="move LiDAR points to the middle of the camera's exposure",
    )  # fmt: skip
    parser.add_argument(
        "--parity", action="store_true", help="do as the official tool does, errors included"
    )
    parser.add_argument(
        "--point-size", type=int, choices=(1, 2), default=2,
        help="side of the square that a point or event covers, in pixels",
    )  # fmt: skip
    parser.add_argument("--png", action="store_true", help="LiDAR as 16-bit PNG instead of npz")
    parser.add_argument(
        "--workers", type=count, metavar="N", help="parallel workers (default: one per core)"
    )


def run(args: argparse.Namespace) -> int:
    """Projects what is not there yet; 1 if a file could not be read, which is named at the end."""
    from concurrent.futures import ThreadPoolExecutor, as_completed

    from mmsam_ros.data.errors import DataError
    from mmsam_ros.data.muses_projection import ProjectionOptions, project_frame, record_options
    from mmsam_ros.data.muses_raw import Calibration, raw_frames

    out: Path = args.out or args.root / "projected_to_rgb"
    options = ProjectionOptions(args.motion_compensation, args.parity, args.point_size)
    calibration = Calibration.read(args.root / "calib.json")
    exposures = args.motion_compensation and "lidar" in args.sensors
    frames = raw_frames(args.root, out, args.sensors, exposures=exposures, png=args.png)
    record_options(out, options)
    todo = [frame for frame in frames if not frame.target.exists()]
    failures = []
    workers = args.workers or os.cpu_count() or 1
    with progress("projecting") as advance, ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(project_frame, f, calibration, options): f.path for f in todo}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                try:
                    future.result()
                except (DataError, OSError) as error:
                    failures.append(f"{futures[future]}: {error}")
                advance(done, len(todo))
        finally:
            pool.shutdown(cancel_futures=True)
    counts = len(todo) - len(failures), len(frames) - len(todo), len(failures)
    print("{} written, {} there already, {} failed:".format(*counts), out)
    for failure in sorted(failures):
        print(failure, file=sys.stderr)
    return 1 if failures else 0
