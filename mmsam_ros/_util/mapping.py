# SPDX-License-Identifier: Apache-2.0
"""Configurations: frozen dataclasses that check themselves, built from plain values.

    @dataclass(frozen=True)
    class LossConfig(Checked):
        kind: Literal["ohem", "ce"] = "ohem"
        threshold: float = ranged(0.7, 0, 1)

`Checked` checks every field against its `Literal` choices and its range.
"""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from functools import cache
from operator import attrgetter
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mmsam_ros._util.errors import MmsamError, near_match, shown

T = TypeVar("T")
_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


def ranged(default: Any, low: float, high: float = math.inf, *, below: bool = False) -> Any:
    """A field of numbers (or a tuple of them) from `low` to `high`; `below` excludes `high`, and
    `dataclasses.MISSING` as the default makes it a required field.
    """
    return dataclasses.field(default=default, metadata={"range": (low, high, below)})


def require(
    holds: bool, field: str, found: object, expected: str, error: type[MmsamError] = MmsamError
) -> None:
    """Raise `error` in the one form that a wrong value is reported in, unless it `holds`."""
    if not holds:
        raise error(f"{field}: found {shown(found)}, expected {expected}")


class Checked:
    """Base of the configurations."""

    error: ClassVar[type[MmsamError]] = MmsamError  # what a wrong value raises
    # In front of a field's name in messages; from_mapping sets the path of keys to an instance.
    where: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is None:
                continue
            items = value if isinstance(value, tuple) else (value,)
            choices = _choices(_hints(type(self))[field.name])
            for item in items if choices else ():
                if item not in choices:
                    name, hint = _join(self.where, field.name), near_match(item, choices)
                    raise self.error(f"{name}: found {shown(item)}{hint}")
            if "range" in field.metadata:
                low, high, below = field.metadata["range"]
                inside = all(low <= n < high or (n == high and not below) for n in items)
                expected = allowed(type(self), field)
                self.require(inside, field.name, expected)
                self.require(math.inf not in items, field.name, f"{expected} and finite")
        self.check()

    def check(self) -> None:
        """For a subclass to check several fields at once; raises `error`."""

    def require(self, holds: bool, field: str, expected: str) -> None:
        """Raise `error` for a field, or one of a part ("encoder.depth"), unless it `holds`."""
        require(holds, _join(self.where, field), attrgetter(field)(self), expected, self.error)


def allowed(cls: type, field: dataclasses.Field[Any]) -> str:
    """A field's choices or range in words; empty where it has neither."""
    if "range" not in field.metadata:
        return ", ".join(_choices(_hints(cls)[field.name]))
    low, high, below = field.metadata["range"]
    if high == math.inf:
        return f"at least {low}"
    return f"at least {low} and below {high}" if below else f"{low} to {high}"


def _choices(hint: Any) -> tuple[str, ...]:
    """The words that a `Literal`, or a tuple of them, allows; empty for other types."""
    hint = _without_none(hint)
    if get_origin(hint) is tuple:
        hint = get_args(hint)[0]
    return get_args(hint) if get_origin(hint) is Literal else ()


def _join(where: str, field: str) -> str:
    return f"{where}.{field}" if where else field


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        return next(option for option in get_args(hint) if option is not type(None))
    return hint


def from_mapping(cls: type[T], values: Any, where: str = "") -> T:
    """Build the dataclass `cls` from a mapping of plain values, as JSON or YAML gives them.

    Lists become tuples, nested mappings nested dataclasses. Paths in messages start with `where`.

    Raises:
        MmsamError: a key is unknown or missing, or a value has the wrong type or is not allowed;
            names its path. It is the `error` of the class that the key belongs to.
    """
    error, where = getattr(cls, "error", MmsamError), where or getattr(cls, "where", "")
    require(isinstance(values, Mapping), where or cls.__name__, values, "keys with values", error)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    start = f"{where}: " if where else ""
    for key in values:
        if key not in fields:
            raise error(f"{start}unknown key {shown(key)}{near_match(key, fields)}")
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise error(f"{start}key {name!r} is missing")
    hints = _hints(cls)
    built = {k: _convert(hints[k], v, _join(where, k), error) for k, v in values.items()}
    instance = cls.__new__(cls)
    if where and isinstance(instance, Checked):
        object.__setattr__(instance, "where", where)
    cls.__init__(instance, **built)
    return instance


def _convert(hint: Any, value: Any, where: str, error: type[MmsamError]) -> Any:
    if hint is Any or (value is None and type(None) in get_args(hint)):
        return value
    hint = _without_none(hint)
    origin = get_origin(hint)
    if origin is Literal:
        require(value is not None, where, value, f"one of {', '.join(get_args(hint))}", error)
        return value  # the dataclass looks at it
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else from_mapping(hint, value, where)
    if origin is tuple:
        require(isinstance(value, (list, tuple)), where, value, "a list", error)
        hints = get_args(hint)
        if hints[-1] is Ellipsis:
            hints = hints[:1] * len(value)
        if len(value) != len(hints):
            raise error(f"{where}: found {len(value)} values, expected {len(hints)}")
        pairs = enumerate(zip(hints, value, strict=True))
        return tuple(_convert(h, v, f"{where}[{i}]", error) for i, (h, v) in pairs)
    if origin in (dict, Mapping):
        require(isinstance(value, Mapping), where, value, "keys with values", error)
        key_hint, value_hint = get_args(hint)
        return {
            _convert(key_hint, k, where, error): _convert(value_hint, v, f"{where}.{k}", error)
            for k, v in value.items()
        }
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as overflow:
            raise error(f"{where}: {overflow}") from overflow
    if isinstance(hint, type):
        fits = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
        require(fits, where, value, hint.__name__, error)
    return value
