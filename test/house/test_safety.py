# SPDX-License-Identifier: Apache-2.0
"""The package runs no shell, evaluates no text, builds no objects out of files, and takes no path
from a message (docs/security.md).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

# Calls that are never made, by their dotted end; `*`: any function of that module.
FORBIDDEN = (
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.exec*", "os.spawn*",
    "pickle.*", "cPickle.*", "dill.*", "marshal.*", "shelve.*", "joblib.load", "yaml.load*",
    "yaml.safe_load*", "yaml.unsafe_load", "yaml.full_load", "yaml.Loader", "yaml.UnsafeLoader",
    "subprocess.getoutput", "subprocess.getstatusoutput", "pty.*", "code.*", "runpy.*",
    "tempfile.mktemp", "torch.hub.load*", "urllib.request.urlretrieve", "socket.*",
)  # fmt: skip
# File and callee that are allowed nevertheless -> why.
ALLOWED = {
    ("mmsam_ros/training/run.py", "yaml.safe_load"): "of what it has dumped itself",
}
# Who may start processes -> why; never with a shell, and never with words of a message.
STARTS = {
    "mmsam_ros/_util/machine.py": "git, for the revision in results",
}
# Rooms and files that see messages while the node runs, and may not open, make or remove files.
ON_MESSAGES = ("frames", "messages", "clouds", "calibration", "sync", "worker", "topics",
               "plausibility", "diagnostics", "watch", "notes", "sets", "outputs", "intake",
               "motion", "pack", "transforms", "timings", "control", "sync_stock")  # fmt: skip
FILES = re.compile(
    r"(^|\.)(open|read_text|read_bytes|write_text|write_bytes|unlink|mkdir|rmtree|rename|replace_file|"
    r"imread|imwrite|fromfile|tofile|load_file|save_file|write_atomic|atomic_path|Path)$"
)


def sources(root: Path) -> list[Path]:
    return [*sorted((root / "mmsam_ros").rglob("*.py")), *sorted((root / "launch").glob("*.py"))]


def dotted(node: ast.expr) -> str:
    """`a.b.c` of such an expression; what is no name is `?`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Full names of what is called: imported names are those of their module."""
    tree = ast.parse(path.read_text())
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = dotted(node.func).partition(".")
            yield names.get(first, first) + dot + rest, node


def forbidden(name: str) -> bool:
    for pattern in FORBIDDEN:
        begin = pattern.removesuffix("*")
        if name == pattern or (begin != pattern and name.startswith(begin)):
            return True
    return False


def keyword(call: ast.Call, name: str) -> object:
    """The constant that is given for a keyword; None if it is not."""
    values = (k.value for k in call.keywords if k.arg == name)
    return next((v.value for v in values if isinstance(v, ast.Constant)), None)


def faults(path: Path, name: str) -> Iterator[str]:
    for callee, call in calls(path):
        where = f"{name}:{call.lineno}: {callee}"
        if forbidden(callee) and (name, callee) not in ALLOWED:
            yield where
        if keyword(call, "shell"):
            yield f"{where} with a shell"
        if callee == "torch.load" and keyword(call, "weights_only") is not True:
            yield f"{where} without weights_only"
        if keyword(call, "allow_pickle"):
            yield f"{where} with pickles"
        if keyword(call, "weights_only") is False:
            yield f"{where} with weights_only=False"
        if callee.startswith("subprocess.") and name not in STARTS:
            yield f"{where} starts a process"


def test_nothing_forbidden_is_called(root: Path) -> None:
    found = [f for path in sources(root) for f in faults(path, str(path.relative_to(root)))]
    assert found == []


def test_what_is_allowed_is_used(root: Path) -> None:
    for file, callee in ALLOWED:
        assert callee in {name for name, _ in calls(root / file)}, file
    for file in STARTS:
        assert any(name.startswith("subprocess.") for name, _ in calls(root / file)), file


@pytest.mark.parametrize("module", ON_MESSAGES)
def test_no_path_comes_of_a_message(root: Path, module: str) -> None:
    """Where messages are handled, no file is opened at all."""
    path = root / "mmsam_ros/ros" / f"{module}.py"
    found = [f"{path.name}:{call.lineno}: {name}" for name, call in calls(path)
             if FILES.search(name)]  # fmt: skip
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.system('x')",
        "from os import system as run\nrun('x')",
        "import subprocess as s\ns.run('x', shell=True)",
        "import yaml\nyaml.load('x', Loader=None)",
        "import pickle\npickle.loads(b'')",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "eval('1')",
    ],
)
def test_the_scan_finds_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.py"
    path.write_text(text)
    assert list(faults(path, "a.py"))


def test_every_threat_names_a_test_that_exists(root: Path) -> None:
    text = (root / "docs/security.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    named = {n for row in rows for cell in row for n in re.findall(r"`(test/[\w/]+\.py)`", cell)}
    assert len(named) >= 8
    for name in named:
        assert (root / name).is_file(), name


def test_limits_are_documented(root: Path) -> None:
    from mmsam_ros.sensors import limits

    text = (root / "docs/security.md").read_text()
    for name, value in vars(limits).items():
        if name.startswith("MAX_"):
            assert f"| {value:,} |".replace(",", " ") in text, name
