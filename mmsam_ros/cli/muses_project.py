# SPDX-License-Identifier: Apache-2.0
"""`mmsam muses-project`: raw MUSES recordings into the camera's view, as training reads them."""

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmsam_ros.cli.arguments import add_out, add_words, count
from mmsam_ros.cli.output import progress
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.muses_projection import (
    Calibration,
    ProjectionOptions,
    RawFrame,
    describe_projection,
    project_frame,
    raw_frames,
    record_options,
)

_SENSORS = ("lidar", "event")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--root", type=Path, metavar="DIR", required=True, help="MUSES folder with calib.json")
    add_out(parser, "folder to write (default: ROOT/projected_to_rgb)")
    add_words(parser, "--sensors", "sensors to project", _SENSORS, default=",".join(_SENSORS))
    option("--motion-compensation", action="store_true", help="move LiDAR points to mid-exposure")
    option("--parity", action="store_true",
           help="do as the official tool does, errors included: the published rasters")  # fmt: skip
    option("--point-size", type=int, choices=(1, 2), default=2, help="side of a point in pixels")
    option("--png", action="store_true", help="LiDAR as 16-bit PNG instead of npz")
    option("--workers", type=count, metavar="N", help="threads (default: one per core)")


def run(args: argparse.Namespace) -> int:
    """Projects what is not there yet; 1 if a file could not be read, which is named at the end."""
    out: Path = args.out or args.root / "projected_to_rgb"
    options = ProjectionOptions(args.motion_compensation, args.parity, args.point_size)
    calibration = Calibration.read(args.root / "calib.json")
    exposures = args.motion_compensation and "lidar" in args.sensors
    frames = raw_frames(args.root, out, args.sensors, exposures=exposures, png=args.png)
    record_options(out, options)
    todo = [frame for frame in frames if not frame.target.exists()]
    failures = []

    def project(frame: RawFrame) -> None:
        try:
            project_frame(frame, calibration, options)
        except (DataError, OSError) as error:
            failures.append(f"{frame.path}: {error}")

    workers = args.workers or os.cpu_count() or 1
    with progress("projecting") as advance, ThreadPoolExecutor(workers) as pool:
        for done, _ in enumerate(pool.map(project, todo), start=1):
            advance(done, len(todo))
    written, there = len(todo) - len(failures), len(frames) - len(todo)
    print(describe_projection(out))
    print(f"{written} written, {there} there already, {len(failures)} failed: {out}")
    for failure in sorted(failures):
        print(failure, file=sys.stderr)
    return 1 if failures else 0
