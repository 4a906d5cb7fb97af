# SPDX-License-Identifier: Apache-2.0
"""Replay over real DDS: this process subscribes, another one plays."""

from __future__ import annotations

import importlib.util
import itertools
import os
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
from harness import free_domain
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mmsam_ros.ros import replay
from mmsam_ros.ros.bags import check_cdr, open_raw, read_messages
from mmsam_ros.ros.errors import RosError

STORE = get_typestore(Stores.ROS2_JAZZY)
T = STORE.types
START = 1_700_000_000_000_000_000
STEP = 100_000_000  # ns between the messages of a stream
FRAMES = 6
IMAGE, CLOUD, STATIC, LATCHED = "/camera/image", "/lidar/points", "/tf_static", "/about"
PROFILE = Path(__file__).parents[2] / "config" / "fastdds_shm.xml"
DOMAIN = str(free_domain(6))

BEST_EFFORT = Qos(
    QosHistory.KEEP_LAST,
    5,
    QosReliability.BEST_EFFORT,
    QosDurability.VOLATILE,
    QosTime(0, 0),
    QosTime(0, 0),
    QosLiveliness.AUTOMATIC,
    QosTime(0, 0),
    False,
)
TRANSIENT = BEST_EFFORT._replace(
    depth=1, reliability=QosReliability.RELIABLE, durability=QosDurability.TRANSIENT_LOCAL
)


