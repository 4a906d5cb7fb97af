# SPDX-License-Identifier: Apache-2.0
"""Entry point of `mmsam`: finds the verb, runs it, prints the package's errors as one line."""

import argparse
import importlib
import io
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from mmsam_ros import __version__
from mmsam_ros._util import run_program, stop_signals
from mmsam_ros.cli.arguments import CliError, Parser

VERBS = {  # each is a module of this package, which is imported when it is asked for
    "predict": "segment image files",
    "train": "train a network",
    "eval": "evaluate weights on a data set",
    "experiments": "run the paper's experiments",
    "weights": "convert, list, download, export or describe weights",
    "data": "check a data set",
    "muses-project": "project MUSES's LiDAR and events into the camera image",
    "synth": "make synthetic data with labels",
    "bag": "check a recording, or read its calibration",
    "label-bag": "label a recording as the node would, without ROS",
    "view": "show a recording or a data set with its masks in Rerun",
    "replay": "play a recording into ROS 2",
    "doctor": "check the installation, or a running node",
}
_EXTRAS = (  # packages of some verbs alone, which come together; as extras of setup.py
    ("h5py", "jinja2", "lightning", "tensorboard", "torchmetrics"),
    ("embreex",),
)
_INSTALLATION = "`mmsam doctor` says what else is missing (docs/install.md)"
_FIRST = "MMSAM_FIRST_PROCESS"  # id of the first process, for those it starts


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The parser with all verbs; if `verb` is given, only this one has its options."""
    parser = Parser(prog="mmsam", description="Segment camera, LiDAR and thermal data.")
    parser.add_argument("--version", action="version", version=f"mmsam_ros {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in VERBS.items():
        added = verbs.add_parser(name, help=text, description=text)
        if verb in (None, name):
            module = importlib.import_module(f"mmsam_ros.cli.{name.replace('-', '_')}")
            added.set_defaults(run=getattr(module, "run", None))  # or its own verbs have theirs
            module.add_arguments(added)
    return parser


_format_python = warnings.formatwarning


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    line: str | None = None,
) -> str:  # fmt: skip
    """The package's own warnings as one line, without the place in the code."""
    if category.__module__.startswith("mmsam_ros."):
        return f"mmsam: warning: {message}\n"
    return _format_python(message, category, filename, lineno, line)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; 0 on success, 2 on an error that the user can fix, 130 after Ctrl-C, 141 if the
    reader of its output has gone.
    """
    for stream in (sys.stdout, sys.stderr):  # file names may have characters the locale lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = _format_warning
    logging.basicConfig(format="mmsam: %(message)s")  # to stderr
    logging.getLogger("mmsam_ros").setLevel(logging.INFO)
    if "LOCAL_RANK" not in os.environ:
        os.environ[_FIRST] = str(os.getpid())
    elif _FIRST in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:  # not by torchrun
        threading.Thread(target=_end_with_first, daemon=True).start()
    with _signals():
        return run_program("mmsam", lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(words: Sequence[str]) -> int:
    try:
        parser = build_parser(next((word for word in words if word in VERBS), ""))
        args, rest = parser.parse_known_args(words)
        if rest and not getattr(args, "takes_keys", False):  # keys of the training configuration
            parser.error(f"unrecognised arguments: {' '.join(rest)}")
        args.rest = rest
        signal.signal(signal.SIGINT, _end)
        return int(args.run(args) or 0)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in ("", "mmsam_ros"):
            raise
        needed = next((" ".join(names) for names in _EXTRAS if module in names), "")
        remedy = f"pip install {needed}" if needed else _INSTALLATION
        raise CliError(f"{module} is not installed; {remedy}") from error
    except KeyboardInterrupt:
        print("mmsam: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


@contextmanager
def _signals() -> Iterator[None]:
    """Signals end a verb with its processes; Ctrl-C ends it at once as long as it only imports."""
    before = {number: signal.signal(number, _end) for number in stop_signals()}
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _end(number: int, _: FrameType | None) -> None:
    """End the processes of pools and loaders, which would wait forever, then this one."""
    for worker in multiprocessing.active_children():
        worker.kill()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _end_with_first() -> None:
    """A process for another device would wait half an hour for the one that has started it."""
    while os.getppid() == int(os.environ[_FIRST]):
        time.sleep(1)
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
