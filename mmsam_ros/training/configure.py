# SPDX-License-Identifier: Apache-2.0
"""A run's configuration from YAML files and the command line, and the reference of its keys."""

import dataclasses
import inspect
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import yaml

from mmsam_ros._util import check_word, from_mapping, require
from mmsam_ros._util.documents import load_yaml
from mmsam_ros._util.mapping import allowed
from mmsam_ros.data.open import BENCHMARKS
from mmsam_ros.model import ModelConfig
from mmsam_ros.model.config import Preset
from mmsam_ros.training.config import NetworkConfig, TrainConfig, TrainingError
from mmsam_ros.training.start import default_combine
from mmsam_ros.weights import package_file


class _Loader(yaml.SafeLoader):
    """Takes 1e-4 for a number, as YAML 1.2 does, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, count in keys.items():
            if count > 1:
                text = f"key {key!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, text, node.start_mark)
        return super().construct_mapping(node, deep)


_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def load_config(arguments: Sequence[str]) -> TrainConfig:
    """The configuration that command-line arguments give.

    They are `--config`, a file or the name of one in config/train, and `--key value` or
    `--key=value`, values in YAML. Later files win over earlier ones, keys over files. Defaults of
    `model` are the preset's; several sensors are combined by presence. DeLiVER, FMB and MUSES have
    the published photometric distortion, precision and frames of the loss.

    Raises:
        MmsamError: an unknown key (with its near match), or a value of the wrong type or range.
    """
    types = {row.key: row.type for row in config_rows()}
    files: Any = {}
    keys: Any = {}
    for key, text in _pairs(arguments):
        if key == "config":
            files = _merge(files, read_yaml(find_config("train", text)))
            continue
        value = _parse(key, text, types.get(key, ""))
        for part in reversed(key.split(".")):
            value = {part: value}
        keys = _merge(keys, value)
    values = _merge(files, keys)
    defaults = _merge(_published_defaults(values), _network_defaults(values))
    return from_mapping(TrainConfig, _merge(defaults, values))


def find_config(folder: str, name: str) -> Path:
    """A YAML file, or the one of this name in config/<folder>; TrainingError if there is none."""
    if not name.endswith((".yaml", ".yml")):
        known = config_files(folder)
        return known[check_word(f"config/{folder}", name, known, TrainingError)]
    if not Path(name).is_file():
        raise TrainingError(f"{name}: no such file")
    return Path(name)


def config_files(folder: str) -> dict[str, Path]:
    """The YAML files in config/<folder> that come with the package, by name."""
    found = package_file(f"config/{folder}")
    return {path.stem: path for path in sorted(found.glob("*.yaml"))} if found else {}


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a YAML file; TrainingError where it holds something else."""
    try:
        values = load_yaml(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TrainingError(f"{path}: {' '.join(str(error).split())}") from error
    require(isinstance(values, dict), str(path), values, "keys with values", TrainingError)
    return dict(values)


class ConfigRow(NamedTuple):
    """A key of the configuration."""

    key: str  # dotted
    type: str
    default: str  # in YAML; empty where the key is required
    allowed: str  # the choices or the range
    description: str


def config_rows(cls: type = TrainConfig, prefix: str = "") -> list[ConfigRow]:
    """All keys below a part of the configuration; the defaults of `model` are `vit_l`'s."""
    rows: list[ConfigRow] = []
    hints, described = get_type_hints(cls), _descriptions(cls)
    for field in dataclasses.fields(cls):
        hint, key = hints[field.name], f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            rows += config_rows(hint, f"{key}.")
            continue
        made = field.default_factory
        default = made() if made is not dataclasses.MISSING else field.default
        default = "" if default is dataclasses.MISSING else yaml_text(default)
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
        yield "data.root" if key == "root" else key, value


def _parse(key: str, text: str, kind: str) -> Any:
    """A value of the command line: words as they are, lists of words also as `a,b`, else YAML."""
    if kind == "str":
        return text
    if kind == "[str, ...]" and not text.startswith("["):
        return [word for word in text.split(",") if word]
    try:
        return load_yaml(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TrainingError(f"{key}: found {text!r}, expected a value in YAML") from error


def _merge(below: Any, above: Any) -> Any:
    """`below` with the keys of `above`, which wins, at every depth."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _merge(below.get(key), value) for key, value in above.items()}}


def _published_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the published training of a benchmark has, and data of one's own has not."""
    benchmark = BENCHMARKS.get(str(values.get("dataset")))
    if benchmark is None or benchmark.protocol is None:
        return {}
    return {
        "augment": {"photometric": "published"},
        "device": {"precision": "tf32"},
        "loss": {"frames": benchmark.pooled_frames // 2},  # of one of two GPUs
    }


def _network_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """The preset's network; several sensors are combined by presence."""
    model, sensors = values.get("model"), values.get("sensors")
    name: Any = model.get("preset") if isinstance(model, Mapping) else None
    if name not in get_args(Preset):  # if it is another word, the configuration refuses it
        name = NetworkConfig.preset
    network = dataclasses.asdict(ModelConfig.preset(name, num_classes=1))
    count = len(sensors) if isinstance(sensors, (list, tuple)) else 0
    network["combine"] = dataclasses.asdict(default_combine(count))
    parts = NetworkConfig.__dataclass_fields__.keys() & network.keys() - {"image_size"}
    return {"model": {part: network[part] for part in parts}}


def _descriptions(cls: type) -> dict[str, str]:
    """Help texts of the fields: their entries in "Attributes:", or the comments beside them."""
    section = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2]
    joined = section.replace("\n" + 8 * " ", " ")
    beside = re.findall(r"^    (\w+): .*  # (.+)$", inspect.getsource(cls), re.MULTILINE)
    return dict([*re.findall(r"^    (\w+): (.+)$", joined, re.MULTILINE), *beside])


def _type_text(hint: Any) -> str:
    """A type as YAML writes its values, such as `[int, int]`."""
    if get_origin(hint) is Literal:
        return "str"
    if hint in (Ellipsis, NoneType):
        return "null" if hint is NoneType else "..."
    if dataclasses.is_dataclass(hint):
        return "keys with values"
    parts = [_type_text(part) for part in get_args(hint)]
    if get_origin(hint) is Mapping:
        return f"{{{': '.join(parts)}}}"
    if get_origin(hint) is tuple:
        return f"[{', '.join(parts)}]"
    return " or ".join(parts) or str(hint.__name__)


def yaml_text(value: Any) -> str:
    """A value as `load_config` reads it."""
    return value if isinstance(value, str) else json.dumps(value)
