# SPDX-License-Identifier: Apache-2.0
"""`mmsam train`: trains the network; every key of the configuration is an option."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "train"
HELP = "train the network"
PASS_THROUGH = OWN_HELP = True  # the options are the configuration's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--resume`; all other options are in `args.rest`."""
    parser.add_argument("--resume", type=Path, help="go on with the run in this folder")


def run(args: argparse.Namespace) -> int:
    """Trains, and prints the run's folder."""
    from mmsam_ros.inference import tune_allocator

    tune_allocator()
    from mmsam_ros.training.configure import load_config
    from mmsam_ros.training.devices import is_first
    from mmsam_ros.training.loop import train
    from mmsam_ros.training.run import CONFIG

    stored = [f"--config={args.resume / CONFIG}"] if args.resume else []
    folder = train(load_config([*stored, *args.rest]), args.resume)
    if is_first():
        print(f"{folder}: best.safetensors, last.safetensors")
    return 0
