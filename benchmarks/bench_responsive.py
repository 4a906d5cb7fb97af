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
from results import ROOT, Row, bar, in_process, run, write

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
        return measure_node(case, folder)


def measure_node(case: Row, folder: str) -> Row:
    """With snapshots in a folder."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from lifecycle_msgs.srv import GetState
    from rcl_interfaces.srv import GetParameters, SetParameters
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.parameter import Parameter
    from sensor_msgs.msg import Image
    from std_srvs.srv import SetBool, Trigger

    node = subprocess.Popen(
        [sys.executable, "-m", "mmsam_ros.ros.main", "--ros-args", "-p", "device:=cpu", "-p",
         f"snapshot.folder:={folder}"],
        env=os.environ | {"OMP_NUM_THREADS": str(case["threads"])}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    rclpy.init()
    client = rclpy.create_node("client")
    executor = SingleThreadedExecutor()
    executor.add_node(client)
    arrivals: list[float] = []
    masks: list[Any] = []
    client.create_subscription(
        DiagnosticArray, "/diagnostics", lambda _: arrivals.append(time.monotonic()), 10
    )
    client.create_subscription(Image, "/mmsam/semantic", masks.append, 5)
    publisher = client.create_publisher(Image, "/camera/image", 5)
    image = Image(height=720, width=1280, encoding="rgb8", step=3 * 1280, data=bytes(2764800))
    services = {
        "get_parameters": client.create_client(GetParameters, "/mmsam/get_parameters"),
        "set_parameters": client.create_client(SetParameters, "/mmsam/set_parameters"),
        "get_state": client.create_client(GetState, "/mmsam/get_state"),
        "snapshot": client.create_client(Trigger, "/mmsam/snapshot"),
        "disable": client.create_client(SetBool, "/mmsam/enable"),
    }
    opacity = Parameter("overlay_opacity", value=0.4).to_parameter_msg()
    requests = {
        "get_parameters": GetParameters.Request(names=["lidar.slop"]),
        "set_parameters": SetParameters.Request(parameters=[opacity]),
        "get_state": GetState.Request(), "snapshot": Trigger.Request(),
    }  # fmt: skip
    stamps = itertools.count(1)

    def publish() -> None:
        if case["images"]:
            image.header.stamp.sec = next(stamps)
            publisher.publish(image)

    client.create_timer(IMAGE_PERIOD, publish)
    while node.poll() is None and not (masks if case["images"] else arrivals):
        executor.spin_once(timeout_sec=0.1)
    took: dict[str, list[float]] = {name: [] for name in services}
    del arrivals[:], masks[:]

    def call(name: str, request: Any) -> float:
        """Milliseconds until the answer."""
        sent = time.monotonic()
        executor.spin_until_future_complete(services[name].call_async(request), timeout_sec=60.0)
        return 1e3 * (time.monotonic() - sent)

    began, due = time.monotonic(), 0.0
    for name in itertools.cycle(CALLS):
        while time.monotonic() < due:
            executor.spin_once(timeout_sec=max(0.0, due - time.monotonic()))
        due = time.monotonic() + CALL_PERIOD
        took[name].append(call(name, requests[name]))
        if time.monotonic() - began > SECONDS:
            break
    late = [1e3 * abs(period - 1) for period in np.diff(arrivals).tolist()]
    row: Row = {"calls": len(took["get_state"]), "masks": len(masks)}
    for _ in range(DISABLED if case["images"] else 0):
        del masks[:]
        call("disable", SetBool.Request(data=True))
        while node.poll() is None and not masks:
            executor.spin_once(timeout_sec=0.1)
        took["disable"].append(call("disable", SetBool.Request(data=False)))
    node.send_signal(signal.SIGINT)
    node.wait()
    took["diagnostics_late"] = late
    row["load"] = round(os.getloadavg()[0], 1)
    for name, values in took.items():
        if not values:  # idle: no mask to disable after
            continue
        p50, p99 = np.percentile(values, (50, 99))
        row |= {f"{name}_p50_ms": round(float(p50), 1), f"{name}_p99_ms": round(float(p99), 1)}
    return row


if __name__ == "__main__":
    run(report, measure, __doc__)
