# SPDX-License-Identifier: Apache-2.0
"""What verbs print besides plain lines: tables, paragraphs and progress.

On a terminal long cells are folded to its width, and a bar shows the progress. A pipe or file gets
a row a line and no bar.
"""

import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table
from rich.text import Text

_WIDTH = 80


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table; brackets in its cells are no markup."""
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


def print_paragraph(text: str) -> None:
    """Print words that are read in one go, such as a long list, in lines of 80 characters."""
    print(textwrap.fill(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False))


@contextmanager
def progress(description: str) -> Iterator[Callable[..., None]]:
    """A bar while the block runs; yields a function of what is done and the total (1)."""
    console = Console(file=sys.stderr)
    with Progress(transient=True, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description)
        yield lambda done, total=1.0: bar.update(task, completed=done, total=total)
