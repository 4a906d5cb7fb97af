# SPDX-License-Identifier: Apache-2.0
"""From the start of the node's process to its first mask: seconds and CPU seconds by stage.

    [BASELINE=FOLDER] python benchmarks/bench_start.py

BASELINE is another checkout, measured in turn with this one. Needs ROS 2. The node runs with the
package's weights in a process that also publishes the images, 1280x720, and waits for the mask.
"""

import os
import statistics
import time
from collections import defaultdict
from operator import le
from pathlib import Path

from results import ROOT, Row, bar, in_process, run, write

ROUNDS = 3
LIMIT_CPU_S = 5.0
STAGES = ("preflight", "imports", "weights", "first_mask")


def report() -> None:
    """Measure and write bench_start.json."""
    baseline = os.environ.get("BASELINE")
    packages = {"this": str(ROOT)}
    if baseline:
        packages["baseline"] = str(Path(baseline).resolve())
    found = defaultdict(list)
    for _ in range(ROUNDS):
        for name, package in packages.items():
            path = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])
            case = {"package": name, "load": round(os.getloadavg()[0], 1)}
            found[name].append(in_process(case, PYTHONPATH=path, OMP_WAIT_POLICY="PASSIVE"))
    rows = [_median(measured) for measured in found.values()]
    cpu, reason = rows[0].get("cpu_s"), rows[0].get("reason", "")
    write("bench_start", rows, [bar("start to first mask", cpu, "CPU-s", LIMIT_CPU_S, le, reason)])


def _median(rows: list[Row]) -> Row:
    """Medians of numbers over the rounds; a row that has failed stands for all."""
    failed = [row for row in rows if "reason" in row]
    if failed:
        return failed[0]
    numbers = {key: [row[key] for row in rows] for key in rows[0] if key != "package"}
    medians = {key: round(statistics.median(values), 2) for key, values in numbers.items()}
    return {"package": rows[0]["package"], "rounds": len(rows), **medians}


def measure(case: Row) -> Row:
    """Start a node here, publish images, wait for the first mask."""
    marks = [_now()]
    from mmsam_ros.ros.preflight import can_start

    assert can_start([])
    marks.append(_now())
    from mmsam_ros.ros import node as node_module

    assert Path(node_module.__file__).is_relative_to(os.environ["PYTHONPATH"].split(os.pathsep)[0])
    marks.append(_now())
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image

    node_module.tune_allocator()
    rclpy.init()
    node = node_module.SegmentNode()
    marks.append(_now())
    client = rclpy.create_node("client")
    masks: list[Image] = []
    client.create_subscription(Image, "/mmsam/semantic", masks.append, 1)
    publisher = client.create_publisher(Image, "/camera/image", 1)
    image = Image(height=720, width=1280, encoding="rgb8", step=3 * 1280, data=bytes(2764800))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    executor.add_node(client)
    due = 0.0
    while not masks:
        if time.monotonic() > due:
            due = time.monotonic() + 0.5
            image.header.stamp = client.get_clock().now().to_msg()
            publisher.publish(image)
        executor.spin_once(timeout_sec=0.1)
    marks.append(_now())
    node.stop()
    row: Row = {"wall_s": marks[-1][0], "cpu_s": marks[-1][1]}
    for stage, before, after in zip(STAGES, marks, marks[1:], strict=False):
        row |= {f"{stage}_cpu_s": after[1] - before[1]}
    return {key: round(value, 2) for key, value in row.items()}


def _now() -> tuple[float, float]:
    """Seconds since this process began, and CPU seconds that it has used."""
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    began = int(ticks) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began, time.process_time()


if __name__ == "__main__":
    run(report, measure, __doc__)
