# SPDX-License-Identifier: Apache-2.0
"""What verbs print: text as it is, tables, progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager


def say(text: str) -> None:
    """Print a line; brackets and numbers in it are no markup."""
    from rich.console import Console

    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table; without a header it has no lines either."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    lines = list(rows)
    table = Table(
        title=title or None, title_justify="left", show_header=bool(header),
        box=box.HEAVY_HEAD if header else None,
    )  # fmt: skip
    for name in header or ("",) * max(map(len, lines), default=0):
        table.add_column(name, overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    Console().print(table)


@contextmanager
def progress(description: str) -> Iterator[Callable[[float, float], None]]:
    """A bar while the block runs; what it gives is called with how much is done and of how much."""
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task(description)
        yield lambda done, total: bar.update(task, completed=done, total=total)
