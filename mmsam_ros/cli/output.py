# SPDX-License-Identifier: Apache-2.0
"""What verbs print besides plain lines: tables and progress."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table
from rich.text import Text


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table; long cells are folded, brackets in them are no markup."""
    columns = (Column(name, overflow="fold") for name in header)
    table = Table(*columns, title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


@contextmanager
def progress(description: str) -> Iterator[Callable[..., None]]:
    """A bar while the block runs; yields a function of what is done and the total (1)."""
    with Progress(transient=True) as bar:
        task = bar.add_task(description)
        yield lambda done, total=1.0: bar.update(task, completed=done, total=total)
