# SPDX-License-Identifier: Apache-2.0
"""rclpy's log files: a folder that can be written, on any machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmsam_ros.ros.logs import ensure_log_folder


@pytest.mark.parametrize(
    ("name", "below"), [("ROS_LOG_DIR", ""), ("ROS_HOME", "log"), ("HOME", ".ros/log")]
)
def test_a_folder_that_can_be_written_stays(
    tmp_path: Path, name: str, below: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {"HOME": "/dev/null", name: str(tmp_path)}
    ensure_log_folder(environment)
    assert environment == {"HOME": "/dev/null", name: str(tmp_path)}
    assert (tmp_path / below).is_dir()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "given", [{}, {"HOME": ""}, {"HOME": "/dev/null"}, {"ROS_LOG_DIR": "/dev/null/x"}]
)
def test_rclpy_starts_without_a_folder_of_its_own(given: dict[str, str]) -> None:
    code = (
        "import rclpy, rclpy.logging; from mmsam_ros.ros.logs import ensure_log_folder;"
        "ensure_log_folder();"
        "rclpy.init(); rclpy.logging.get_logger('x').info('started'); rclpy.shutdown()"
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("HOME", "ROS_HOME", "ROS_LOG_DIR")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert "log files go to" in lines[0]
    assert lines[0].endswith("ROS_LOG_DIR sets another folder")
    assert "started" in lines[1]
