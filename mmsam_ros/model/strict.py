# SPDX-License-Identifier: Apache-2.0
"""Frozen dataclasses from plain mappings: an unknown key is an error that names the near match."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from mmsam_ros.model.errors import ModelError

T = TypeVar("T")


def near_match(word: str, known: Iterable[str]) -> str:
    """A hint such as "; did you mean 'depth'?", or the list of known words where none is near."""
    options = sorted(known)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(options)}"


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass `cls` from a mapping of plain values (as JSON gives them).

    Lists become tuples, nested mappings nested dataclasses.

    Raises:
        ModelError: a key is unknown or missing, or a value has the wrong type; names the key.
    """
    where = where or cls.__name__
    if not isinstance(values, Mapping):
        raise ModelError(f"{where}: expected a mapping, found {type(values).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise ModelError(f"{where}: unknown key {key!r}{near_match(str(key), fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING
        if required and field.default_factory is dataclasses.MISSING and name not in values:
            raise ModelError(f"{where}: key {name!r} is missing")
    hints = get_type_hints(cls)
    built = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    return cls(**built)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        options = get_args(hint)
        if value is None and type(None) in options:
            return None
        return _convert(next(o for o in options if o is not type(None)), value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_mapping(hint, value, where)
    if origin is tuple:
        return _convert_tuple(get_args(hint), value, where)
    if origin in (dict, Mapping):
        key_hint, value_hint = get_args(hint)
        if not isinstance(value, Mapping):
            raise ModelError(f"{where}: expected a mapping, found {value!r}")
        return {
            _convert(key_hint, k, where): _convert(value_hint, v, f"{where}.{k}")
            for k, v in value.items()
        }
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ModelError(f"{where}: {error}") from error
    if isinstance(hint, type) and (
        not isinstance(value, hint) or (hint is not bool and isinstance(value, bool))
    ):
        raise ModelError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


def _convert_tuple(hints: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ModelError(f"{where}: expected a list, found {value!r}")
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(value) != len(hints):
        raise ModelError(f"{where}: expected {len(hints)} values, found {len(value)}")
    return tuple(
        _convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True))
    )
