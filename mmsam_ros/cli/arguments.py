# SPDX-License-Identifier: Apache-2.0
"""The parser and the error of all verbs, and the arguments that mean the same in each of them."""

import argparse
import re
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from mmsam_ros._util import MmsamError, near_match


class CliError(MmsamError):
    """A wrong argument, or a step of a verb that did not succeed."""


class _Formatter(argparse.HelpFormatter):
    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        for verb in self._iter_indented_subactions(action):  # argparse leaves out their indent
            length = len(self._format_action_invocation(verb)) + self._current_indent
            self._action_max_length = max(self._action_max_length, length)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.nargs == 0 or action.default in (None, "", [], ()) or "(default" in text:
            return text
        if isinstance(action.default, tuple):
            return f"{text} (default: {','.join(map(str, action.default))})"
        return f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """Shows defaults, takes no abbreviations; so do the parsers of its verbs."""

    def __init__(self, **options: Any) -> None:
        formatter = partial(_Formatter, max_help_position=28)
        super().__init__(**{"formatter_class": formatter, "allow_abbrev": False, **options})


def add_verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], Any], text: str
) -> argparse.ArgumentParser:
    """A verb below another, such as `mmsam data check`; the docstring of `run` describes it."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=run.__doc__)
    parser.set_defaults(run=run)
    return parser


def matched(pattern: str, text: str, expected: str) -> re.Match[str]:
    """The match of a whole argument; ArgumentTypeError where there is none."""
    if not (match := re.fullmatch(pattern, text)):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {expected}")
    return match


def image_size(text: str) -> tuple[int, int]:
    """Type of sizes, which are WIDTHxHEIGHT in every verb: (width, height)."""
    match = matched(r"([1-9]\d*)x([1-9]\d*)", text, "WIDTHxHEIGHT")
    return int(match[1]), int(match[2])


def count(text: str) -> int:
    """Type of numbers of at least 1."""
    return int(matched(r"0*[1-9]\d*", text, "a whole number of at least 1")[0])


def number(text: str) -> int:
    """Type of numbers of at least 0."""
    return int(matched(r"\d+", text, "a whole number of at least 0")[0])


def device(text: str) -> str:
    """Type of devices; whether the machine has it is checked when it is used."""
    return matched(r"auto|cpu|cuda(:\d+)?", text, "auto, cpu or cuda[:N]")[0]


def words(known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """Type of comma-separated lists of known words; each counts once."""

    def read(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(filter(None, text.split(","))))
        for word in found:
            if word not in known:
                raise argparse.ArgumentTypeError(f"unknown {word!r}{near_match(word, known)}")
        return found

    return read


def add_words(
    parser: argparse.ArgumentParser, name: str, text: str, known: Collection[str], **options: Any
) -> None:
    """An option that takes a comma-separated list of known words; given twice, both count."""
    text, kind = f"{text}: some of {', '.join(known)}", words(known)
    parser.add_argument(name, type=kind, action=_Words, metavar="WORD,...", help=text, **options)


class _Words(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        before = getattr(namespace, self.dest)
        given = values if before is self.default else (*before, *values)
        setattr(namespace, self.dest, tuple(dict.fromkeys(given)))


def add_dataset(parser: argparse.ArgumentParser, text: str, *, required: bool = False) -> None:
    """`--dataset`, `--root` and `--lists`."""
    from mmsam_ros.data.open import BENCHMARKS

    parser.add_argument("--dataset", choices=list(BENCHMARKS), required=required, help=text)
    parser.add_argument("--root", metavar="DIR", required=True, help="top folder of the data set")
    parser.add_argument("--lists", metavar="DIR", help="folder of FMB's easy and hard lists")


def add_inference(parser: argparse.ArgumentParser) -> None:
    """`--device`, `--precision`, `--engine` and `--providers`."""
    option = parser.add_argument
    option("--device", type=device, default="auto", help="auto, cpu or cuda[:N]")
    option("--precision", choices=["fp32", "bf16", "fp16"], default="fp32",
           help="precision of the network; fp16: with ONNX Runtime on a GPU")  # fmt: skip
    option("--engine", choices=["auto", "torch", "compile", "triton", "onnx"], default="torch",
           help="what runs the network; auto: the fastest here")  # fmt: skip
    option("--providers", type=lambda text: tuple(filter(None, text.split(","))), default=(),
           metavar="NAME,...", help="execution providers of ONNX Runtime, best first")  # fmt: skip


def add_node(parser: argparse.ArgumentParser) -> None:
    """`--params-file`, `-p` and `-r`, which mean what they mean to the node after --ros-args."""
    option = parser.add_argument
    option("--params-file", type=Path, action="append", default=[], metavar="FILE",
           help="parameter file of the node; later files override earlier ones")  # fmt: skip
    option("-p", "--param", action="append", default=[], metavar="NAME:=VALUE",
           help="a parameter of the node; overrides those of files")  # fmt: skip
    option("-r", "--remap", action="append", default=[], metavar="FROM:=TO",
           help="another topic for an input, such as camera/image:=/front/image")  # fmt: skip


def add_out(parser: argparse.ArgumentParser, text: str, default: str | None = None) -> None:
    """`--out`."""
    parser.add_argument("-o", "--out", type=Path, default=default, metavar="PATH", help=text)
