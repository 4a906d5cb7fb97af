# SPDX-License-Identifier: Apache-2.0
"""Rooms import only what they may, and only `ros/` (and cli's replay) imports ROS."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

# a name with a dot: this module of the room alone
MAY_IMPORT = {
    "_util": set(),
    "sensors": set(),
    "model": set(),
    "weights": {"model", "sensors"},
    "inference": {"model", "weights", "sensors"},
    "data": {"sensors"},
    "world": {"sensors", "data.folder_writer", "data.errors"},
    "training": {"model", "weights", "data", "sensors", "inference"},
    "ros": {"inference", "weights", "sensors"},
    "cli": {"sensors", "model", "weights", "inference", "data", "training", "ros", "world"},
}
ROS_MODULES = {
    "ament_index_python",
    "builtin_interfaces",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "rcl_interfaces",
    "sensor_msgs_py",
    "std_srvs",
    "cv_bridge",
    "diagnostic_msgs",
    "message_filters",
    "rclpy",
    "rosgraph_msgs",
    "sensor_msgs",
    "std_msgs",
    "tf2_ros",
    "vision_msgs",
}


def imported(path: Path) -> Iterator[str]:
    """Absolute names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_arrows(root: Path, room: str) -> None:
    files = sorted((root / "mmsam_ros" / room).rglob("*.py"))
    assert files, f"room {room} is empty"
    allowed = tuple(f"mmsam_ros.{name}." for name in MAY_IMPORT[room] | {room, "_util"})
    for path in files:
        for module in imported(path):
            if module.startswith("mmsam_ros.") and module != "mmsam_ros.__version__":
                assert f"{module}.".startswith(allowed), f"{path}: {module}"


def test_no_circle_between_files(root: Path) -> None:
    files = sorted((root / "mmsam_ros").rglob("*.py"))
    parts = {path: path.relative_to(root).with_suffix("").parts for path in files}
    names = {path: ".".join(p[: -1 if p[-1] == "__init__" else None]) for path, p in parts.items()}
    known = set(names.values()) - {"mmsam_ros"}  # holds the version alone
    graph: dict[str, set[str]] = {}
    for path, name in names.items():
        modules = set(imported(path))
        modules |= {module.rpartition(".")[0] for module in modules - known}
        graph[name] = modules & known
    TopologicalSorter(graph).prepare()  # CycleError names the files


def test_every_room_is_known(root: Path) -> None:
    rooms = {p.name for p in (root / "mmsam_ros").iterdir() if p.is_dir()} - {"__pycache__"}
    assert rooms == set(MAY_IMPORT)


def test_only_ros_imports_ros(root: Path) -> None:
    for path in sorted((root / "mmsam_ros").rglob("*.py")):
        room = path.relative_to(root / "mmsam_ros").parts[0]
        if room != "ros" and path != root / "mmsam_ros/cli/replay.py":
            foreign = {m.split(".")[0] for m in imported(path)} & ROS_MODULES
            assert not foreign, f"{path}: {foreign}"


def test_imports_without_ros_and_without_cuda(root: Path) -> None:
    """All rooms but `ros` import in a process where ROS cannot be found."""
    rooms = ", ".join(f"mmsam_ros.{room}" for room in sorted(MAY_IMPORT) if room != "ros")
    code = f"""
import sys

class NoRos:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(ROS_MODULES)!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoRos())
import {rooms}, mmsam_ros.cli.main
mmsam_ros.cli.main.build_parser()
import torch
assert not torch.cuda.is_initialized()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


@pytest.mark.parametrize("room", ["sensors", "world"])
def test_rooms_without_torch(root: Path, room: str) -> None:
    code = f"""
import sys
import mmsam_ros.{room}
heavy = {{"torch", "scipy", "PIL", "rclpy"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_start_imports_torch_alone(root: Path) -> None:
    """What a frame needs is there without timm and torchvision, which double the time to load."""
    code = """
import sys
import numpy as np
from mmsam_ros.inference import Segmenter
from mmsam_ros.sensors import Frame
from mmsam_ros.weights import default_weights
Segmenter.load(default_weights(), "cpu")(Frame(np.zeros((72, 96, 3), np.uint8), {}))
heavy = {"timm", "torchvision", "segment_anything", "torch._dynamo", "sympy", "lightning"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_files_are_read_without_torch(root: Path) -> None:
    code = """
import sys
import mmsam_ros.cli.data
assert not {"torch", "torchvision"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
