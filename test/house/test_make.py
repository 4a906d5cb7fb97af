# SPDX-License-Identifier: Apache-2.0
"""The Makefile's commands hold in a shell that has sourced a ROS."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

PLANTED = "planted by test_make"
PLANTED_VARIABLES = ("PYTHONPATH", "AMENT_PREFIX_PATH", "LD_LIBRARY_PATH", "COLCON_PREFIX_PATH",
         "CMAKE_PREFIX_PATH", "PYTHONHOME", "RMW_IMPLEMENTATION",
         "_ROS_WHEELS_BOOTSTRAP_COMPLETE")  # fmt: skip


@pytest.fixture
def sourced(tmp_path: Path) -> dict[str, str]:
    """The environment of a sourced ROS whose packages do not go with ours.

    A numpy that cannot be imported, and a plugin that pytest finds by itself and that fails, as
    launch_testing of Jazzy does under pytest 9.
    """
    (tmp_path / "numpy.py").write_text(f"raise ImportError({PLANTED!r})")
    (tmp_path / "planted_plugin.py").write_text(f"raise RuntimeError({PLANTED!r})")
    info = tmp_path / "planted_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pytest11]\nplanted = planted_plugin\n")
    of_this_run = ("PYTEST_", "MAKE", "MFLAGS")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(of_this_run)}
    return inherited | dict.fromkeys(PLANTED_VARIABLES, str(tmp_path))


def test_no_command_gets_what_a_sourced_ros_sets(root: Path, sourced: dict[str, str]) -> None:
    command = ["make", "--eval=environment: ; @env", "environment"]
    done = subprocess.run(command, cwd=root, env=sourced, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert "HOME" in names
    assert not names & set(PLANTED_VARIABLES)


@pytest.mark.slow
def test_tests_run_in_a_shell_that_has_sourced_a_ros(root: Path, sourced: dict[str, str]) -> None:
    if not (root / ".venv/.installed").exists():
        pytest.skip("this is not the Makefile's environment: .venv is missing")
    # one imports numpy, one rclpy
    tests = "test/sensors/test_encodings.py test/ros/test_parameters.py::test_defaults"
    command = ["make", "--assume-old=.venv/.installed", "test", f"TESTS={tests}", "WORKERS=1"]
    done = subprocess.run(command, cwd=root, env=sourced, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert PLANTED not in done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.slow
def test_the_planted_packages_would_be_seen(root: Path, sourced: dict[str, str]) -> None:
    """Without the Makefile."""
    command = [str(root / ".venv/bin/python"), "-m", "pytest", "test/sensors/test_encodings.py"]
    if not Path(command[0]).exists():
        pytest.skip("this is not the Makefile's environment: .venv is missing")
    environment = {k: v for k, v in sourced.items() if k != "PYTHONHOME"}  # Python would not start
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert PLANTED in done.stdout + done.stderr
