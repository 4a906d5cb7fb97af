# SPDX-License-Identifier: Apache-2.0
"""A run's configuration from YAML files and the command line."""

from __future__ import annotations

import dataclasses
import re
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from mmsam_ros._util import near_match
from mmsam_ros.model import ModelConfig
from mmsam_ros.training.config import NetworkConfig, TrainConfig
from mmsam_ros.training.errors import TrainingError
from mmsam_ros.training.start import default_combine
from mmsam_ros.weights import package_file

_UNKNOWN = (
    re.compile(r"Option '(?P<key>[\w.]+)' is not accepted"),
    re.compile(r"Group '(?P<group>[\w.]+)' does not accept option '(?P<key>[\w.]+)'"),
    re.compile(r"unrecognized arguments: --(?P<key>[\w.]+)"),
)


def load_config(arguments: Sequence[str]) -> TrainConfig:
    """The configuration that command-line arguments give; later ones win.

    `--config` takes a file or the name of one in config/train. The preset's network gives the
    defaults of `model`, the setting those of `model.combine`. `--print_config` and `--help` print
    and leave.

    Raises:
        TrainingError: an unknown key (with its near match), or a value of the wrong type or out of
            range.
        DataError: a value out of range in `augment`.
    """
    arguments = _with_files(arguments)
    printing = [a for a in arguments if a.startswith("--print_config") or a in ("-h", "--help")]
    parser = _parser()
    try:
        if len(printing) < len(arguments):
            first = parser.parse_args([a for a in arguments if a not in printing])
            _check_groups(TrainConfig, first)
            parser.set_defaults(_network(first.model.preset) | _combination(len(first.sensors)))
        parsed = parser.parse_args(arguments)
        _check_groups(TrainConfig, parsed)
        found = parser.instantiate(parsed)
    except ArgumentError as error:
        raise TrainingError(_explain(parser, str(error))) from error
    return TrainConfig(**{f.name: found[f.name] for f in dataclasses.fields(TrainConfig)})


def _check_groups(cls: type, values: Any, prefix: str = "") -> None:
    """TrainingError where a group of keys is something else, such as `false` or nothing."""
    if not isinstance(values, Namespace):
        raise TrainingError(f"{prefix[:-1]}: found {values!r}, expected keys with values")
    for name, hint in get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and name in values:
            _check_groups(hint, values[name], f"{prefix}{name}.")


def find_config(folder: str, name: str) -> Path:
    """A YAML file, or the one of this name that comes with the package in config/<folder>.

    Raises:
        TrainingError: there is none.
    """
    if name.endswith((".yaml", ".yml")):
        if Path(name).is_file():
            return Path(name)
        raise TrainingError(f"{name}: no such file")
    known = _configs(folder)
    if name not in known:
        raise TrainingError(f"config/{folder}: unknown {name!r}{near_match(name, known)}")
    return known[name]


def config_names(folder: str) -> list[str]:
    """Names of the YAML files in config/<folder>."""
    return sorted(_configs(folder))


def _configs(folder: str) -> dict[str, Path]:
    found = package_file(f"config/{folder}")
    return {path.stem: path for path in found.glob("*.yaml")} if found else {}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="mmsam train",
        description="Train a network. --config NAME takes a configuration of config/train; every "
        "key can be given besides. --resume FOLDER goes on with a run.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file, or a name in config/train")
    parser.add_class_arguments(TrainConfig, as_group=False)
    return parser


def _with_files(arguments: Sequence[str]) -> list[str]:
    """The arguments with the name after --config replaced by its file."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--config":
            joined[-1] = f"--config={argument}"
        else:
            joined.append(argument)
    return [
        f"--config={find_config('train', a.removeprefix('--config='))}"
        if a.startswith("--config=")
        else a
        for a in joined
    ]


def _network(preset: str) -> dict[str, Any]:
    """Defaults of `model.*`: the preset's, by dotted key."""
    config = ModelConfig.preset(preset, num_classes=1)
    parts = (f.name for f in dataclasses.fields(NetworkConfig) if f.name not in _OWN)
    return {
        f"model.{part}.{key}": value
        for part in parts
        for key, value in dataclasses.asdict(getattr(config, part)).items()
    }


def _combination(setting: int) -> dict[str, Any]:
    """Defaults of `model.combine.*`: by presence where there are several auxiliaries."""
    combine = default_combine(setting)
    return {f"model.combine.{key}": value for key, value in dataclasses.asdict(combine).items()}


_OWN = ("preset", "image_size", "inputs")


def _explain(parser: ArgumentParser, message: str) -> str:
    """The parser's message; of an unknown key with the near match."""
    text = " ".join(message.split())
    for pattern in _UNKNOWN:
        if match := pattern.search(text):
            groups = match.groupdict()
            key = ".".join(filter(None, (groups.get("group"), groups["key"])))
            return f"unknown key {key!r}{_nearest(key, list(parser.get_defaults().keys()))}"
    return text


def _nearest(key: str, known: Sequence[str]) -> str:
    """Compared part by part, so that a misspelt group is found whatever key is in it."""
    near: list[str] = []
    for part in key.split("."):
        prefix = "".join(f"{p}." for p in near)
        options = {k.removeprefix(prefix).split(".")[0] for k in known if k.startswith(prefix)}
        if part not in options:
            return near_match(part, options)
        near.append(part)
    return ""
