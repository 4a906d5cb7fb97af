# SPDX-License-Identifier: Apache-2.0
"""Replay over real DDS: this process subscribes, another one plays."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from domains import free_domain
from harness import GUARD
from recordings import (
    BEST_EFFORT,
    CLOUD,
    FRAMES,
    IMAGE,
    LATCHED,
    START,
    STATIC,
    STEP,
    STORE,
    content,
    write_bag,
)
from rosbags.rosbag2 import StoragePlugin

from mmsam_ros.ros import player
from mmsam_ros.ros.interface import message_class
from mmsam_ros.ros.player import ReplayConfig
from mmsam_ros.ros.recording import Recording

PROFILE = Path(__file__).parents[2] / "config" / "fastdds_shm.xml"
DOMAIN = str(free_domain(6))


def environment(**more: str) -> dict[str, str]:
    ros = {"ROS_DOMAIN_ID": DOMAIN, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    return os.environ | ros | more


class Ears:
    """Subscriptions of this process; `heard` holds (topic, bytes) as they come."""

    def __init__(self, context: Any) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self.heard: list[tuple[str, bytes]] = []
        self.node = rclpy.create_node("ears", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.processes: list[subprocess.Popen[str]] = []

    def listen(self, msgtype: str, topic: str, qos: Any = 50) -> None:
        def take(data: bytes) -> None:
            self.heard.append((topic, data))

        kind = message_class(msgtype)
        self.node.create_subscription(kind, topic, take, qos, raw=True)

    def until(self, condition: Callable[[], bool], what: str, seconds: float = GUARD) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds} s for {what}, heard {self.topics()}"
            self.executor.spin_once(timeout_sec=0.05)

    def topics(self) -> Counter[str]:
        return Counter(topic for topic, _ in self.heard)

    def play(self, *args: object, **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "mmsam_ros.ros.replay", *map(str, args)]
        process = subprocess.Popen(
            command,
            env=environment(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> SimpleNamespace:
        """What the process printed."""
        self.until(lambda: process.poll() is not None, "the replay's end")
        out, err = process.communicate()
        return SimpleNamespace(code=process.returncode, out=out, err=err)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self.executor.shutdown()
        self.node.destroy_node()


@pytest.fixture
def ears(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ears]:
    rclpy = pytest.importorskip("rclpy")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=int(DOMAIN))
    listener = Ears(context)
    try:
        yield listener
    finally:
        listener.close()
        rclpy.try_shutdown(context=context)


def assert_same(kind: str, got: bytes, expected: bytes) -> None:
    """Equal content; the middleware may pad the end."""
    one, other = STORE.deserialize_cdr(got, kind), STORE.deserialize_cdr(expected, kind)
    assert STORE.serialize_cdr(one, kind).tobytes() == STORE.serialize_cdr(other, kind).tobytes()


@pytest.mark.dds
@pytest.mark.parametrize(
    ("plugin", "name", "rate"),
    [(StoragePlugin.SQLITE3, "bag", 0.5), (StoragePlugin.MCAP, "bag/bag.mcap", 0.25)],
)
def test_every_message_once_equal_and_paced(
    ears: Ears, tmp_path: Path, plugin: StoragePlugin, name: str, rate: float
) -> None:
    bag = write_bag(tmp_path / "bag", plugin)
    kinds = {IMAGE: "sensor_msgs/msg/Image", CLOUD: "sensor_msgs/msg/PointCloud2"}
    has_tf2 = importlib.util.find_spec("tf2_msgs") is not None
    if has_tf2:
        kinds[STATIC] = "tf2_msgs/msg/TFMessage"
    for topic, kind in kinds.items():
        ears.listen(kind, topic)
    result = ears.finish(ears.play(tmp_path / name, "--rate", rate))
    assert result.code == 0, result.err

    bagged = content(bag)
    expected = {topic: len(bagged[topic]) for topic in kinds}
    ears.until(lambda: ears.topics() == expected, "every message")
    for topic, kind in kinds.items():
        heard = [data for of, data in ears.heard if of == topic]
        for data, (_, expected) in zip(heard, bagged[topic], strict=True):
            assert_same(kind, data, expected)
    said = re.search(r"in ([\d.]+) s,.* late at worst [\d.]+ ms", result.out)
    assert said, result.out
    # a busy machine may delay messages; none comes early
    assert float(said[1]) >= max(at for at, _ in bagged[CLOUD]) / rate - 0.005
    assert ("tf2_msgs/msg/TFMessage is not installed" in result.out) != has_tf2
    assert f"{IMAGE} {FRAMES}" in result.out


@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_every_message_has_its_time(
    ears: Ears, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    """On a clock that only waiting moves, so that nothing is late."""
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    stop = SimpleNamespace(is_set=lambda: False, wait=lambda s: now.__setitem__(0, now[0] + s))
    monkeypatch.setattr(player, "time", clock)
    bag = write_bag(tmp_path / "bag")
    sent: list[tuple[str, float]] = []
    with Recording(bag) as reader:
        played = player.Player(ReplayConfig(bag, rate), reader, ears.node, stop)
        for connection in played.connections:
            topic = connection.topic
            played.publishers[connection.id] = SimpleNamespace(
                topic_name=topic, publish=lambda _, t=topic: sent.append((t, now[0]))
            )
        played._play_once()
    for topic, messages in content(bag).items():
        if topic in {c.topic for c in played.connections}:
            times = [at for name, at in sent if name == topic]
            np.testing.assert_allclose(times, [100 + at / rate for at, _ in messages], atol=1e-6)
    assert played.summary.latest < 1e-6
    assert len(sent) >= 2 * FRAMES


@pytest.mark.dds
def test_loop_remap_clock_and_interrupt(ears: Ears, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag")
    ears.listen("sensor_msgs/msg/Image", "/front/image")
    ears.listen("rosgraph_msgs/msg/Clock", "/clock")
    played = ears.play(
        bag, "--loop", "--rate", 4, "--clock", "--remap", f"{IMAGE}:=/front/image", f"{CLOUD}:=/p"
    )
    ears.until(lambda: ears.topics()["/front/image"] > 2 * FRAMES, "the third loop")
    played.send_signal(signal.SIGINT)
    played.send_signal(signal.SIGINT)
    result = ears.finish(played)
    assert result.code == 0
    assert result.err == ""

    images = [data for topic, data in ears.heard if topic == "/front/image"]
    for index, data in enumerate(images):
        msg: Any = STORE.deserialize_cdr(data, "sensor_msgs/msg/Image")
        assert msg.data[0] == index % FRAMES
    clocks: list[Any] = [
        STORE.deserialize_cdr(data, "rosgraph_msgs/msg/Clock")
        for topic, data in ears.heard
        if topic == "/clock"
    ]
    times = [msg.clock.sec * 10**9 + msg.clock.nanosec - START for msg in clocks]
    assert min(times) >= 0
    assert max(times) <= FRAMES * STEP
    jumps = sum(late < early for early, late in itertools.pairwise(times))
    loops = -(-len(images) // FRAMES)
    assert jumps in (loops - 1, loops)  # the clock of the next loop comes before its first image


@pytest.mark.dds
def test_recorded_quality_of_service_is_offered(ears: Ears, tmp_path: Path) -> None:
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

    bag = write_bag(tmp_path / "bag", image_qos=(BEST_EFFORT,))
    played = ears.play(bag, "--loop", "--wait", 0)
    late = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    infos = ears.node.get_publishers_info_by_topic
    ears.until(lambda: all(infos(topic) for topic in (IMAGE, CLOUD, LATCHED)), "publishers")
    offered = {topic: infos(topic)[0].qos_profile for topic in (IMAGE, CLOUD, LATCHED)}
    assert offered[IMAGE].reliability == ReliabilityPolicy.BEST_EFFORT
    assert offered[CLOUD].reliability == ReliabilityPolicy.RELIABLE
    assert offered[CLOUD].durability == DurabilityPolicy.VOLATILE
    assert offered[LATCHED].durability == DurabilityPolicy.TRANSIENT_LOCAL
    ears.listen("std_msgs/msg/String", LATCHED, late)
    ears.until(lambda: bool(ears.heard), "the latched message")
    played.terminate()
    assert ears.finish(played).code == 0


@pytest.mark.dds
def test_the_first_message_waits_for_the_topics_that_are_named(ears: Ears, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag")
    ears.listen("sensor_msgs/msg/Image", IMAGE)
    played = ears.play(bag, "--wait-for", IMAGE, CLOUD, "--wait", GUARD)
    publishers = ears.node.get_publishers_info_by_topic
    ears.until(lambda: bool(publishers(IMAGE)), "the publisher")
    # longer than it takes to start without the option
    end = time.monotonic() + 2 * player.SETTLED
    ears.until(lambda: time.monotonic() > end, "the time that subscriptions settle in")
    assert played.poll() is None
    assert not ears.heard
    ears.listen("sensor_msgs/msg/PointCloud2", CLOUD)
    assert ears.finish(played).code == 0
    ears.until(lambda: ears.topics() == {IMAGE: FRAMES, CLOUD: FRAMES}, "every message")


@pytest.mark.dds
def test_a_subscriber_that_cannot_match_is_named(ears: Ears, tmp_path: Path) -> None:
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    bag = write_bag(tmp_path / "bag", image_qos=(BEST_EFFORT,))
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
    ears.listen("sensor_msgs/msg/Image", IMAGE, qos)
    ears.listen("sensor_msgs/msg/PointCloud2", CLOUD)
    result = ears.finish(ears.play(bag))
    assert result.code == 0
    assert f"note: /ears gets nothing of {IMAGE}: " in result.out
    assert result.out.count("gets nothing of") == 1  # the other one matches
    assert f"nobody subscribes to {LATCHED}, {IMAGE}" in result.out.replace("/tf_static, ", "")


@pytest.mark.dds
def test_start_and_duration(ears: Ears, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag")
    for topic, kind in ((IMAGE, "Image"), (CLOUD, "PointCloud2")):
        ears.listen(f"sensor_msgs/msg/{kind}", topic)
    ears.listen("std_msgs/msg/String", LATCHED)
    played = ears.play(bag, "--start", 0.19, "--duration", 0.12, "--ros-args", "-r", "__ns:=/there")
    assert ears.finish(played).code == 0
    expected = {IMAGE: 2, CLOUD: 1, LATCHED: 1}  # latched ones of before come along
    ears.until(lambda: ears.topics() == expected, "the part's messages")
    indices = [
        (topic, STORE.deserialize_cdr(data, "sensor_msgs/msg/Image").data[0])  # type: ignore[attr-defined]
        for topic, data in ears.heard
        if topic == IMAGE
    ]
    assert indices == [(IMAGE, 2), (IMAGE, 3)]


@pytest.mark.dds
def test_large_best_effort_images_arrive_with_the_shared_memory_profile(
    ears: Ears, tmp_path: Path
) -> None:
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    bag = write_bag(tmp_path / "bag", image_size=3_000_000, image_qos=(BEST_EFFORT,))
    qos = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
    ears.listen("sensor_msgs/msg/Image", IMAGE, qos)
    played = ears.play(bag, FASTRTPS_DEFAULT_PROFILES_FILE=str(PROFILE))
    assert ears.finish(played).code == 0
    ears.until(lambda: ears.topics() == {IMAGE: FRAMES}, "every image")
