# SPDX-License-Identifier: Apache-2.0
"""The base of all errors that a user can fix, and hints for misspelt words."""

import difflib
from collections.abc import Collection, Iterable


class MmsamError(ValueError):
    """Something outside the code is wrong: a file, a value, a device. The message says what was
    found, what was expected and what to change. Every package derives its own error from it.
    """


def shown(value: object) -> str:
    """Its repr, or its type where it has none: a number of 5,000 digits, very deep lists."""
    try:
        return repr(value)
    except (ValueError, RecursionError):
        return f"{type(value).__name__} that is too long or deep to be shown"


def first_line(error: BaseException) -> str:
    """The first line of its message: those of compilers and of CUDA may fill a page."""
    return str(error).strip().partition("\n")[0]


def near_match(word: object, known: Iterable[str]) -> str:
    """A hint such as "; did you mean 'depth'?", or the known words where none is close."""
    options, text = sorted(known), word if isinstance(word, str) else shown(word)
    close = difflib.get_close_matches(text, options, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(options) or 'none'}"


def check_word(
    where: str, word: object, known: Collection[str], error: type[MmsamError] = MmsamError
) -> str:
    """The word itself; raises `error` with the near match unless it is known."""
    if not isinstance(word, str):
        raise error(f"{where}: found {shown(word)}, expected one of {', '.join(known) or 'none'}")
    if word not in known:
        raise error(f"{where}: unknown {word!r}{near_match(word, known)}")
    return word
