# SPDX-License-Identifier: Apache-2.0
"""Words out of a fixed set: an unknown one is an error that names the near match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from mmsam_ros._util.errors import MmsamError


def near_match(word: str, known: Iterable[str]) -> str:
    """A hint such as "; did you mean 'depth'?", or the known words where none is close."""
    options = sorted(known)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(options) or 'none'}"


def check_word(
    where: str, word: object, known: Iterable[str], error: type[MmsamError] = MmsamError
) -> str:
    """The word itself; raises `error` with the near match unless it is known."""
    options = list(known)
    if not isinstance(word, str):
        raise error(f"{where}: found {word!r}, expected one of {', '.join(options) or 'none'}")
    if word not in options:
        raise error(f"{where}: unknown {word!r}{near_match(word, options)}")
    return word
