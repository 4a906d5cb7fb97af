# SPDX-License-Identifier: Apache-2.0
"""What a ROS workspace sees of the package."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from mmsam_ros import __version__


def colcon(root: Path, *args: str) -> str:
    # what it tests is no part of the run that this is
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    command = [sys.executable, "-m", "colcon", *args]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_colcon_sees_an_ament_python_package(root: Path, tmp_path: Path) -> None:
    """An invalid package.xml would make colcon silently build a plain Python package."""
    listed = colcon(root, "--log-base", str(tmp_path), "list", "--base-paths", str(root))
    rows = [line.split("\t") for line in listed.splitlines()]
    assert ["mmsam_ros", "(ros.ament_python)"] in [[r[0], r[-1]] for r in rows]


@pytest.fixture(scope="module")
def prefix(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as colcon installs it."""
    base = tmp_path_factory.mktemp("colcon")
    colcon(root, "--log-base", str(base / "log"), "build", *places(root, base))
    return base / "install/mmsam_ros"


def places(root: Path, base: Path) -> list[str]:
    return ["--base-paths", str(root), "--build-base", str(base / "build"),
            "--install-base", str(base / "install")]  # fmt: skip


def test_colcon_test_runs_the_suite(root: Path, prefix: Path) -> None:
    """Two files of it, for the time."""
    base = prefix.parents[1]
    files = [f"test/sensors/test_{name}.py" for name in ("visibility", "encodings")]
    colcon(root, "--log-base", str(base / "log"), "test", *places(root, base),
           "--pytest-args", *files)  # fmt: skip
    said = colcon(root, "--log-base", str(base / "log"), "test-result", "--all",
                  "--test-result-base", str(base / "build"))  # fmt: skip
    summary = re.search(r"Summary: (\d+) tests, 0 errors, 0 failures, (\d+) skipped", said)
    assert summary, said
    assert int(summary[1]) > 20


def test_executables_lie_where_ros2_run_looks(prefix: Path) -> None:
    for name in ("segment", "segment_multi", "replay", "mmsam"):
        executable = prefix / "lib/mmsam_ros" / name
        assert os.access(executable, os.X_OK), executable
        # a shebang of another Python would not find torch
        assert executable.read_text().splitlines()[0] == f"#!{sys.executable}"


def test_share_holds_what_the_launch_file_needs(prefix: Path) -> None:
    share = prefix / "share/mmsam_ros"
    for path in ("package.xml", "launch/segment.launch.py", "config/segment.yaml",
                 "launch/mmsam_multi.launch.py", "config/nav2_semantic_layer.yaml",
                 "config/fastdds_shm.xml", "models/README.md"):  # fmt: skip
        assert (share / path).is_file(), path
    assert (prefix / "share/ament_index/resource_index/packages/mmsam_ros").is_file()


def test_package_xml(root: Path) -> None:
    package = ElementTree.parse(root / "package.xml").getroot()
    assert package.get("format") == "3"
    assert package.findtext("version") == __version__
    assert package.findtext("license") == "Apache-2.0"


def test_versions_agree(root: Path) -> None:
    tree = ast.parse((root / "setup.py").read_text())
    keywords = {
        k.arg: k.value for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords
    }
    version = keywords["version"]
    assert isinstance(version, ast.Constant)
    assert version.value == __version__


def test_pyproject_holds_tools_only(root: Path) -> None:
    import tomllib

    assert set(tomllib.loads((root / "pyproject.toml").read_text())) == {"tool"}


def test_files_stay_short(root: Path) -> None:
    lengths = {
        str(p.relative_to(root)): len(p.read_text().splitlines())
        for p in (root / "mmsam_ros").rglob("*.py")
    }
    assert {p: n for p, n in lengths.items() if n > 400} == {}
