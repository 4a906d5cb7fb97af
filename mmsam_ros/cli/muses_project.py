# SPDX-License-Identifier: Apache-2.0
"""`mmsam muses-project`: raw MUSES recordings into the camera's view, as training reads them."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

NAME = "muses-project"
HELP = "project MUSES' LiDAR and events into the RGB camera's view"


def _modalities(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if not set(names) <= {"lidar", "event"}:
        raise argparse.ArgumentTypeError(f"{text!r}, expected lidar, event or lidar,event")
    return names


def _workers(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number of at least 1")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--root", type=Path, required=True, help="the folder with calib.json")
    parser.add_argument("--out", type=Path, help="new tree (default: ROOT/projected_to_rgb)")
    parser.add_argument(
        "--modalities", type=_modalities, default=("lidar", "event"), help="default: lidar,event"
    )
    parser.add_argument(
        "--motion-compensation",
        action="store_true",
        help="bring LiDAR points to the middle of the camera's exposure",
    )
    parser.add_argument(
        "--parity", action="store_true", help="what the official tool makes, its errors included"
    )
    parser.add_argument(
        "--growth",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="enlarge points and events to 2x2 pixels (default: on)",
    )
    parser.add_argument("--png", action="store_true", help="LiDAR as 16-bit PNG instead of npz")
    parser.add_argument(
        "--workers", type=_workers, default=os.cpu_count() or 1, help="threads (default: all cores)"
    )


def run(args: argparse.Namespace) -> int:
    """Projects what is not there yet; 1 if a file could not be read, which is named at the end."""
    from concurrent.futures import ThreadPoolExecutor, as_completed

    from rich.progress import Progress

    from mmsam_ros.data.errors import DataError
    from mmsam_ros.data.muses_projection import ProjectionOptions, project_frame, record_options
    from mmsam_ros.data.muses_raw import Calibration, raw_frames

    out: Path = args.out or args.root / "projected_to_rgb"
    options = ProjectionOptions(args.motion_compensation, args.parity, args.growth)
    calibration = Calibration.read(args.root / "calib.json")
    exposures = args.motion_compensation and "lidar" in args.modalities
    frames = raw_frames(args.root, out, args.modalities, exposures=exposures, png=args.png)
    record_options(out, options)
    todo = [frame for frame in frames if not frame.target.exists()]
    failures = []
    with Progress() as progress, ThreadPoolExecutor(args.workers) as pool:
        futures = {pool.submit(project_frame, f, calibration, options): f.path for f in todo}
        try:
            for future in progress.track(
                as_completed(futures), len(todo), description="projecting"
            ):
                try:
                    future.result()
                except (DataError, OSError) as error:
                    failures.append(f"{futures[future]}: {error}")
        finally:
            pool.shutdown(cancel_futures=True)
    counts = len(todo) - len(failures), len(frames) - len(todo), len(failures)
    print("{} written, {} there already, {} failed:".format(*counts), out)
    for failure in sorted(failures):
        print(failure, file=sys.stderr)
    return 1 if failures else 0
