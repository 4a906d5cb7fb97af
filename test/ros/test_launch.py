# SPDX-License-Identifier: Apache-2.0
"""The launch file, as far as it can be checked without `ros2 launch` (not on pip).

Its functions run with recorders in place of the launch packages' constructors, which shows that it
is valid Python, which actions it makes and with what; not that `launch` accepts them.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from domains import free_domain
from harness import nano_weights, running
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from mmsam_ros.ros.interface import INPUTS

SUBSTITUTES = {
    "launch": ["LaunchDescription"],
    "launch.actions": [
        "DeclareLaunchArgument",
        "ExecuteProcess",
        "OpaqueFunction",
        "RegisterEventHandler",
    ],
    "launch.event_handlers": ["OnProcessIO"],
    "launch.conditions": ["IfCondition"],
    "launch_ros": [],
    "launch_ros.actions": ["Node"],
}


@dataclass
class Recorded:
    """A constructor call."""

    kind: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def recorder(kind: str) -> Callable[..., Recorded]:
    return lambda *args, **kwargs: Recorded(kind, args, kwargs)


@pytest.fixture
def launch(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The launch file as a module; `share` is the repository."""
    for module, names in SUBSTITUTES.items():
        fake = types.ModuleType(module)
        for name in names:
            setattr(fake, name, recorder(name))
        monkeypatch.setitem(sys.modules, module, fake)
    substitutions = types.ModuleType("launch.substitutions")

    class LaunchConfiguration:
        def __init__(self, name: str) -> None:
            self.name = name

        def perform(self, context: dict[str, str]) -> str:
            return context[self.name]

    substitutions.LaunchConfiguration = LaunchConfiguration  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "launch.substitutions", substitutions)
    prefix = tmp_path / "prefix"
    (prefix / "share/ament_index/resource_index/packages").mkdir(parents=True)
    (prefix / "share/ament_index/resource_index/packages/mmsam_ros").touch()
    (prefix / "share/mmsam_ros").symlink_to(root)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(prefix))
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "RMW_IMPLEMENTATION"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location(
        "segment_launch", root / "launch/segment.launch.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def context(launch: Any, **values: str) -> dict[str, str]:
    return {name: default for name, default, _ in launch.ARGUMENTS} | values


def test_every_argument_is_declared(launch: Any) -> None:
    description = launch.generate_launch_description()
    actions = description.args[0]
    declared = {a.args[0] for a in actions if a.kind == "DeclareLaunchArgument"}
    assert declared >= {
        "weights", "device", "precision", "params_file", "bag", "loop", "rate", "rviz",
        "image_topic", "points_topic", "thermal_topic",
    }  # fmt: skip
    used = {
        node.args[0].value
        for node in ast.walk(ast.parse(Path(launch.__file__).read_text()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "LaunchConfiguration"
        and isinstance(node.args[0], ast.Constant)
    }
    assert used <= declared


def test_node_gets_weights_parameters_and_topics(launch: Any, root: Path) -> None:
    given = context(launch, weights="/w.safetensors", image_topic="/cam", calibration="/c.yaml")
    (node,) = launch.start(given)
    assert (node.kwargs["package"], node.kwargs["executable"]) == ("mmsam_ros", "segment")
    assert node.kwargs["name"] == "mmsam"
    file, calibration, values = node.kwargs["parameters"]
    assert "/**/mmsam" in yaml.safe_load(Path(file).read_text())
    assert calibration == "/c.yaml"
    assert values["weights"] == "/w.safetensors"
    assert ("camera/image", "/cam") in node.kwargs["remappings"]
    profile = node.kwargs["additional_env"]["FASTRTPS_DEFAULT_PROFILES_FILE"]
    assert Path(profile).resolve() == root / "config/fastdds_shm.xml"


def test_the_topics_are_those_that_the_node_reads(launch: Any) -> None:
    assert {topic for topic, _ in launch.TOPICS} <= {topic.name for topic in INPUTS}
    defaults = {name: default for name, default, _ in launch.ARGUMENTS}
    assert all(defaults[argument] == topic for topic, argument in launch.TOPICS)


def test_without_arguments_the_parameters_file_decides(launch: Any) -> None:
    (node,) = launch.start(context(launch, params_file="/mine.yaml"))
    assert node.kwargs["parameters"] == ["/mine.yaml"]


@pytest.mark.dds
def test_the_node_takes_every_parameter_and_topic(launch: Any, tmp_path: Path) -> None:
    """What the launch file makes of its arguments, given to the node as `launch` does."""
    weights = nano_weights(tmp_path / "nano.safetensors", "synthetic_rgb_lidar_thermal")
    topics = {argument: f"/my/{argument}" for _, argument in launch.TOPICS}
    given = {"weights": str(weights), "device": "cpu", "precision": "fp32"}
    (started,) = launch.start(context(launch, **given, registration="rotation", **topics))
    file, values = started.kwargs["parameters"]
    assert len(values) == 4
    words = ["--params-file", file]
    for name, value in values.items():
        words += ["-p", f"{name}:={value}"]
    for source, target in started.kwargs["remappings"]:
        words += ["-r", f"{source}:={target}"]
    kinds = {"image_topic": Image, "camera_info_topic": CameraInfo, "thermal_topic": Image,
             "thermal_info_topic": CameraInfo, "lidar_image_topic": Image}  # fmt: skip
    with running(free_domain(10), *words) as (node, client):
        publishers = [client.publisher(kind, topics[name]) for name, kind in kinds.items()]
        client.spin_until(
            lambda: all(p.get_subscription_count() for p in publishers), "every topic is read"
        )
        client.node.destroy_publisher(publishers[-1])  # of rasters, which points replace
        points = client.publisher(PointCloud2, topics["points_topic"])
        client.spin_until(points.get_subscription_count, "points are read")
        assert client.diagnostics()["precision"] == "fp32"
        assert "does not exist" not in node.output
    assert set(topics) == {*kinds, "points_topic"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp"),
        ("FASTRTPS_DEFAULT_PROFILES_FILE", "/own.xml"),
    ],
)
def test_the_profile_is_not_forced(
    launch: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert launch.shared_memory() == {}


def test_the_bag_starts_when_the_node_is_ready(
    launch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, node = launch.start(context(launch, bag="/b", rate="0.5", loop="true"))
    watch = handler.args[0]
    assert watch.kwargs["target_action"] is node
    on_stderr = watch.kwargs["on_stderr"]
    assert watch.kwargs["on_stdout"] is on_stderr, "where RCUTILS_LOGGING_USE_STDOUT sends logs"
    assert on_stderr(types.SimpleNamespace(text=b"[WARN] loading")) is None
    (ours,) = on_stderr(types.SimpleNamespace(text=b"[INFO] [mmsam]: ready: weights"))
    assert (ours.kwargs["package"], ours.kwargs["executable"]) == ("mmsam_ros", "replay")
    assert ours.kwargs["arguments"] == ["/b", "--rate", "0.5", "--loop"]
    assert on_stderr(types.SimpleNamespace(text=b"ready: again")) is None
    monkeypatch.setattr(launch, "has_bag_play", lambda: True)
    stock = launch.player(context(launch, bag="/b"))
    assert stock.kwargs["cmd"][:6] == ["ros2", "bag", "play", "/b", "--rate", "1.0"]
