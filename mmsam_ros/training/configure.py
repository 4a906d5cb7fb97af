# SPDX-License-Identifier: Apache-2.0
"""A run's configuration from YAML files and the command line, and the reference of its keys."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from mmsam_ros._util import check_word, from_mapping
from mmsam_ros._util.mapping import allowed
from mmsam_ros.model import ModelConfig
from mmsam_ros.model.config import Preset
from mmsam_ros.training.config import NetworkConfig, TrainConfig
from mmsam_ros.training.errors import TrainingError
from mmsam_ros.training.start import default_combine
from mmsam_ros.weights import package_file

_ALIASES = {"root": "data.root"}


class _Loader(yaml.SafeLoader):
    """Takes 1e-4 for a number, as YAML 1.2 does."""


_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def load_config(arguments: Sequence[str]) -> TrainConfig:
    """The configuration that command-line arguments give.

    Args:
        arguments: `--config`, a file or the name of one in config/train, and `--key value` or
            `--key=value`, values in YAML. Later files go before earlier ones, keys before files.
            Defaults of `model` are the preset's; several sensors are combined by presence.

    Raises:
        MmsamError: an unknown key (with its near match), or a value of the wrong type or out of
            range.
    """
    files: dict[str, Any] = {}
    keys: dict[str, Any] = {}
    for key, text in _pairs(arguments):
        if key == "config":
            files = _merge(files, read_yaml(find_config("train", text)))
            continue
        value = _parse(key, text)
        for part in reversed(key.split(".")):
            value = {part: value}
        keys = _merge(keys, value)
    values = _merge(files, keys)
    return from_mapping(TrainConfig, _merge(_network_defaults(values), values))


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
    return known[check_word(f"config/{folder}", name, sorted(known), TrainingError)]


def config_names(folder: str) -> list[str]:
    """Names of the YAML files in config/<folder>."""
    return sorted(_configs(folder))


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a YAML file; TrainingError where it holds something else."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise TrainingError(f"{path}: found {values!r}, expected keys with values")
    return values


@dataclass(frozen=True)
class ConfigRow:
    """A key of the configuration, for people.

    Attributes:
        key: dotted, as on the command line.
        type: of the value.
        default: in YAML; empty where the key is required.
        allowed: choices or range.
        description: what it means.
    """

    key: str
    type: str
    default: str
    allowed: str
    description: str


def config_rows(cls: type = TrainConfig, prefix: str = "") -> list[ConfigRow]:
    """All keys below a part of the configuration; the defaults of `model` are `vit_l`'s."""
    rows: list[ConfigRow] = []
    hints, described = get_type_hints(cls), _attributes(cls)
    for field in dataclasses.fields(cls):
        hint, key = hints[field.name], f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            rows += config_rows(hint, f"{key}.")
            continue
        default = "" if field.default is MISSING else _yaml_text(field.default)
        text = described[field.name].removesuffix(".")
        rows.append(ConfigRow(key, _type_text(hint), default, allowed(cls, field), text))
    return rows


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    words = iter(arguments)
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not key:
            raise TrainingError(f"found {word!r}, expected --key value")
        value = text if equals else next(words, None)
        if value is None:
            raise TrainingError(f"--{key}: the value is missing")
        yield _ALIASES.get(key, key), value


def _parse(key: str, text: str) -> Any:
    """A value of the command line: words as they are, lists of words also as `a,b`, else YAML."""
    hint: Any = TrainConfig
    for part in key.split("."):
        hint = get_type_hints(hint).get(part) if dataclasses.is_dataclass(hint) else None
    if hint is str:
        return text
    if get_origin(hint) is tuple and _type_text(hint) == "[str, ...]" and text[:1] != "[":
        return [word for word in text.split(",") if word]
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise TrainingError(f"{key}: found {text!r}, expected a value in YAML") from error


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the keys of `above`, which wins, at every depth."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            value = _merge(under, value)
        merged[key] = value
    return merged


def _network_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """The preset's network; several sensors are combined by presence."""
    model, sensors = values.get("model"), values.get("sensors")
    name: Any = model.get("preset") if isinstance(model, Mapping) else None
    if name not in get_args(Preset):  # if it is another word, the configuration refuses it
        name = NetworkConfig.preset
    network = dataclasses.asdict(ModelConfig.preset(name, num_classes=1))
    count = len(sensors) if isinstance(sensors, (list, tuple)) else 0
    network["combine"] = dataclasses.asdict(default_combine(count))
    parts = {field.name for field in dataclasses.fields(NetworkConfig)} & network.keys()
    return {"model": {part: network[part] for part in parts - {"image_size"}}}


def _configs(folder: str) -> dict[str, Path]:
    found = package_file(f"config/{folder}")
    return {path.stem: path for path in found.glob("*.yaml")} if found else {}


def _attributes(cls: type) -> dict[str, str]:
    """The section `Attributes` of a docstring, by name."""
    found: dict[str, str] = {}
    name = ""
    for line in (inspect.getdoc(cls) or "").partition("Attributes:\n")[2].splitlines():
        if line.startswith(8 * " "):
            found[name] += f" {line.strip()}"
        else:
            name, _, found[name] = line.strip().partition(": ")
    return found


def _type_text(hint: Any) -> str:
    """A type as YAML writes its values, such as `[int, int]`."""
    options = get_args(hint)
    if get_origin(hint) is Literal or hint is str:
        return "str"
    if get_origin(hint) is tuple:
        return f"[{', '.join('...' if o is Ellipsis else _type_text(o) for o in options)}]"
    if type(None) in options:
        return f"{_type_text(next(o for o in options if o is not type(None)))} or null"
    return str(hint.__name__)


def _yaml_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
