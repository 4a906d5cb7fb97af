# SPDX-License-Identifier: Apache-2.0
"""Words and keys that a data set may use: an unknown one is an error that names the near match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from mmsam_ros.data.errors import DataError


def check_word(where: str, word: str, known: Iterable[str]) -> str:
    """The word itself; DataError naming the near match, or all known words, unless it is known."""
    options = list(known)
    if not isinstance(word, str):
        raise DataError(f"{where}: found {word!r}, expected one of {', '.join(options) or 'none'}")
    if word in options:
        return word
    close = difflib.get_close_matches(word, options, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(options) or 'none'}"
    raise DataError(f"{where}: unknown {word!r}; {hint}")


def check_keys(
    where: str, value: Any, required: Iterable[str], optional: Iterable[str] = ()
) -> Mapping[str, Any]:
    """The mapping itself; DataError for anything else, for an unknown and for a missing key."""
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: found {type(value).__name__}, expected an object with keys")
    required = list(required)
    known = dict.fromkeys([*required, *optional])
    for key in value:
        if key not in known:
            check_word(where, key, known)
    for key in required:
        if key not in value:
            raise DataError(f"{where}: key {key!r} is missing")
    return value
