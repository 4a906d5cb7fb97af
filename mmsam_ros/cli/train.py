# SPDX-License-Identifier: Apache-2.0
"""`mmsam train`: trains the network; every key of the configuration is an option."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME = "train"
HELP = "train a network"
_SHOWN = (  # what everybody needs
    "dataset", "sensors", "data.root", "out", "model.preset", "batch.effective",
    "batch.per_device", "device.accelerator", "device.devices", "device.precision",
    "schedule.epochs", "optimiser.lr",
)  # fmt: skip
_METAVARS = {
    "int": "N", "float": "X", "str": "WORD", "[str, ...]": "WORD,...", "data.root": "DIR",
    "out": "DIR",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that everybody needs; other keys are in `args.rest`."""
    from mmsam_ros.training.configure import config_names, config_rows

    parser.usage = "mmsam train --config NAME --root DIR [--KEY VALUE ...]"
    parser.epilog = (
        "Every key of the configuration is an option: `mmsam train --config NAME --print-config` "
        "prints all of them, docs/reference describes them. NAME is a YAML file or one of "
        f"{', '.join(config_names('train'))}."
    )
    parser.add_argument(
        "--config", action="append", default=[], metavar="NAME",
        help="configuration to start from; of several, later ones win",
    )  # fmt: skip
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in DIR")
    parser.add_argument(
        "--print-config", action="store_true", help="print the whole configuration and exit"
    )
    rows = {row.key: row for row in config_rows()}
    for row in map(rows.__getitem__, _SHOWN):
        name = "--root" if row.key == "data.root" else f"--{row.key}"
        words = row.allowed.replace(", ", ",") if row.type == "str" else ""
        metavar = f"{{{words}}}" if words else _METAVARS.get(row.key, _METAVARS[row.type])
        text = row.description + (f" (default: {row.default})" if row.default else "")
        parser.add_argument(name, dest=row.key, metavar=metavar, help=text)
    parser.set_defaults(takes_keys=True)


def run(args: argparse.Namespace) -> int:
    """Trains, and prints the run directory."""
    from mmsam_ros.inference import tune_allocator

    tune_allocator()
    import yaml

    from mmsam_ros.training.configure import load_config
    from mmsam_ros.training.devices import is_first
    from mmsam_ros.training.loop import train
    from mmsam_ros.training.run import CONFIG, plain

    files = [str(args.resume / CONFIG)] if args.resume else []
    given = {key: value for key, value in vars(args).items() if key in _SHOWN and value is not None}
    words = [*(("config", name) for name in [*files, *args.config]), *given.items()]
    config = load_config([*(f"--{key}={value}" for key, value in words), *args.rest])
    if args.print_config:
        print(yaml.safe_dump(plain(config), sort_keys=False), end="")
        return 0
    folder = train(config, args.resume)
    if is_first():
        print(f"{folder}: best.safetensors, last.safetensors")
    return 0
