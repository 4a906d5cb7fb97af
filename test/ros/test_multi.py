# SPDX-License-Identifier: Apache-2.0
"""Several cameras in one process: arguments, one copy of the weights, and masks of both."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from domains import free_domain
from harness import Client, image
from launching import Launched, defaults, load
from sensor_msgs.msg import Image
from test_node import pixels, stamp_of

from mmsam_ros.inference import Segmenter
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.interface import PARAMETERS
from mmsam_ros.ros.multi import SharedSegmenters, split_cameras
from mmsam_ros.sensors import Frame


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return load(tmp_path / "prefix", monkeypatch, "mmsam_multi.launch.py")


def test_arguments_of_all_and_of_each() -> None:
    words = "--ros-args -p a:=1 -- --camera front --ros-args -r x:=y -- --camera left"
    common, cameras = split_cameras(words.split())
    assert common == ["--ros-args", "-p", "a:=1", "--"]
    assert cameras == {"front": ["--ros-args", "-r", "x:=y", "--"], "left": []}


@pytest.mark.parametrize(
    "words",
    ["", "--ros-args", "--camera", "--camera a --camera a", "--camera 1a", "--camera a/b",
     "--camera a-b"],
)  # fmt: skip
def test_wrong_cameras_are_refused(words: str) -> None:
    with pytest.raises(RosError, match="--camera"):
        split_cameras(words.split())


def parameters(weights: Path, **instead: Any) -> dict[str, Any]:
    return {row.name: row.default for row in PARAMETERS} | {
        "weights": str(weights), "device": "cpu", **instead
    }  # fmt: skip


def test_one_copy_of_the_weights(weights: Path, tmp_path: Path) -> None:
    shared = SharedSegmenters()
    first = shared.load(parameters(weights), print)
    assert shared.load(parameters(weights), print) is first
    other = shared.load(parameters(weights, **{"geometry.mode": "resize"}), print)
    assert other is not first
    assert other.turn is first.turn, "one device"
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights.read_bytes())
    of_copy = shared.load(parameters(copy), print)
    copy.unlink()
    copy.write_bytes(weights.read_bytes() + b"")
    assert shared.load(parameters(copy), print) is not of_copy, "the file is another one"


def test_what_nobody_uses_is_freed(weights: Path) -> None:
    shared = SharedSegmenters()
    shared.load(parameters(weights), print)
    assert len(shared._loaded) == 0


def test_threads_take_turns(weights: Path) -> None:
    """Never two inferences at once, and the same masks as of one thread."""
    segmenter = SharedSegmenters().load(parameters(weights), print)
    rng = np.random.default_rng(0)
    frames = [Frame(rng.integers(0, 256, (96, 128, 3), np.uint8), {}) for _ in range(4)]
    expected = [segmenter(frame).labels for frame in frames]
    running, most, lock, engine = 0, 0, threading.Lock(), segmenter.engine

    class Counted:
        name, device = engine.name, engine.device

        def __call__(self, inputs: Any) -> Any:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            logits = engine(inputs)
            with lock:
                running -= 1
            return logits

    segmenter.engine = Counted()
    found: dict[int, list[np.ndarray]] = {}

    def work(index: int) -> None:
        found[index] = [segmenter(frames[index]).labels for _ in range(3)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    for index, labels in found.items():
        assert all(np.array_equal(one, expected[index]) for one in labels)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"cameras": ""}, "cameras: found ''"),
        ({"cameras": "a,a"}, "cameras: found 'a,a'"),
        ({"cameras": "a,"}, "cameras: found 'a,'"),
        ({"cameras": "a", "weights": "/absent"}, "weights: /absent: no such file"),
        ({"cameras": "a", "params_folder": "/absent"}, "params_folder: /absent: no such folder"),
        ({"cameras": "a,b", "params_folder": "/"}, "found .*, expected a.yaml or b.yaml"),
        ({"cameras": "a", "thermal_topic": "/"}, "thermal_topic: is empty, expected a topic"),
    ],
)
def test_wrong_arguments_are_said_before_anything_starts(
    launch: Any, values: dict[str, str], reason: str
) -> None:
    with pytest.raises(RuntimeError, match=reason):
        launch.start(defaults(launch, **values))


def test_a_misspelt_argument_is_refused(launch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by the launch file of one camera, of whose arguments not all exist here."""
    context = defaults(launch, cameras="front")
    context.argv = ["cameras:=front", "param_folder:=/calib", "bag:=/b"]
    monkeypatch.setattr("sys.argv", ["ros2", "launch", "mmsam_ros", "mmsam_multi.launch.py"])
    with pytest.raises(RuntimeError, match=r"'bag' does not exist; .*'param_folder'"):
        launch.start(context)
    monkeypatch.setattr("sys.argv", ["ros2", "launch", "robot", "robot.launch.py"])
    launch.start(context)


