# SPDX-License-Identifier: Apache-2.0
"""`mmsam train`: trains the network; every key of the configuration is an option."""

import argparse
from pathlib import Path

import yaml

from mmsam_ros.inference import tune_allocator
from mmsam_ros.training.configure import config_files, config_rows, load_config
from mmsam_ros.training.devices import is_first
from mmsam_ros.training.loop import train
from mmsam_ros.training.run import CONFIG, plain

_SHOWN = (  # what everybody needs
    "dataset", "sensors", "data.root", "out", "model.preset", "batch.effective",
    "batch.per_device", "device.accelerator", "device.devices", "device.precision",
    "schedule.epochs", "optimiser.lr",
)  # fmt: skip
_METAVARS = {"int": "N", "float": "X", "str": "WORD", "[str, ...]": "WORD,...", "data.root": "DIR",
             "out": "DIR"}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that everybody needs; other keys are in `args.rest`."""
    parser.set_defaults(takes_keys=True)
    parser.usage = "mmsam train --config NAME --root DIR [--KEY VALUE ...]"
    parser.epilog = (
        "Every key of the configuration is an option: `mmsam train --config NAME --print-config` "
        "prints all of them, docs/reference describes them. NAME is a YAML file or one of "
        f"{', '.join(config_files('train'))}."
    )
    option = parser.add_argument
    option("--config", action="append", default=[], metavar="NAME",
           help="configuration to start from; of several, later ones win")  # fmt: skip
    option("--resume", type=Path, metavar="DIR", help="resume the run in DIR")
    option("--print-config", action="store_true", help="print the whole configuration and exit")
    rows = {row.key: row for row in config_rows()}
    for row in map(rows.__getitem__, _SHOWN):
        name = "root" if row.key == "data.root" else row.key
        metavar = _METAVARS.get(row.key, _METAVARS[row.type])
        if row.type == "str" and row.allowed:
            metavar = f"{{{row.allowed.replace(', ', ',')}}}"
        text = row.description + (f" (default: {row.default})" if row.default else "")
        option(f"--{name}", dest=row.key, metavar=metavar, help=text)


def run(args: argparse.Namespace) -> None:
    tune_allocator()
    files = [*([args.resume / CONFIG] if args.resume else []), *args.config]
    given = [f"--{key}={value}" for key in _SHOWN if (value := vars(args)[key]) is not None]
    config = load_config([*(f"--config={file}" for file in files), *given, *args.rest])
    if args.print_config:
        print(yaml.safe_dump(plain(config), sort_keys=False), end="")
        return
    folder = train(config, args.resume)
    if is_first():
        print(f"{folder}: best.safetensors, last.safetensors")
