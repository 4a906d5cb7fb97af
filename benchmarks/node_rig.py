# SPDX-License-Identifier: Apache-2.0
"""The node in a process of its own, out of any checkout, and a client that feeds it over DDS."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from messages import camera_info, cloud, image
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from results import ROOT, Row, milliseconds
from scenes import Scene, stretch
from sensor_msgs.msg import CameraInfo, Image

DOMAIN = 100  # the first of those that benchmarks take; tests have those below
PATIENCE = 600.0  # seconds until a node is ready: an engine may compile first
LIDAR_POSE = "lidar.extrinsics:=[0.0, 0.2, 0.0, 0.5, -0.5, 0.5, 0.5]"
SENSORS = {2: ("camera", "lidar"), 3: ("camera", "lidar", "thermal")}
PROFILE = ROOT / "config/fastdds_shm.xml"
os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(PROFILE)  # images of 2 MP pass
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


class Rig:
    """A running node and its client. The sensors' stamps are equal, as of a triggered rig.

    Args:
        checkout: where the node's code is.
        sensors: 2 or 3, see `SENSORS`.
        size: (height, width) of the camera image.
        engine: parameter of the node; empty: it has none, or its default.
        threads: of the network; None: torch's default.
        domain: of DDS; each of several rigs needs its own.
    """

    def __init__(
        self, checkout: Path, sensors: int, size: tuple[int, int], engine: str = "",
        threads: int | None = None, domain: int = DOMAIN,
    ) -> None:  # fmt: skip
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # the node ends with us
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("benchmark", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        scene, publish = Scene.of(*size), self.node.create_publisher
        messages = {
            "lidar": cloud(scene.points),
            "thermal": image(scene.thermal, "mono16", "thermal"),
            "camera": image(scene.rgb, "rgb8", "camera"),  # the last one: with it a frame begins
        }
        self.messages = {name: m for name, m in messages.items() if name in SENSORS[sensors]}
        topics = {"lidar": "/lidar/points", "thermal": "/thermal/image", "camera": "/camera/image"}
        self.publishers = {n: publish(type(m), topics[n], 10) for n, m in self.messages.items()}
        self._info = publish(CameraInfo, "/camera/camera_info", 10)
        self._calibration = camera_info(size[1], size[0])
        self.sent: dict[int, float] = {}  # by stamp: when, on the steady clock
        self.latencies: dict[int, float] = {}  # by stamp
        self.facts: dict[str, str] = {}  # of the node's last diagnostics
        self.node.create_subscription(Image, "/mmsam/semantic", self._on_mask, 50)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        homography = f"thermal.homography:={stretch(*size).ravel().tolist()}"
        options = ["-p", LIDAR_POSE, "-p", "thermal.registration:=homography", "-p", homography]
        options += ["-p", f"engine:={engine}"] if engine else []
        path = os.pathsep.join((str(checkout), os.environ.get("PYTHONPATH", "")))
        environment = {"ROS_DOMAIN_ID": str(domain), "PYTHONPATH": path}
        environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mmsam_ros.ros.main", "--ros-args", *options],
            cwd=checkout, env=os.environ | environment, stdout=self._log, stderr=self._log,
        )  # fmt: skip

    def __enter__(self) -> Self:
        """Wait until the node makes masks of all sensors; RuntimeError with its log if not."""
        everyone, names = (*self.publishers.values(), self._info), SENSORS[len(self.messages)]
        try:
            found = self.spin_until(
                lambda: all(publisher.get_subscription_count() for publisher in everyone), PATIENCE
            )
            for _ in range(100 if found else 0):  # the first frames may miss the calibration
                self._info.publish(self._calibration)
                self.ask()
                self.spin_until(lambda: bool(self.facts), 5)
                if f"fused.{'+'.join(names)}" in self.facts:
                    return self
            raise self._failure(f"does not fuse {', '.join(names)}")
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)
        self._log.close()

    def _failure(self, what: str) -> RuntimeError:
        return RuntimeError(f"the node {what}:\n{Path(self._log.name).read_text()}")

    def ask(self) -> float:
        """Seconds from a frame's last message to its mask; another one is sent if none comes."""
        while True:
            stamp = self.send()
            if self.spin_until(partial(self.latencies.__contains__, stamp), 60):
                return self.latencies[stamp]

    def send(self) -> int:
        """Publish a message of every sensor; their stamp in nanoseconds."""
        stamp = self.node.get_clock().now().to_msg()
        key = stamp.sec * 10**9 + stamp.nanosec
        for name, message in self.messages.items():
            message.header.stamp = stamp
            self.sent[key] = time.monotonic()  # that of the camera stays
            self.publishers[name].publish(message)
        return key

    def drive(self, rate: float, frames: int) -> Row:
        """Send frames at a rate, whatever the node does with them: latency, drops, load."""
        began, cpu, first = time.monotonic(), self.cpu(), len(self.sent)
        for index in range(frames):
            due = began + index / rate
            while (left := due - time.monotonic()) > 0:
                self.spin_until(lambda: False, left)
            self.send()
        ended = time.monotonic()
        used = (self.cpu() - cpu) / (ended - began)
        slowest = max(self.latencies.values())
        self.spin_until(lambda: len(self.latencies) == len(self.sent), min(10.0, 2 + 2 * slowest))
        asked = list(self.sent)[first:]
        found = [self.latencies[stamp] for stamp in asked if stamp in self.latencies]
        return {
            "rate_hz": round(rate, 2), "sent_hz": round((frames - 1) / (ended - began), 2),
            "frames": frames, "dropped": round(1 - len(found) / frames, 3),
            **milliseconds(found), "cpu_cores": round(used, 2), "pss_mib": self.pss(),
        }  # fmt: skip

    def cpu(self) -> float:
        """CPU seconds of the node's process."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def pss(self) -> int:
        """The node's memory in MiB; what it shares counts by its share."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("Pss:"))

    def spin_until(self, holds: Callable[[], bool], timeout: float) -> bool:
        """Handle messages until the predicate holds; whether it did."""
        end = time.monotonic() + timeout
        while not holds():
            if self.process.poll() is not None:
                raise self._failure("has ended")
            if time.monotonic() > end:
                return False
            self.executor.spin_once(timeout_sec=0.001)
        return True

    def _on_mask(self, message: Any) -> None:
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        if stamp in self.sent:
            self.latencies[stamp] = time.monotonic() - self.sent[stamp]

    def _on_diagnostics(self, message: Any) -> None:
        self.facts = {value.key: value.value for value in message.status[0].values}
