# SPDX-License-Identifier: Apache-2.0
"""README and documentation agree with the repository: links, commands, names of code, YAML."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import importlib.util
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pytest
import yaml

from mmsam_ros.cli.main import build_parser
from mmsam_ros.training.config import TrainConfig

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "models").glob("*.md")]
)
COMMAND = re.compile(r"(?:^|[\s/])(?<! set /)mmsam ([a-z].*)|mmsam_ros\.cli\.main ([a-z].*)")
# Verbs that take every key of the training configuration as an option, and options besides.
TAKE_KEYS = ("train", "experiments")
TRAIN_OPTIONS = {"config", "root", "resume", "print-config", "help"}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        linked = page.parent / path if path else page
        assert linked.exists(), f"{name_of(page)}: {target}"
        if anchor:
            assert anchor in anchors(linked), f"{name_of(page)}: {target}"


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as both GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def commands(text: str) -> Iterator[tuple[str, bool]]:
    """The arguments of every `mmsam` command, and whether it is a whole one, to be typed."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for found in COMMAND.finditer(line.partition("#")[0]):
                yield found[1] or found[2], True
    for span in re.findall(r"`(mmsam [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        yield span.removeprefix("mmsam "), False


def test_commands_are_found() -> None:
    text = (
        "```sh\nros2 run mmsam_ros mmsam bag calib BAG \\\n -o x  # why\n```\n`mmsam eval --drop x`"
    )
    found = [(shlex.split(line), whole) for line, whole in commands(text)]
    assert found == [
        (["bag", "calib", "BAG", "-o", "x"], True),
        (["eval", "--drop", "x"], False),
    ]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_those_of_the_parser(page: Path) -> None:
    for line, whole in commands(page.read_text()):
        words = shlex.split(line)
        fault = wrong_command(words) if whole else wrong_names(words)
        assert not fault, f"{name_of(page)}: mmsam {line}: {fault}"


def wrong_command(words: list[str]) -> str:
    """What the parser has against a command; empty where it takes it."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            args, rest = build_parser().parse_known_args(words)
    except SystemExit as left:
        return said.getvalue() if left.code else ""
    if rest and args.verb not in TAKE_KEYS:
        return f"unrecognised {rest}"
    return ", ".join(f"no key {key}" for key in rest if key.startswith("--") and not is_key(key))


def wrong_names(words: list[str]) -> str:
    """Verbs and options of a command that do not exist; arguments may be missing."""
    parser, takes_keys = build_parser(), words[0] in TAKE_KEYS
    while words and (verbs := sub_verbs(parser)) and not words[0].startswith("--"):
        if words[0] not in verbs:
            return f"no verb {words[0]}"
        parser = verbs[words.pop(0)]
    options = (word.partition("=")[0] for word in words if word.startswith("--"))
    known = parser._option_string_actions
    wrong = [o for o in options if o not in known and not (takes_keys and is_key(o))]
    return f"no option {', '.join(wrong)}" if wrong else ""


def sub_verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def is_key(option: str) -> bool:
    """Whether an option of `mmsam train` is a key of its configuration, such as --optimiser.lr."""
    name = option.removeprefix("--").partition("=")[0]
    found: Any = TrainConfig
    for key in name.split("."):
        hints = get_type_hints(found) if dataclasses.is_dataclass(found) else {}
        if key not in hints:
            return name in TRAIN_OPTIONS
        found = hints[key]
    return True


def test_code_that_the_architecture_names_exists() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"\| `([\w/]+\.py)` \| (?:`([\w.]+)` )?\|$", text, re.MULTILINE)
    assert len(rows) > 20
    for file, name in rows:
        path = ROOT / "mmsam_ros" / file
        assert path.is_file(), file
        body = ast.parse(path.read_text()).body
        for part in filter(None, name.split(".")):
            found = [n for n in body if getattr(n, "name", None) == part]
            assert found, f"{file}: {name}"
            body = getattr(found[0], "body", [])


def cells(page: Path, heading: str) -> Iterator[str]:
    """The code in the first column of every table that begins with this heading."""
    inside = False
    for line in page.read_text().splitlines():
        inside = line.startswith(f"| {heading} |") or (inside and line.startswith("|"))
        if inside:
            yield from re.findall(r"`([^`]+)`", line.split("|")[1])


def string_literals() -> list[str]:
    """Of the package; values in f-strings are line feeds."""
    found = []
    for path in (ROOT / "mmsam_ros").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (getattr(part, "value", "\n") for part in node.values)
                found.append("".join(p if isinstance(p, str) else "\n" for p in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_messages_that_troubleshooting_names_exist() -> None:
    page, literals = ROOT / "docs/troubleshooting.md", string_literals()
    messages, reasons = list(cells(page, "message")), list(cells(page, "reason"))
    assert min(len(messages), len(reasons)) > 10
    for message in messages:
        pieces = [re.escape(piece.strip("' ")) for piece in message.split("...")]
        pattern = re.compile(".*".join(pieces), re.DOTALL)
        assert any(pattern.search(literal) for literal in literals), message
    assert set(reasons) <= set(literals)


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert set(re.findall(r"[\w/]+\.md", text)) == pages


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_table(generate: ModuleType) -> None:
    asked = set()
    for page in (ROOT / "docs/reference").glob("*.md"):
        asked |= set(re.findall(r"^<!-- generate: (\w+) -->$", page.read_text(), re.MULTILINE))
    assert asked == set(generate.TABLES)


@pytest.mark.parametrize("name", ["parameters", "topics", "training", "cli"])
def test_tables_are_made_of_the_code(generate: ModuleType, name: str) -> None:
    expected = {"parameters": "`sync.deadline`", "topics": "`~/semantic`", "training":
                "`optimiser.lr`", "cli": "## mmsam bag calib"}  # fmt: skip
    text = generate.TABLES[name]()
    assert expected[name] in text
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({line.count(" | ") for line in tables}) <= 1


def test_yaml_can_be_read() -> None:
    paths = [ROOT / ".pre-commit-config.yaml", *(ROOT / ".github").rglob("*.yml")]
    assert len(paths) >= 4
    for path in paths:
        assert isinstance(yaml.safe_load(path.read_text()), dict), path


def test_docker_and_readme_install_the_same() -> None:
    """The packages of the README's `pip install` lines."""
    readme = " ".join(
        re.findall(r"^pip install -c \S+ (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    )
    docker = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    found = re.search(r"pip install --no-cache-dir --constraint \S+ (.+)", docker)
    assert found is not None
    assert sorted(found[1].split()) == sorted(readme.split())
