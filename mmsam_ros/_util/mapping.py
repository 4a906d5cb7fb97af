# SPDX-License-Identifier: Apache-2.0
"""Configurations: frozen dataclasses that check themselves, and how they come out of plain values.

    @dataclass(frozen=True)
    class LossConfig(Checked):
        kind: Literal["ohem", "ce"] = "ohem"
        threshold: float = ranged(0.7, 0, 1)

`Checked` holds every field against its `Literal` choices and its range; what concerns several
fields is the subclass's own `check`.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mmsam_ros._util.errors import MmsamError
from mmsam_ros._util.words import near_match

T = TypeVar("T")
_RANGE = "range"


def ranged(default: Any, low: float, high: float = math.inf, *, below: bool = False) -> Any:
    """A field of numbers (or a tuple of them) from `low` to `high`; `below` excludes `high`.

    `dataclasses.MISSING` as the default makes it a required field.
    """
    return dataclasses.field(default=default, metadata={_RANGE: (low, high, below)})


def require(
    holds: bool, field: str, found: object, expected: str, error: type[MmsamError] = MmsamError
) -> None:
    """Raise `error` in the one form that a wrong value is reported in, unless it `holds`."""
    if not holds:
        raise error(f"{field}: found {found!r}, expected {expected}")


class Checked:
    """Base of the configurations.

    Attributes:
        error: what a wrong value raises; the room's error.
        where: name in front of a field's in messages.
    """

    error: ClassVar[type[MmsamError]] = MmsamError
    where: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            choices = _choices(type(self)).get(field.name)
            if choices is not None and value not in choices:
                hint = near_match(str(value), map(str, choices))
                raise self.error(f"{self._name(field.name)}: found {value!r}{hint}")
            if _RANGE in field.metadata and value is not None:
                low, high, below = field.metadata[_RANGE]
                numbers = value if isinstance(value, tuple) else (value,)
                inside = all(low <= n and (n < high if below else n <= high) for n in numbers)
                self.require(inside, field.name, _range_text(low, high, below))
        self.check()

    def check(self) -> None:
        """What concerns several fields at once; raises `error`."""

    def require(self, holds: bool, field: str, expected: str) -> None:
        """Raise `error` for one of the fields unless it `holds`."""
        require(holds, self._name(field), getattr(self, field), expected, self.error)

    def _name(self, field: str) -> str:
        return f"{self.where}.{field}" if self.where else field


def _range_text(low: float, high: float, below: bool) -> str:
    if high == math.inf:
        return f"at least {low}"
    return f"{low} to {high}" + (" (excluded)" if below else "")


def _choices(cls: Any) -> dict[str, tuple[Any, ...]]:
    """The words that a field's `Literal` allows, by field."""
    hints = {name: _without_none(hint) for name, hint in get_type_hints(cls).items()}
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        return next(option for option in get_args(hint) if option is not type(None))
    return hint


def from_mapping(cls: type[T], values: Any, where: str = "") -> T:
    """Build the dataclass `cls` from a mapping of plain values, as JSON or YAML gives them.

    Lists become tuples, nested mappings nested dataclasses.

    Raises:
        MmsamError: a key is unknown or missing, or a value has the wrong type; names the key. It is
            the class's `error`, where `cls` is `Checked`.
    """
    error = getattr(cls, "error", MmsamError)
    where = where or cls.__name__
    if not isinstance(values, Mapping):
        raise error(f"{where}: found {values!r}, expected keys with values")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise error(f"{where}: unknown key {key!r}{near_match(str(key), fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING
        if required and field.default_factory is dataclasses.MISSING and name not in values:
            raise error(f"{where}: key {name!r} is missing")
    hints = get_type_hints(cls)
    built = {k: _convert(hints[k], v, f"{where}.{k}", error) for k, v in values.items()}
    return cls(**built)


def _convert(hint: Any, value: Any, where: str, error: type[MmsamError]) -> Any:
    if hint is Any:
        return value
    if value is None and type(None) in get_args(hint):
        return None
    hint = _without_none(hint)
    origin = get_origin(hint)
    if origin is Literal:
        return value  # the dataclass looks at it
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else from_mapping(hint, value, where)
    if origin is tuple:
        return _convert_tuple(get_args(hint), value, where, error)
    if origin in (dict, Mapping):
        key_hint, value_hint = get_args(hint)
        if not isinstance(value, Mapping):
            raise error(f"{where}: found {value!r}, expected keys with values")
        return {
            _convert(key_hint, k, where, error): _convert(value_hint, v, f"{where}.{k}", error)
            for k, v in value.items()
        }
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as overflow:
            raise error(f"{where}: {overflow}") from overflow
    if isinstance(hint, type) and (
        not isinstance(value, hint) or (hint is not bool and isinstance(value, bool))
    ):
        raise error(f"{where}: found {value!r}, expected {hint.__name__}")
    return value


def _convert_tuple(
    hints: tuple[Any, ...], value: Any, where: str, error: type[MmsamError]
) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise error(f"{where}: found {value!r}, expected a list")
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(value) != len(hints):
        raise error(f"{where}: found {len(value)} values, expected {len(hints)}")
    return tuple(
        _convert(h, v, f"{where}[{i}]", error)
        for i, (h, v) in enumerate(zip(hints, value, strict=True))
    )
