# SPDX-License-Identifier: Apache-2.0
"""rclpy's log files: a folder that can be written, on any machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rclpy.logging import get_logger

from mmsam_ros.ros.calibration import Extrinsics
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.logs import ensure_log_folder
from mmsam_ros.ros.watch import Watch
from mmsam_ros.sensors.limits import MAX_TEXT


@pytest.mark.parametrize(
    ("name", "below"), [("ROS_LOG_DIR", ""), ("ROS_HOME", "log"), ("HOME", ".ros/log")]
)
def test_a_folder_that_can_be_written_stays(
    tmp_path: Path, name: str, below: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {"HOME": "/dev/null", name: str(tmp_path)}
    ensure_log_folder(environment)
    assert environment["ROS_LOG_DIR"] == str(tmp_path / below)
    assert (tmp_path / below).is_dir()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("name", "below"), [("ROS_LOG_DIR", "x"), ("ROS_HOME", "x/log")])
def test_a_tilde_is_the_home(
    tmp_path: Path, name: str, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    environment = {name: "~/x"}
    ensure_log_folder(environment)
    assert environment["ROS_LOG_DIR"] == str(tmp_path / below)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_no_folder_at_all_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(RosError, match=r"^HOME is not set, and neither can .*: set ROS_LOG_DIR"):
        ensure_log_folder({})


@pytest.mark.parametrize("home", [None, "", "/dev/null"])
def test_the_node_starts_without_a_home(home: str | None) -> None:
    """Up to its weights, which are not there."""
    words = ["-m", "mmsam_ros.ros.main", "--ros-args", "-p", "weights:=~nosuchuser/w.safetensors"]
    kept = {k: v for k, v in os.environ.items() if k not in ("HOME", "ROS_HOME", "ROS_LOG_DIR")}
    given = {} if home is None else {"HOME": home}
    done = subprocess.run(
        [sys.executable, *words], env=kept | given, capture_output=True, text=True
    )
    first, last = done.stderr.splitlines()
    assert done.returncode == 2
    assert "log files go to" in first
    assert "weights: ~nosuchuser/w.safetensors: no such file" in last


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


def test_the_end_of_a_bag_and_a_lost_sensor_later_go_to_one_logger(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """rclpy raises where one line of code logs with two severities, which would end the node."""
    now, log = [100.0], get_logger("watch")
    silent = {"published": False, "topic": "/t", "explain_silence": str}
    streams = [SimpleNamespace(name=name, last=None, **silent) for name in ("camera", "lidar")]
    watch = Watch(streams, dict, {"lidar": 0.0}, log.warning, log.info, lambda: now[0])
    for coming in (("camera", "lidar"), (), ("camera", "lidar"), ("camera",)):
        for _ in range(10):
            now[0] += 1.0
            for stream in streams:
                stream.last = now[0] if stream.name in coming else stream.last
            watch.look()
    said = capfd.readouterr().err.splitlines()
    assert [(line[1:5], line.split()[3]) for line in said] == [
        ("INFO", "camera:"), ("WARN", "lidar:")
    ]  # fmt: skip


def test_poses_of_parameters_and_of_tf_go_to_one_logger(capfd: pytest.CaptureFixture[str]) -> None:
    known = []

    def find(*_: object) -> tuple[np.ndarray, bool]:
        if not known:
            raise RosError("TF says: no such frame")
        return np.eye(4), False

    node = SimpleNamespace(get_logger=lambda: get_logger("poses"))
    given = {"lidar": [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]}
    poses = Extrinsics(node, given, SimpleNamespace(find=find))
    asked = ("lidar", "camera", "velodyne", 10**9)
    assert poses.lookup(*asked)[0, 3] == 1.0
    known.append(True)
    assert poses.lookup(*asked)[0, 3] == 0.0
    said = capfd.readouterr().err.splitlines()
    assert [line[1:5] for line in said] == ["WARN", "INFO"]
    poses.lookup("lidar", "camera", "v" * 10**6, asked[-1])
    assert max(map(len, (*poses._said, *poses._origin.values()))) < 3 * MAX_TEXT
