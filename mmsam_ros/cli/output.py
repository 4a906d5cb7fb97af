# SPDX-License-Identifier: Apache-2.0
"""What verbs print besides plain lines: tables, paragraphs and progress.

On a terminal long cells are folded to its width, and a bar shows the progress. A pipe or file gets
a row a line, and a line of progress now and then. Rich is imported when it is used: `mmsam doctor`
says whether it is there.
"""

import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from mmsam_ros._util.findings import ERROR, OK, WARNING, Finding

_WIDTH = 80


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table; brackets in its cells are no markup."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        _print_plain(header, rows, title)
        return
    columns = (Column(name, overflow="fold") for name in header)
    table = Table(*columns, box=None, pad_edge=False, title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)  # without a frame: not every terminal has its characters


def _print_plain(header: Sequence[str], rows: Iterable[Sequence[str]], title: str) -> None:
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if title:
        print(title)
    for line in lines:
        print("  ".join(map(str.ljust, line, widths)).rstrip())


def print_findings(findings: Sequence[Finding]) -> None:
    """Print findings, the worst ones last, where they are seen."""
    for level in (OK, WARNING, ERROR):
        for finding in findings:
            if finding.level == level:
                print(f"{level}: {finding.subject}: {finding.text}")
                if finding.remedy:
                    print(f"  {finding.remedy}")


def print_paragraph(text: str) -> None:
    """Print words that are read in one go, such as a long list, in lines of 80 characters."""
    print(textwrap.fill(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False))


@contextmanager
def progress(
    description: str, *, quiet: bool = False, seconds: float = 30
) -> Iterator[Callable[..., None]]:
    """The progress while the block runs; yields a function of what is done and the total (1).

    A terminal gets a bar, a pipe or file a line every so many seconds; `quiet` shows nothing.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    shown = console.is_terminal and not quiet
    began = said = time.monotonic()
    with Progress(transient=True, console=console, disable=not shown) as bar:
        task = bar.add_task(description)

        def advance(done: float, total: float = 1.0) -> None:
            nonlocal said
            bar.update(task, completed=done, total=total)
            now = time.monotonic()
            if quiet or console.is_terminal or done >= total or now - said < seconds:
                return
            said = now
            left = timedelta(seconds=round((now - began) * (total - done) / done))
            amount = f"{done}/{total}" if total > 1 else f"{done:.0%}"
            print(f"{description} {amount} left {left}", file=sys.stderr, flush=True)

        yield advance