def header(stamp: int, frame: str) -> Any:
    time_ = T["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
    return T["std_msgs/msg/Header"](time_, frame)


def image(stamp: int, index: int, size: int) -> Any:
    data = np.full(size, index, np.uint8)
    return T["sensor_msgs/msg/Image"](header(stamp, "camera"), 1, size, "mono8", 0, size, data)


def cloud(stamp: int, index: int) -> Any:
    field = T["sensor_msgs/msg/PointField"]("x", 0, 7, 1)
    points = np.full(5, index, np.float32).view(np.uint8)
    return T["sensor_msgs/msg/PointCloud2"](
        header(stamp, "lidar"), 1, 5, [field], False, 4, 20, points, True
    )


def static(stamp: int) -> Any:
    zero = T["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
    turn = T["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    transform = T["geometry_msgs/msg/Transform"](zero, turn)
    stamped = T["geometry_msgs/msg/TransformStamped"](header(stamp, "base"), "lidar", transform)
    return T["tf2_msgs/msg/TFMessage"]([stamped])


def write_bag(
    path: Path,
    plugin: StoragePlugin = StoragePlugin.MCAP,
    *,
    image_size: int = 300,
    image_qos: tuple[Qos, ...] = (),
    compress: CompressionMode | None = None,
) -> Path:
    """A static transform and a latched text, then images and clouds in turn, 50 ms apart."""
    writer = Writer(path, version=9, storage_plugin=plugin)
    if compress:
        writer.set_compression(compress, CompressionFormat.ZSTD)
    with writer:

        def connect(topic: str, kind: str, *qos: Qos) -> Callable[[int, Any], None]:
            connection = writer.add_connection(
                topic, kind, typestore=STORE, offered_qos_profiles=qos
            )
            return lambda at, msg: writer.write(connection, at, STORE.serialize_cdr(msg, kind))

        put_static = connect(STATIC, "tf2_msgs/msg/TFMessage")
        put_latched = connect(LATCHED, "std_msgs/msg/String", TRANSIENT)
        put_image = connect(IMAGE, "sensor_msgs/msg/Image", *image_qos)
        put_cloud = connect(CLOUD, "sensor_msgs/msg/PointCloud2")
        put_static(START, static(START))
        put_latched(START, T["std_msgs/msg/String"]("a bag"))
        for index in range(FRAMES):
            at = START + index * STEP
            put_image(at, image(at, index, image_size))
            put_cloud(at + STEP // 2, cloud(at, index))
    return path


def environment(**more: str) -> dict[str, str]:
    ros = {"ROS_DOMAIN_ID": DOMAIN, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    return os.environ | ros | more


class Ears:
    """Subscriptions of this process; `heard` holds (arrival s, topic, bytes) as they come."""

    def __init__(self, context: Any) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self.heard: list[tuple[float, str, bytes]] = []
        self.node = rclpy.create_node("ears", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.processes: list[subprocess.Popen[str]] = []

    def listen(self, msgtype: str, topic: str, qos: Any = 50) -> None:
        def take(data: bytes) -> None:
            self.heard.append((time.monotonic(), topic, data))

        kind = replay.message_class(msgtype)
        self.node.create_subscription(kind, topic, take, qos, raw=True)

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds} s for {what}, heard {self.topics()}"
            self.executor.spin_once(timeout_sec=0.05)

    def topics(self) -> Counter[str]:
        return Counter(topic for _, topic, _ in self.heard)

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
        """What the process printed; what was still on the way is heard by then."""
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


def content(path: Path) -> dict[str, list[tuple[float, bytes]]]:
    """topic -> (seconds after the start, serialised message) of a bag."""
    messages: dict[str, list[tuple[float, bytes]]] = {}
    with open_raw(path) as reader:
        for connection, stamp, data in reader.messages():
            messages.setdefault(connection.topic, []).append(((stamp - START) / 1e9, data))
    return messages


def assert_same(kind: str, got: bytes, expected: bytes) -> None:
    """Equal content; the middleware may pad the end."""
    one, other = STORE.deserialize_cdr(got, kind), STORE.deserialize_cdr(expected, kind)
    assert STORE.serialize_cdr(one, kind).tobytes() == STORE.serialize_cdr(other, kind).tobytes()


@pytest.mark.dds
@pytest.mark.parametrize(
    ("plugin", "name", "rate"),
    [(StoragePlugin.SQLITE3, "bag", 2.0), (StoragePlugin.MCAP, "bag/bag.mcap", 1.0)],
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
    assert ears.topics() == {topic: len(bagged[topic]) for topic in kinds}
    arrivals = []
    for topic, kind in kinds.items():
        heard = [(arrival, data) for arrival, of, data in ears.heard if of == topic]
        for (arrival, data), (at, expected) in zip(heard, bagged[topic], strict=True):
            assert_same(kind, data, expected)
            arrivals.append(arrival - at / rate)
    drifts = np.abs(np.array(arrivals) - np.median(arrivals))
    assert np.median(drifts) < 0.03  # a busy machine may delay single messages
    assert np.max(drifts) < 0.3
    assert ("tf2_msgs/msg/TFMessage is not installed" in result.out) != has_tf2
    assert f"{IMAGE} {FRAMES}" in result.out
    assert "late at worst" in result.out


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

    images = [data for _, topic, data in ears.heard if topic == "/front/image"]
    for index, data in enumerate(images):
        msg: Any = STORE.deserialize_cdr(data, "sensor_msgs/msg/Image")
        assert msg.data[0] == index % FRAMES
    clocks: list[Any] = [
        STORE.deserialize_cdr(data, "rosgraph_msgs/msg/Clock")
        for _, topic, data in ears.heard
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
def test_start_and_duration(ears: Ears, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag")
    for topic, kind in ((IMAGE, "Image"), (CLOUD, "PointCloud2")):
        ears.listen(f"sensor_msgs/msg/{kind}", topic)
    ears.listen("std_msgs/msg/String", LATCHED)
    played = ears.play(bag, "--start", 0.19, "--duration", 0.12, "--ros-args", "-r", "__ns:=/there")
    assert ears.finish(played).code == 0
    indices = [
        (topic, STORE.deserialize_cdr(data, "sensor_msgs/msg/Image").data[0])  # type: ignore[attr-defined]
        for _, topic, data in ears.heard
        if topic == IMAGE
    ]
    assert indices == [(IMAGE, 2), (IMAGE, 3)]
    assert ears.topics() == {IMAGE: 2, CLOUD: 1, LATCHED: 1}  # latched ones of before come along


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
    assert ears.topics() == {IMAGE: FRAMES}


def refusal(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert replay.main([str(arg) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("replay: error: ")
    return err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "0"], r"--rate is 0.0, expected a number > 0"),
        (["--rate", "-1"], r"--rate is -1.0"),
        (["--rate", "nan"], r"--rate is nan"),
        (["--duration", "0"], r"--duration is 0.0"),
        (["--start", "-1"], r"--start is -1.0, expected a number >= 0"),
        (["--start", "7"], r"--start is 7.0 s, the bag is 0.550 s long"),
        (["--remap", "/nope:=/x"], f"--remap names '/nope', the bag has: /about, {IMAGE}"),
        (["--remap", IMAGE], f"--remap got '{IMAGE}', expected FROM:=TO"),
    ],
)
def test_bad_options_are_refused_with_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in refusal(capsys, write_bag(tmp_path / "bag"), *options)


def test_bad_bags_are_refused_with_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such file or folder" in refusal(capsys, tmp_path / "nothing")
    (tmp_path / "old.bag").touch()
    assert "rosbags-convert" in refusal(capsys, tmp_path / "old.bag")
    (tmp_path / "broken.db3").write_bytes(b"not a database")
    assert "broken.db3: not a readable rosbag2" in refusal(capsys, tmp_path / "broken.db3")
    (tmp_path / "cut.mcap").write_bytes(b"\x89MCAP0\r\n")
    assert "cut.mcap: not a readable rosbag2" in refusal(capsys, tmp_path / "cut.mcap")

    bag = write_bag(tmp_path / "bag", StoragePlugin.SQLITE3)
    (bag / "metadata.yaml").unlink()
    assert "needs a metadata.yaml, found none; give one of its files instead (bag.db3)" in refusal(
        capsys, bag
    )


def test_a_damaged_chunk_is_refused_when_it_comes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / "bag", compress=CompressionMode.STORAGE, image_size=100)
    (file,) = bag.glob("*.mcap")
    data = bytearray(file.read_bytes())
    begin = data.index(b"\x28\xb5\x2f\xfd") + 40  # within the first zstd frame
    data[begin : begin + 300] = bytes(300)
    file.write_bytes(data)
    with open_raw(bag) as reader, pytest.raises(RosError, match="message of the bag cannot be re"):
        list(read_messages(reader, reader.connections))
    assert replay.main([str(bag), "--wait", "0"]) == 2
    assert "a message of the bag cannot be read" in capsys.readouterr().err


def test_wrong_ros_arguments_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, write_bag(tmp_path / "bag"), "--ros-args", "-r", "foo")
    assert "ROS arguments --ros-args -r foo: " in said


def test_late_subscribers_get_what_all_publishers_kept(tmp_path: Path) -> None:
    """Three broadcasters of static transforms, each with a queue of one."""
    from rclpy.qos import DurabilityPolicy

    writer = Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP)
    with writer:
        connection = writer.add_connection(
            STATIC, "tf2_msgs/msg/TFMessage", typestore=STORE, offered_qos_profiles=[TRANSIENT] * 3
        )
        writer.write(connection, 1, STORE.serialize_cdr(static(1), connection.msgtype))
    with open_raw(tmp_path / "bag") as reader:
        offered = replay.offered_qos(reader.connections[0])
    assert offered.depth == 3
    assert offered.durability == DurabilityPolicy.TRANSIENT_LOCAL


def test_old_type_names_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import sqlite3

    file = write_bag(tmp_path / "bag", StoragePlugin.SQLITE3) / "bag.db3"
    with sqlite3.connect(file) as database:
        database.execute("UPDATE topics SET type = replace(type, '/msg/', '/')")
    message = refusal(capsys, file)
    assert f"topic {STATIC} has type 'tf2_msgs/TFMessage', expected package/msg/Name" in message


def test_single_compressed_messages_need_the_folder(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", StoragePlugin.SQLITE3, compress=CompressionMode.MESSAGE)
    [file] = bag.glob("*.db3*")
    with open_raw(file) as reader:
        connection, _, data = next(reader.messages())
        with pytest.raises(RosError, match="compressed one by one"):
            check_cdr(file, connection.topic, data)
    for messages in content(bag).values():
        assert all(data[:2] == b"\x00\x01" for _, data in messages)


@pytest.mark.parametrize(
    ("args", "own", "ros"),
    [
        (["bag", "--remap", "/a:=/b"], ["bag", "--remap", "/a:=/b"], []),
        (["bag", "--ros-args", "-r", "a:=b"], ["bag"], ["--ros-args", "-r", "a:=b"]),
        (["--ros-args", "-p", "x:=1", "--", "bag"], ["bag"], ["--ros-args", "-p", "x:=1"]),
    ],
)
def test_ros_arguments_are_told_from_own_ones(
    args: list[str], own: list[str], ros: list[str]
) -> None:
    assert replay.split_ros_args(args) == (own, ros)
