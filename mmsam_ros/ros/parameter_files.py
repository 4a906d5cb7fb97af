# SPDX-License-Identifier: Apache-2.0
"""Parameters and remappings as `--ros-args` takes them, for commands without a node. Needs no ROS.

The same files and the same words on the command line mean the same as for the node.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmsam_ros._util import check_word
from mmsam_ros._util.documents import load_yaml
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.interface import INPUTS

NODE = "/mmsam"  # whose parameters are read
_KEY = "ros__parameters"
_TF = ("/tf", "/tf_static")  # found by type and last word, whatever their names


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as ROS does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def read_given(files: Sequence[Path], assignments: Iterable[str]) -> dict[str, Any]:
    """The values that parameter files, the later over the earlier, and NAME:=VALUE give, by name;
    RosError for one that cannot be read.
    """
    found: dict[str, Any] = {}
    for path in files:
        found |= read_file(path)
    for text in assignments:
        name, sign, value = text.partition(":=")
        if not (name and sign):
            raise RosError(f"-p: found {text!r}, expected NAME:=VALUE")
        found[name] = _value(value)
    return found


class OtherNodesError(RosError):
    """A parameter file has nothing for the node."""


def read_file(path: Path, name: str = NODE) -> dict[str, Any]:
    """The values that a ROS 2 parameter file has for the node `name` (with its namespace), by name
    with dots; OtherNodesError if it has none, RosError if it is no parameter file.
    """
    try:
        document = load_yaml(path.read_text("utf-8"), _Loader)
        is_table = isinstance(document, dict)
        # RecursionError: also of an alias that leads to what it is in
        sections = [(n, _flat(v, "")) for n, v in _sections(document, "")] if is_table else []
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RosError(f"{path}: not a parameter file: {' '.join(str(error).split())}") from error
    if not is_table:
        raise RosError(f"{path}: not a parameter file: expected the name of a node at the top")
    found: dict[str, Any] = {}
    for node, values in sections:
        if _names_node(node, name):
            found |= values
    if not found:
        nodes = ", ".join(node for node, _ in sections) or f"no {_KEY}"
        expected = " or of ".join((name, f"/**/{name.rpartition('/')[2]}", "/**"))
        raise OtherNodesError(f"{path}: found parameters of {nodes}, expected some of {expected}")
    return found


def _sections(table: Mapping[Any, Any], node: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """(name of a node, its parameters), in the order of the file."""
    for key, below in table.items():
        if key == _KEY and isinstance(below, dict):
            yield node, below
        elif isinstance(below, dict):
            yield from _sections(below, f"{node}/{str(key).strip('/')}")


def _names_node(pattern: str, name: str) -> bool:
    """Whether a pattern with `*` (one word) and `**` (any words) is the name of a node."""
    words = (re.escape(word) for word in pattern.strip("/").split("/"))
    parts = ("(/[^/]+)*" if w == r"\*\*" else "/[^/]+" if w == r"\*" else f"/{w}" for w in words)
    return re.fullmatch("".join(parts), name) is not None


def _flat(table: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _value(text: str) -> Any:
    try:
        return load_yaml(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def read_remaps(remaps: Iterable[str]) -> Callable[[str], str]:
    """A function that resolves a name of the node's interface to a topic, by FROM:=TO; RosError for
    another form, or a name that is no input. Names without a slash are below the root, as for a
    node without namespace. Of two rules for a name the first counts, as in ROS.
    """
    topics: dict[str, str] = {}
    known = [topic.name for topic in INPUTS]
    for text in remaps:
        source, sign, target = text.partition(":=")
        if not (source and sign and target):
            raise RosError(f"-r: found {text!r}, expected FROM:=TO")
        if _absolute(source) not in (*map(_absolute, known), *_TF):
            check_word("-r, inputs", source, known, RosError)
        topics.setdefault(_absolute(source), _absolute(target))
    return lambda name: topics.get(_absolute(name), _absolute(name))


def _absolute(name: str) -> str:
    name = f"{NODE}/{name[2:]}" if name.startswith("~/") else name
    return name if name.startswith("/") else f"/{name}"
