# SPDX-License-Identifier: Apache-2.0
"""How long calls to the node take while it infers: parameters, a service, diagnostics.

    python benchmarks/bench_responsive.py

Needs ROS 2. The node is a process of its own with the package's weights, on the CPU; another one
publishes images, 1280x720, faster than the node takes them, and calls. `idle`: without images.
`disable` is ~/enable with false, each time soon after a mask.
"""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from operator import le
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from results import ROOT, Row, bar, in_process, run, write
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

CASES = [
    {"images": False, "threads": 2},
    {"images": True, "threads": 2},
    {"images": True, "threads": 1},
]
SECONDS, CALL_PERIOD, IMAGE_PERIOD = 60.0, 0.05, 0.1
DISABLED = 30  # times
CALLS = ("get_parameters", "set_parameters", "get_state", "snapshot")
LIMIT_MS = 50.0
DOMAIN = "98"


def report() -> None:
    """Measure and write bench_responsive.json."""
    rows = [
        in_process(case, ROS_DOMAIN_ID=DOMAIN, ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
                   FASTRTPS_DEFAULT_PROFILES_FILE=str(ROOT / "config/fastdds_shm.xml"))
        for case in CASES
    ]  # fmt: skip
    bars = [
        bar(f"{what} while inferring, p99, {row['threads']} threads",
            row.get(f"{what}_p99_ms"), "ms", LIMIT_MS, le, row.get("reason", ""))
        for row in rows if row["images"]
        for what in (*CALLS, "disable", "diagnostics_late")
    ]  # fmt: skip
    write("bench_responsive", rows, bars)


def measure(case: Row) -> Row:
    """Start a node and call it for a while."""
    with tempfile.TemporaryDirectory() as folder:
        node = subprocess.Popen(
            [sys.executable, "-m", "mmsam_ros.ros.main", "--ros-args", "-p", "device:=cpu", "-p",
             f"snapshot.folder:={folder}"],
            env=os.environ | {"OMP_NUM_THREADS": str(case["threads"])}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        client = Client(node, case["images"])
        client.wait_for(client.masks if case["images"] else client.arrivals)
        del client.arrivals[:], client.masks[:]
        client.call_in_turn()
        row: Row = {"calls": len(client.took["get_state"]), "masks": len(client.masks)}
        late = [1e3 * abs(period - 1) for period in np.diff(client.arrivals).tolist()]
        if case["images"]:
            client.disable_after_masks()
        node.send_signal(signal.SIGINT)
        node.wait()
    row["load"] = round(os.getloadavg()[0], 1)
    for name, values in (client.took | {"diagnostics_late": late}).items():
        if not values:  # idle: no mask to disable after
            continue
        p50, p99 = np.percentile(values, (50, 99))
        row |= {f"{name}_p50_ms": round(float(p50), 1), f"{name}_p99_ms": round(float(p99), 1)}
    return row


class Client:
    """Calls the node of another process, and with `images` publishes them."""

    def __init__(self, process: subprocess.Popen[bytes], images: bool) -> None:
        rclpy.init()
        self.process, self.executor = process, SingleThreadedExecutor()
        node = rclpy.create_node("client")
        self.executor.add_node(node)
        self.arrivals: list[float] = []  # of diagnostics
        self.masks: list[Any] = []
        node.create_subscription(
            DiagnosticArray, "/diagnostics", lambda _: self.arrivals.append(time.monotonic()), 10
        )
        node.create_subscription(Image, "/mmsam/semantic", self.masks.append, 5)
        opacity = Parameter("overlay_opacity", value=0.4).to_parameter_msg()
        self.calls = {
            name: (node.create_client(kind, f"/mmsam/{service}"), request)
            for name, service, kind, request in (
                ("get_parameters", "get_parameters", GetParameters,
                 GetParameters.Request(names=["lidar.slop"])),
                ("set_parameters", "set_parameters", SetParameters,
                 SetParameters.Request(parameters=[opacity])),
                ("get_state", "get_state", GetState, GetState.Request()),
                ("snapshot", "snapshot", Trigger, Trigger.Request()),
                ("disable", "enable", SetBool, SetBool.Request(data=False)),
                ("enable", "enable", SetBool, SetBool.Request(data=True)),
            )
        }  # fmt: skip
        self.took: dict[str, list[float]] = {name: [] for name in (*CALLS, "disable")}
        if images:
            publisher, stamps = node.create_publisher(Image, "/camera/image", 5), itertools.count(1)
            image = Image(height=720, width=1280, encoding="rgb8", step=3840, data=bytes(2764800))

            def publish() -> None:
                image.header.stamp.sec = next(stamps)
                publisher.publish(image)

            node.create_timer(IMAGE_PERIOD, publish)

    def wait_for(self, arrived: list[Any]) -> None:
        """Until something has arrived, or the node has ended."""
        while self.process.poll() is None and not arrived:
            self.executor.spin_once(timeout_sec=0.1)

    def call(self, name: str) -> float:
        """Milliseconds until the answer."""
        service, request = self.calls[name]
        sent = time.monotonic()
        self.executor.spin_until_future_complete(service.call_async(request), timeout_sec=60.0)
        return 1e3 * (time.monotonic() - sent)

    def call_in_turn(self) -> None:
        """All of `CALLS`, again and again."""
        began, due = time.monotonic(), 0.0
        for name in itertools.cycle(CALLS):
            while time.monotonic() < due:
                self.executor.spin_once(timeout_sec=max(0.0, due - time.monotonic()))
            due = time.monotonic() + CALL_PERIOD
            self.took[name].append(self.call(name))
            if time.monotonic() - began > SECONDS:
                return

    def disable_after_masks(self) -> None:
        """Each time soon after a mask, so while the next frame is inferred."""
        for _ in range(DISABLED):
            del self.masks[:]
            self.call("enable")
            self.wait_for(self.masks)
            self.took["disable"].append(self.call("disable"))


if __name__ == "__main__":
    run(report, measure, __doc__)
