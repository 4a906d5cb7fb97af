# SPDX-License-Identifier: Apache-2.0
"""The parser of all verbs, and the arguments that mean the same in each of them.

Nothing heavy is imported before a verb's own options are asked for.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mmsam_ros._util import near_match


class Parser(argparse.ArgumentParser):
    """Shows defaults, takes no abbreviations; so do the parsers of its verbs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Formatter, "allow_abbrev": False, **options})


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"max_help_position": 28, **options})

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        for verb in self._iter_indented_subactions(action):  # argparse leaves out their indent
            length = len(self._format_action_invocation(verb)) + self._current_indent
            self._action_max_length = max(self._action_max_length, length)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        without = action.default in (None, "", argparse.SUPPRESS) or action.default == []
        if without or action.nargs == 0 or "(default" in text:
            return text
        return f"{text} (default: %(default)s)"


def image_size(text: str) -> tuple[int, int]:
    """Type of sizes, which are WIDTHxHEIGHT in every verb: (width, height)."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, expected WIDTHxHEIGHT")
    return int(match[1]), int(match[2])


def count(text: str) -> int:
    """Type of numbers of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least 1")
    return int(text)


def device(text: str) -> str:
    """Type of devices; whether the machine has it is seen when it is used."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected auto, cpu or cuda[:N]")
    return text


def words(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """Type of comma-separated lists of known words; each counts once."""
    options = list(known)

    def read(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(filter(None, text.split(","))))
        for word in found:
            if word not in options:
                raise argparse.ArgumentTypeError(f"unknown {word!r}{near_match(word, options)}")
        return found

    return read


def auxiliary_sensors() -> tuple[str, ...]:
    """Sensors besides the camera."""
    from mmsam_ros.sensors import AUXILIARY_SENSORS

    return AUXILIARY_SENSORS


def add_words(
    parser: argparse.ArgumentParser, name: str, text: str, known: Iterable[str], **options: Any
) -> None:
    """An option that takes a comma-separated list of known words."""
    names = list(known)
    metavar = "WORD,..."
    text = f"{text}: some of {', '.join(names)}"
    parser.add_argument(name, type=words(names), metavar=metavar, help=text, **options)


def add_dataset(parser: argparse.ArgumentParser, text: str, *, required: bool = False) -> None:
    """`--dataset`, `--root` and `--lists`."""
    from mmsam_ros.data.open import BENCHMARKS

    parser.add_argument("--dataset", choices=list(BENCHMARKS), required=required, help=text)
    parser.add_argument("--root", metavar="DIR", required=True, help="top folder of the data set")
    parser.add_argument("--lists", metavar="DIR", help="folder of FMB's easy and hard lists")


def add_inference(parser: argparse.ArgumentParser) -> None:
    """`--device` and `--precision`."""
    parser.add_argument("--device", type=device, default="auto", help="auto, cpu or cuda[:N]")
    parser.add_argument(
        "--precision", choices=["fp32", "bf16"], default="fp32", help="arithmetic of the network"
    )


def add_out(parser: argparse.ArgumentParser, text: str, default: str | None = None) -> None:
    """`--out`."""
    parser.add_argument("-o", "--out", type=Path, default=default, metavar="PATH", help=text)
