# SPDX-License-Identifier: Apache-2.0
"""The launch file with real processes over DDS: its defaults give masks, and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from domains import free_domain
from geometry_msgs.msg import TwistStamped
from harness import Client, running
from launching import Launched, defaults, started, weights_of_a_run
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from support.networks import random_network, spec_of

from mmsam_ros.cli.main import main as mmsam
from mmsam_ros.weights import save_model


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights_of_a_run(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the README's command makes it, only smaller."""
    folder = tmp_path_factory.mktemp("bags") / "drive"
    assert mmsam(["synth", "bag", str(folder), "--seconds", "2", "--size", "160x120"]) == 0
    return folder


@pytest.mark.dds
def test_a_synthetic_bag_gives_masks_with_all_defaults(
    launch: Any, drive: Path, weights: Path
) -> None:
    """Weights aside, as the package's own take long. Looped, so that a busy machine has time."""
    values = {"bag": str(drive), "weights": str(weights), "loop": "true"}
    running = Launched(launch, defaults(launch, **values), free_domain(3))
    client = Client(free_domain(3))
    try:
        masks = client.record(Image, "/mmsam/semantic")
        client.spin_until(lambda: masks or running.code is not None, "a mask")
        assert (masks[0].height, masks[0].width) == (120, 160)
        client.spin_until(
            lambda: int(client.diagnostics().get("fused.camera+lidar+thermal", 0)) >= 8,
            "masks with all three sensors",
        )
    finally:
        client.close()
        running.interrupt()
    assert running.wait() == 0, running.lines
    assert f"calibration: {drive / 'calibration.yaml'}, found beside the bag" in running.lines[0]
    text = "\n".join(running.lines)
    assert "Traceback" not in text
    assert "refused" not in text


@pytest.mark.dds
def test_the_launch_ends_with_the_node(launch: Any, weights: Path, tmp_path: Path) -> None:
    params = tmp_path / "wrong.yaml"
    params.write_text("/**/mmsam: {ros__parameters: {lidar: {slop: near}}}")
    running = Launched(launch, defaults(launch, params_file=str(params)), free_domain(4))
    assert running.wait() == 1
    assert any("cannot start: parameter lidar.slop" in line for line in running.lines)
    assert "the node has ended with exit code 2" in running.lines[-1]


@pytest.mark.dds
def test_a_node_that_is_killed_is_started_again(launch: Any, weights: Path) -> None:
    running = Launched(launch, defaults(launch, weights=str(weights)), free_domain(6))
    client = Client(free_domain(6))
    try:

        def ready() -> int:
            return sum("ready: " in line for line in running.lines)

        client.spin_until(ready, "the node is ready")
        running._processes[0].kill()
        client.spin_until(lambda: ready() == 2, "another one is ready")
        assert any("exit code -9, see its log; it is started again in 1 s" in line
                   for line in running.lines)  # fmt: skip
    finally:
        client.close()
        running.interrupt()
    assert running.wait() == 0


@pytest.mark.dds
def test_a_node_that_was_ready_is_started_until_it_can_start(
    launch: Any, weights: Path, tmp_path: Path
) -> None:
    """What it lacks meanwhile are its weights; a GPU that is lost would be the same."""
    own, away = tmp_path / "own.safetensors", tmp_path / "away"
    own.write_bytes(weights.read_bytes())
    values = {"weights": str(own), "device": "cpu"}
    running = Launched(launch, defaults(launch, **values), free_domain(7))
    client = Client(free_domain(7))

    def said(word: str) -> list[str]:
        return [line for line in running.lines if word in line]

    try:
        client.spin_until(lambda: said("ready: "), "the node is ready")
        assert launch.device_of(said("ready: ")[0].encode()) == "cpu"
        own.rename(away)
        running._processes[0].kill()
        client.spin_until(
            lambda: said("exit code 2, see its log; it is started again in "),
            "a node that cannot start",
        )
        away.rename(own)
        client.spin_until(lambda: len(said("ready: ")) == 2, "another one is ready")
    finally:
        client.close()
        running.interrupt()
    assert running.wait() == 0


@pytest.mark.dds
def test_the_launch_ends_with_a_bag_that_cannot_be_played(
    launch: Any, weights: Path, tmp_path: Path
) -> None:
    bag = tmp_path / "cut.mcap"
    bag.write_bytes(b"no bag")
    values = {"bag": str(bag), "weights": str(weights)}
    running = Launched(launch, defaults(launch, **values), free_domain(5))
    assert running.wait() == 1
    assert any("replay: error: " in line and str(bag) in line for line in running.lines)
    assert any("the bag was not played (exit code 2)" in line for line in running.lines)


@pytest.mark.dds
def test_the_node_takes_every_parameter_and_topic(launch: Any, weights: Path) -> None:
    """What the launch file makes of its arguments, given to the node as `launch` does."""
    topics = {argument: f"/my/{argument}" for _, argument in launch.TOPICS}
    given = {"weights": str(weights), "device": "cpu", "precision": "fp32"}
    node, _ = started(launch, **given, registration="rotation", **topics)
    file, values = node.kwargs["parameters"]
    assert len(values) == 4
    words = ["--params-file", file]
    for name, value in values.items():
        words += ["-p", f"{name}:={value!r}"]
    words += ["-p", "lidar.motion:=twist"]
    for source, target in node.kwargs["remappings"]:
        words += ["-r", f"{source}:={target}"]
    kinds = {"image_topic": Image, "camera_info_topic": CameraInfo, "thermal_topic": Image,
             "thermal_info_topic": CameraInfo, "twist_topic": TwistStamped,
             "lidar_image_topic": Image}  # fmt: skip
    with running(free_domain(10), *words) as (process, client):
        publishers = [client.publisher(kind, topics[name]) for name, kind in kinds.items()]
        client.spin_until(
            lambda: all(p.get_subscription_count() for p in publishers), "every topic is read"
        )
        client.node.destroy_publisher(publishers[-1])  # of rasters, which points replace
        points = client.publisher(PointCloud2, topics["points_topic"])
        client.spin_until(points.get_subscription_count, "points are read")
        assert client.diagnostics()["precision"] == "fp32"
        assert "does not exist" not in process.output
    assert set(topics) == {*kinds, "points_topic", "event_topic", "depth_topic"}


@pytest.mark.dds
@pytest.mark.parametrize("sensor", ["event", "depth"])
def test_the_node_takes_the_topic_of_another_sensor(
    launch: Any, tmp_path: Path, sensor: str
) -> None:
    path, spec = tmp_path / "other.safetensors", spec_of(f"deliver_rgb_{sensor}")
    save_model(path, random_network(spec), spec)
    node, _ = started(launch, weights=str(path), device="cpu", **{f"{sensor}_topic": "/mine"})
    words = ["-p", f"weights:={path}", "-p", "device:=cpu"]
    for source, target in node.kwargs["remappings"]:
        words += ["-r", f"{source}:={target}"]
    with running(free_domain(4), *words) as (_, client):
        publisher = client.publisher(Image, "/mine")
        client.spin_until(publisher.get_subscription_count, "the topic is read")
