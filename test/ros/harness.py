# SPDX-License-Identifier: Apache-2.0
"""A node in a process of its own, and a ROS client in the test's, over real DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header
from support.networks import random_network, spec_of

from mmsam_ros.ros.messages import fill_image
from mmsam_ros.weights import save_model

ROOT = Path(__file__).parents[2]
GUARD = 300.0  # seconds after which a test hangs, on any machine
LATCHED = QoSProfile(
    depth=10,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


def environment(domain: int) -> dict[str, str]:
    """A process's environment on a DDS domain of its own, with large messages enabled."""
    return os.environ | {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(ROOT / "config/fastdds_shm.xml"),
        "PYTHONUNBUFFERED": "1",
    }


def nano_weights(path: Path, network: str) -> Path:
    """Randomised `nano` weights of one of `NETWORKS`."""
    spec = spec_of(network, recipe="randomised")
    save_model(path, random_network(spec), spec)
    return path


class NodeProcess:
    """`mmsam_ros.ros.main` with arguments; its output is kept."""

    def __init__(self, domain: int, *args: str) -> None:
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mmsam_ros.ros.main", "--ros-args", *args],
            env=environment(domain),
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def output(self) -> str:
        return Path(self._log.name).read_text()

    def stop(self) -> int:
        """End it as Ctrl-C does; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(GUARD)
        finally:
            self.process.kill()


class Client:
    """Publishers, subscriptions and waiting by events."""

    def __init__(self, domain: int) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("client", context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self.received: dict[str, list[Any]] = {}

    def publisher(self, kind: type, topic: str, depth: int = 20) -> Any:
        return self.node.create_publisher(kind, topic, depth)

    def record(self, kind: type, topic: str, qos: QoSProfile | int = 50) -> list[Any]:
        """Messages of a topic from now on, in a list that grows."""
        if topic in self.received:
            return self.received[topic]
        messages = self.received[topic] = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def spin_until(self, holds: Callable[[], Any], what: str, timeout: float = GUARD) -> None:
        """Handle events until the predicate holds; fails after `timeout` seconds."""
        end = time.monotonic() + timeout
        while not holds():
            assert time.monotonic() < end, f"timeout: {what}"
            self._executor.spin_once(timeout_sec=0.05)

    def diagnostics(self) -> dict[str, str]:
        """The node's figures from the next diagnostics message that it makes."""
        arrays = self.record(DiagnosticArray, "/diagnostics")
        now = self.node.get_clock().now().nanoseconds

        def made_since() -> bool:
            stamp = arrays[-1].header.stamp if arrays else None
            return stamp is not None and stamp.sec * 10**9 + stamp.nanosec >= now

        self.spin_until(made_since, "diagnostics")
        status = arrays[-1].status[0]
        return {v.key: v.value for v in status.values} | {"message": status.message}

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@contextmanager
def running(domain: int, *args: str) -> Iterator[tuple[NodeProcess, Client]]:
    """A node and a client; on leaving, the node must end cleanly."""
    node = NodeProcess(domain, *args)
    client = Client(domain)
    try:
        yield node, client
        assert node.stop() == 0, node.output
        assert "Traceback" not in node.output, node.output
    finally:
        client.close()
        node.process.kill()


def header(stamp_ns: int, frame: str) -> Header:
    message = Header(frame_id=frame)
    message.stamp.sec, message.stamp.nanosec = divmod(stamp_ns, 10**9)
    return message


def image(stamp_ns: int, pixels: NDArray[Any], encoding: str, frame: str = "camera") -> Image:
    """An Image of uint8 or uint16 pixels."""
    message = Image(header=header(stamp_ns, frame))
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(pixels.shape[0], -1)
    fill_image(message, rows, encoding)
    message.width = pixels.shape[1]
    return message


FIELDS = {"x": 0, "y": 4, "z": 8, "intensity": 12}


def cloud(
    stamp_ns: int, points: NDArray[np.float32], fields: Mapping[str, int] = FIELDS
) -> PointCloud2:
    """A PointCloud2 of float32 points (N, 4) in frame "lidar"."""
    message = PointCloud2(header=header(stamp_ns, "lidar"), height=1, width=len(points))
    message.fields = [PointField(name=n, offset=o, datatype=7, count=1) for n, o in fields.items()]
    message.point_step, message.row_step = 16, 16 * len(points)
    message.data.frombytes(points.tobytes())
    return message


def camera_info(stamp_ns: int, width: int, height: int) -> CameraInfo:
    """A pinhole of 70 degrees or so."""
    f = 0.7 * width
    message = CameraInfo(header=header(stamp_ns, "camera"), width=width, height=height)
    message.distortion_model = "plumb_bob"
    message.d = [0.0] * 5
    message.k = [f, 0.0, width / 2, 0.0, f, height / 2, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [f, 0.0, width / 2, 0.0, 0.0, f, height / 2, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


# LiDAR frame (x forward) in the optical frame (z forward), as a parameter
LIDAR_POSE = "lidar.extrinsics:=[0.0, 0.2, 0.0, 0.5, -0.5, 0.5, 0.5]"
