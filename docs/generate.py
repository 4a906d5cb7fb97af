# SPDX-License-Identifier: Apache-2.0
"""MkDocs hook: makes the reference out of the code, and lets pages link to files outside docs/.

A page asks for a table with a line such as `<!-- generate: parameters -->`; `TABLES` names them
all. A file of the repository that a page links to becomes part of the site.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Module and name of rows (or of a function that gives them), and their attributes to show.
PARAMETERS = ("mmsam_ros.ros.interface", "PARAMETERS",
              ("name", "default", "expected", "read", "description"))  # fmt: skip
SERVICES = ("mmsam_ros.ros.interface", "SERVICES", ("name", "type", "description"))
INPUTS = ("mmsam_ros.ros.interface", "INPUTS", ("name", "type", "compressed", "description"))
OUTPUTS = ("mmsam_ros.ros.interface", "OUTPUTS", ("name", "type", "latched", "description"))
TRAINING = ("mmsam_ros.training.configure", "config_rows",
            ("key", "type", "default", "allowed", "description"))  # fmt: skip

_MARKER = re.compile(r"^<!-- generate: (\w+) -->$", re.MULTILINE)
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
_PROSE = ("expected", "read", "description")  # columns that are no code


def parameters() -> str:
    """The node's parameters."""
    return _rows(*PARAMETERS)


def topics() -> str:
    """The node's topics."""
    return f"## Inputs\n\n{_rows(*INPUTS)}\n\n## Outputs\n\n{_rows(*OUTPUTS)}"


def services() -> str:
    """The node's services."""
    return _rows(*SERVICES)


def training() -> str:
    """Keys of the training configuration."""
    return _rows(*TRAINING)


def cli() -> str:
    """The help of every verb."""
    from mmsam_ros.cli.main import build_parser

    whole = build_parser()
    parts = [_help(whole), *(f"## {verb.prog}\n\n{_help(verb)}" for verb in verbs(whole))]
    return "\n\n".join(parts)


def _help(parser: argparse.ArgumentParser) -> str:
    """As `--help` prints it on a terminal that is 96 columns wide."""
    parser.formatter_class = functools.partial(parser.formatter_class, width=96)  # type: ignore[assignment]
    return f"```text\n{parser.format_help()}```"


def verbs(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of all verbs and sub-verbs that do something."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                below = list(verbs(verb))
                yield from below or [verb]


def weights() -> str:
    """Every part of a weights file's specification."""
    from mmsam_ros.weights.spec import Spec

    parts = []
    for path, cls in _dataclasses(Spec):
        rows = [
            [f"`{field.name}`", _type(hint), _default(field), text]
            for field, hint, text in _fields(cls)
        ]
        table = _table(("key", "type", "default", "description"), rows)
        summary = (cls.__doc__ or "").partition("\n")[0]
        parts.append(f"## `{path}`\n\n{summary}\n\n{table}" if path else table)
    return "\n\n".join(parts)


TABLES: Mapping[str, Callable[[], str]] = {
    "parameters": parameters,
    "topics": topics,
    "services": services,
    "cli": cli,
    "training": training,
    "weights": weights,
}


def _rows(module: str, name: str, columns: Sequence[str]) -> str:
    try:
        rows = getattr(importlib.import_module(module), name)
        found = rows() if callable(rows) else rows
        cells = [[_cell(column, getattr(row, column)) for column in columns] for row in found]
    except (ImportError, AttributeError) as error:
        raise LookupError(f"docs/generate.py needs {name} of {module}: {error}") from error
    return _table(columns, cells)


def _cell(column: str, value: Any) -> str:
    """A value as text; code, unless the column holds sentences."""
    if column == "default" and isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value is None or value is False or value == "":
        return ""
    if value is True:
        return "yes"
    return str(value).replace("<", "&lt;") if column in _PROSE else f"`{value}`"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)


def _escaped(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")


def _dataclasses(cls: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """A dataclass and those in its fields, with the keys that lead there."""
    yield path, cls
    for field, hint, _ in _fields(cls):
        for inner in _inner(hint):
            yield from _dataclasses(inner, f"{path}.{field.name}".lstrip("."))


def _inner(hint: Any) -> Iterator[Any]:
    """The dataclasses that a type hint names."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
    for part in get_args(hint):
        yield from _inner(part)


def _fields(cls: Any) -> Iterator[tuple[dataclasses.Field[Any], Any, str]]:
    """Field, type and description of each field."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        yield field, hints[field.name], _described(cls).get(field.name, "")


def _described(cls: Any) -> dict[str, str]:
    """The "Attributes:" of a docstring."""
    from griffe import Docstring, DocstringSectionAttributes

    sections = Docstring(cls.__doc__ or "", parser="google").parse(warnings=False)
    return {
        attribute.name: attribute.description
        for section in sections
        if isinstance(section, DocstringSectionAttributes)
        for attribute in section.value
    }


def _type(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    return f"`{re.sub(r'[A-Za-z_][A-Za-z0-9_.]*[.]', '', text)}`"


def _default(field: dataclasses.Field[Any]) -> str:
    if dataclasses.is_dataclass(field.default) or field.default is dataclasses.MISSING:
        return "" if field.default_factory is dataclasses.MISSING else "its own"
    return f"`{field.default!r}`"


# --- MkDocs' events ---


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository's files that pages link to."""
    from mkdocs.structure.files import File, InclusionLevel

    pages = [(f"docs/{file.src_uri}", file.content_string) for file in files.documentation_pages()]
    while pages:
        path, markdown = pages.pop()
        for _, target, _ in _LINK.findall(markdown):
            uri = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            if uri.startswith(("docs/", "..")) or uri in files.src_uris:
                continue
            if not (ROOT / uri).is_file():
                continue  # MkDocs warns of it
            files.append(
                File.generated(
                    config, uri, abs_src_path=str(ROOT / uri), inclusion=InclusionLevel.NOT_IN_NAV
                )
            )
            if uri.endswith(".md"):
                pages.append((uri, (ROOT / uri).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert the tables that the page asks for, and turn its links to what they are in the site."""
    from mkdocs.exceptions import PluginError

    try:
        markdown = _MARKER.sub(lambda match: TABLES[match[1]](), markdown)
    except LookupError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error
    own = page.file.src_uri
    here = own if page.file.generated_by else f"docs/{own}"

    def turned(match: re.Match[str]) -> str:
        uri = posixpath.normpath(posixpath.join(posixpath.dirname(here), match[2]))
        target = posixpath.relpath(uri.removeprefix("docs/"), posixpath.dirname(own) or ".")
        return f"{match[1]}{target}{match[3]}"

    return _LINK.sub(turned, markdown)
