# SPDX-License-Identifier: Apache-2.0
"""Commands read the node's parameter files and ROS arguments as the node does."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.interface import PARAMETERS
from mmsam_ros.ros.parameter_files import read_file, read_given, read_remaps
from mmsam_ros.ros.parameters import check_parameters


@pytest.mark.parametrize(
    ("node", "is_read"),
    [("/**", True), ("/**/mmsam", True), ("mmsam", True), ("/mmsam", True), ("/*", True),
     ("/front/mmsam", False), ("/*/mmsam", False), ("/mmsam2", False), ("/**/other", False)],
)  # fmt: skip
def test_names_of_nodes(tmp_path: Path, node: str, is_read: bool) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"{node}:\n  ros__parameters: {{sync: {{deadline: 0.5}}, device: cpu}}\n")
    if is_read:
        assert read_file(path) == {"sync.deadline": 0.5, "device": "cpu"}
    else:
        with pytest.raises(RosError, match="expected some of /mmsam"):
            read_file(path)


@pytest.mark.parametrize(
    "text",
    ["", "[1, 2]", "a: {b: 1}", "a: [", "/**: 3", "[" * 5000, "a: " + "9" * 5000, "a: &x {b: *x}",
     "/**: {ros__parameters: &x {b: *x}}"],
)  # fmt: skip
def test_what_is_no_parameter_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(RosError, match=r"p\.yaml"):
        read_file(tmp_path / "p.yaml")


def test_values_that_cannot_be_shown_are_refused() -> None:
    for value in ("0x" + "f" * 5000, "9" * 400, "9" * 5000, "[" * 5000):
        for name in ("sync.queue", "engine", "lidar.intensity_scale", "sync.deadline"):
            with pytest.raises(RosError, match=f"parameter {name}: found"):
                check_parameters(read_given([], [f"{name}:={value}"]), pytest.fail)


def test_later_ones_win_and_values_are_those_of_ros(tmp_path: Path) -> None:
    for name, value in (("a", "1e-3"), ("b", "2.0")):
        (tmp_path / name).write_text(
            f"/**:\n  ros__parameters:\n    sync.deadline: {value}\n    {name}: x\n"
        )
    files = [tmp_path / "b", tmp_path / "a"]
    given = read_given(files, ["thermal.invert:=true", "lidar.frame:=base_link", "sync.queue:=5"])
    assert given == {"sync.deadline": 1e-3, "a": "x", "b": "x", "thermal.invert": True,
                     "lidar.frame": "base_link", "sync.queue": 5}  # fmt: skip


def test_the_packages_file_gives_the_defaults(root: Path) -> None:
    warnings: list[str] = []
    given = read_file(root / "config/segment.yaml")
    assert check_parameters(given, warnings.append) == {row.name: row.default for row in PARAMETERS}
    assert not warnings
    check_parameters({"of.another": 1, "use_sim_time": True}, warnings.append)
    assert warnings == ["parameter 'of.another' does not exist and is ignored"]
    with pytest.raises(RosError, match="did you mean"):
        check_parameters({"sync.dedline": 1.0}, warnings.append)


def test_remappings() -> None:
    resolve = read_remaps(["camera/image:=/front/image", "/lidar/points:=scan"])
    names = ("camera/image", "/camera/image", "lidar/points", "thermal/image")
    assert [resolve(name) for name in names] == [
        "/front/image", "/front/image", "/scan", "/thermal/image",
    ]  # fmt: skip


def test_remappings_are_those_of_the_node() -> None:
    """The first rule counts, and TF may have any name."""
    resolve = read_remaps(["camera/image:=/a", "/camera/image:=/b", "/tf:=/robot/tf"])
    assert resolve("camera/image") == "/a"
    with pytest.raises(RosError, match=r"-r, inputs: unknown 'lidar/pionts'; did you mean 'lidar/"):
        read_remaps(["lidar/pionts:=/velodyne"])
    with pytest.raises(RosError, match=r"unknown '~/semantic'"):
        read_remaps(["~/semantic:=/front/semantic"])
