# SPDX-License-Identifier: Apache-2.0
"""Two cameras: nodes that share a process and the weights, against a process for each.

    python benchmarks/bench_cameras.py

The package's weights on camera images of 640x480, no other sensor, sent when the masks before have
come. Memory is the proportional share (PSS) of the nodes' processes, which counts pages that
processes share once; CPU is theirs as well.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from operator import le
from pathlib import Path

import numpy as np
import rclpy
from results import ROOT, Row, bar, write
from sensor_msgs.msg import Image

from mmsam_ros.ros.messages import fill_image

CAMERAS = ("front", "left")
SIZE = (480, 640)
LIMIT = 300.0  # seconds for the masks of a round


def main() -> None:
    """Measure both ways and write bench_cameras.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="frames of each camera")
    rounds = parser.parse_args().rounds
    os.environ["ROS_DOMAIN_ID"] = "87"
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(ROOT / "config/fastdds_shm.xml")
    one = [word for camera in CAMERAS for word in ("--camera", camera)]
    shared = measure([["mmsam_ros.ros.multi", *one]], rounds)
    each = [["mmsam_ros.ros.main", "--ros-args", "-r", f"__ns:=/{c}"] for c in CAMERAS]
    separate = measure(each, rounds)
    rows = [{"processes": 1, **shared}, {"processes": len(CAMERAS), **separate}]
    less = round(shared["pss_mib"] / separate["pss_mib"], 3)
    write("bench_cameras", rows, [bar("memory, shared to separate", less, "ratio", 0.75, le)])


def measure(commands: list[list[str]], rounds: int) -> Row:
    """Memory, and CPU seconds per frame, of nodes that run as these modules."""
    processes = [
        subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    rclpy.init()
    node = rclpy.create_node("bench")
    try:
        publishers = [node.create_publisher(Image, f"/{c}/camera/image", 5) for c in CAMERAS]
        masks: dict[str, int] = dict.fromkeys(CAMERAS, 0)

        def counter(camera: str) -> Callable[[Image], None]:
            def count(_: Image) -> None:
                masks[camera] += 1

            return count

        for camera in CAMERAS:
            topic = f"/{camera}/mmsam/semantic"
            node.create_subscription(Image, topic, counter(camera), 5)
        while not all(p.get_subscription_count() for p in publishers):
            assert all(p.poll() is None for p in processes), "a node has ended"
            rclpy.spin_once(node, timeout_sec=0.1)
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (*SIZE, 3), np.uint8)
        wait_for_masks = 2  # rounds before it is measured
        for index in range(rounds + wait_for_masks):
            if index == wait_for_masks:
                began, cpu = time.monotonic(), seconds(processes)
            before = dict(masks)
            message = fill_image(Image(), pixels, "rgb8")
            message.header.stamp.sec, message.header.frame_id = index + 1, "camera"
            for publisher in publishers:
                publisher.publish(message)
            end = time.monotonic() + LIMIT
            while any(masks[c] == before[c] for c in CAMERAS):
                assert time.monotonic() < end, f"no masks in {LIMIT} s"
                rclpy.spin_once(node, timeout_sec=0.1)
        frames = rounds * len(CAMERAS)
        return {
            "cameras": len(CAMERAS),
            "frames": frames,
            "pss_mib": round(sum(pss(p.pid) for p in processes), 1),
            "cpu_s_per_frame": round((seconds(processes) - cpu) / frames, 3),
            "elapsed_s_per_frame": round((time.monotonic() - began) / frames, 3),
        }
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            process.wait()
        node.destroy_node()
        rclpy.shutdown()


def pss(pid: int) -> float:
    """Proportional share of memory, MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def seconds(processes: list["subprocess.Popen[bytes]"]) -> float:
    """CPU seconds of processes, user and system."""
    total = 0
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