@pytest.mark.parametrize("one", ["true", "false"])
def test_what_is_not_given_is_as_the_parameter_file_says(launch: Any, one: str) -> None:
    for values, given in (
        ({}, []), ({"use_sim_time": "true"}, ["use_sim_time"]),
        ({"autostart": "false"}, ["autostart"]),
    ):  # fmt: skip
        context = defaults(launch, cameras="front", one_process=one, **values)
        (node,) = (a.kwargs for a in launch.start(context) if a.kind == "Node")
        words = [w.partition(":=")[0] for w in node.get("arguments", []) if "_time:" in w
                 or "autostart:" in w]  # fmt: skip
        found = [key for p in node.get("parameters", []) if isinstance(p, dict) for key in p]
        assert words + found == given


@pytest.mark.parametrize(("one", "of"), [("true", "segment_multi"), ("false", "segment")])
def test_a_process_that_ends_by_a_fault_is_started_again(launch: Any, one: str, of: str) -> None:
    """As the node of one camera; the weights are a name of the registry."""
    values = {"cameras": "front,left", "one_process": one, "weights": "tiny_road"}
    context = defaults(launch, **values)
    actions = launch.start(context)
    watched = [a.args[0] for a in actions if a.kind == "RegisterEventHandler"]
    ends = [handler.kwargs for handler in watched if handler.kind == "OnProcessExit"]
    assert len(ends) == (1 if one == "true" else 2)
    event = SimpleNamespace(returncode=-9)
    said, timer = ends[-1]["on_exit"](event, context)
    assert "exit code -9" in said.kwargs["msg"]
    (again,) = [a.kwargs for a in timer.kwargs["actions"] if a.kind == "Node"]
    assert again == ends[-1]["target_action"].kwargs
    assert again["executable"] == of
    event.returncode = 2
    with pytest.raises(RuntimeError, match="exit code 2"):
        ends[-1]["on_exit"](event, context)


def test_a_group_around_the_file_reaches_all_cameras(launch: Any) -> None:
    """Launch appends what it sets to the words of a process, which are those of its last node."""
    context = defaults(launch, cameras="front,left")
    context.values["ros_namespace"] = "/robot1"
    said, *actions = launch.start(context)
    assert "a process for each camera" in said.kwargs["msg"]
    assert "ros_namespace" in said.kwargs["msg"]
    nodes = [a.kwargs for a in actions if a.kind == "Node"]
    assert [(n["executable"], n["namespace"]) for n in nodes] == [
        ("segment", "front"), ("segment", "left"),
    ]  # fmt: skip


def test_separate_processes(launch: Any, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "left.yaml").touch()
    values = {"cameras": "front,left", "one_process": "false", "weights": str(weights),
              "params_folder": str(tmp_path), "points_topic": "/lidar/points"}  # fmt: skip
    said, *actions = launch.start(defaults(launch, **values))
    assert said.kwargs["msg"] == f"params_folder: {tmp_path / 'front.yaml'} is not there"
    nodes = [a.kwargs for a in actions if a.kind == "Node"]
    assert [n["namespace"] for n in nodes] == ["front", "left"]
    assert {n["executable"] for n in nodes} == {"segment"}
    assert [len(n["parameters"]) for n in nodes] == [2, 3]
    assert nodes[1]["parameters"][1] == str(tmp_path / "left.yaml")
    assert all(("lidar/points", "/lidar/points") in n["remappings"] for n in nodes)


@pytest.mark.dds
def test_both_cameras_of_one_process_get_masks(launch: Any, weights: Path, tmp_path: Path) -> None:
    """Of their own images; the parameters of one file are that camera's alone."""
    own = "/**/mmsam:\n  ros__parameters:\n    confidence_threshold: 1.0\n"
    (tmp_path / "left.yaml").write_text(own)
    domain = free_domain(9)
    values = {"cameras": "front,left", "weights": str(weights), "device": "cpu",
              "params_folder": str(tmp_path)}  # fmt: skip
    launched, client = Launched(launch, defaults(launch, **values), domain), Client(domain)
    try:
        rng = np.random.default_rng(1)
        pictures = {n: rng.integers(0, 256, (96, 128, 3), np.uint8) for n in ("front", "left")}
        cameras = {n: client.publisher(Image, f"/{n}/camera/image") for n in pictures}
        masks = {n: client.record(Image, f"/{n}/mmsam/semantic") for n in pictures}
        client.spin_until(
            lambda: all(c.get_subscription_count() for c in cameras.values()) or launched.code,
            "both nodes subscribe",
        )
        stamp = 0

        def answered() -> bool:
            nonlocal stamp
            stamp += 10**9
            for name, camera in cameras.items():
                camera.publish(image(stamp, pictures[name], "rgb8"))
            return all(masks.values()) or launched.code is not None

        client.spin_until(answered, "masks of both")
        segmenter = Segmenter.load(weights, device="cpu")
        front = segmenter(Frame(pictures["front"], {}))
        assert np.array_equal(pixels(masks["front"][0]), front.labels)
        left = segmenter(Frame(pictures["left"], {}))
        assert left.confidence is not None
        unsure = np.where(left.confidence < 255, 255, left.labels)
        assert np.array_equal(pixels(masks["left"][0]), unsure)
        assert stamp_of(masks["left"][0]) % 10**9 == 0
    finally:
        launched.interrupt()
        client.close()
    assert launched.wait() == 0, "\n".join(launched.lines)
