# SPDX-License-Identifier: Apache-2.0
"""A frame in the node without network and labels: messages to inputs, labels to messages.

    python benchmarks/bench_around.py

Needs ROS 2. A camera image of 1280x800, a thermal image of 640x512 registered by rotation, 100,000
points; the package's weights. The first bar counts the CPU's time, which other processes do not
disturb.
"""

import time
from collections.abc import Callable
from functools import partial
from operator import le
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from messages import camera_info, cloud, image
from results import Row, bar, in_process, run, write
from scenes import T_CAMERA_LIDAR, Scene, blocks
from sensor_msgs.msg import Image

from mmsam_ros.inference import tune_allocator
from mmsam_ros.inference.draw import colorise, highlight, overlay
from mmsam_ros.inference.geometry import Plan
from mmsam_ros.inference.prepare import prepare
from mmsam_ros.ros.calibration import CameraInfos
from mmsam_ros.ros.frames import FrameBuilder
from mmsam_ros.ros.messages import fill_image
from mmsam_ros.ros.plausibility import IntensityScale, Plausibility
from mmsam_ros.ros.sets import Entry, SyncedSet
from mmsam_ros.sensors import SYNTHETIC_CLASSES, palette
from mmsam_ros.weights import default_weights, read_spec

WIDTH, HEIGHT, REPEATS = 1280, 800, 31
POSES = {"lidar": T_CAMERA_LIDAR, "thermal": np.eye(4)}


def report() -> None:
    """Measure with one thread and with two and write bench_around.json."""
    rows = [in_process({"threads": threads}, OMP_NUM_THREADS=str(threads)) for threads in (1, 2)]
    name = "node without network and labels, one thread, CPU p50"
    found, reason = rows[0].get("cpu_ms"), rows[0].get("reason", "")
    write("bench_around", rows, [bar(name, found, "ms", 12.0, le, reason)])


def scene() -> tuple[SyncedSet, np.ndarray]:
    """A set of messages, and labels."""
    found = Scene.of(HEIGHT, WIDTH)
    thermal = image(found.thermal, "mono16", "warm")
    others = {"lidar": cloud(found.points), "thermal": thermal}
    entries = {name: Entry(name, 0, m, 0) for name, m in others.items()}
    camera = Entry("camera", 0, image(found.rgb, "rgb8", "camera"), 0)
    rng = np.random.default_rng(0)
    labels = blocks(rng, (HEIGHT, WIDTH), len(SYNTHETIC_CLASSES)).astype(np.uint8)
    return SyncedSet(camera, entries, frozenset()), labels


def measure(case: Row) -> Row:
    """Medians by step: CPU (process) and elapsed milliseconds."""
    tune_allocator()  # as the node does
    torch.set_num_threads(case["threads"])
    cv2.setNumThreads(case["threads"])
    synced, labels = scene()
    spec, colours = read_spec(default_weights()), palette(SYNTHETIC_CLASSES)
    infos = CameraInfos()
    infos.update("camera", camera_info(WIDTH, HEIGHT))
    infos.update("thermal", camera_info(640, 512))
    poses: Any = SimpleNamespace(lookup=lambda sensor, *_: POSES[sensor])
    builder = FrameBuilder(spec, infos, poses, None)
    watch = Plausibility(spec, "warn", lambda _: None, IntensityScale(spec, 1.0), infos)
    plan, cpu = Plan.of(spec.geometry, (HEIGHT, WIDTH)), torch.device("cpu")
    times: dict[str, list[tuple[float, float]]] = {}

    def timed(step: str, function: Callable[[], Any]) -> Any:
        began = time.process_time(), time.perf_counter()
        result = function()
        ended = time.process_time(), time.perf_counter()
        times.setdefault(step, []).append((ended[0] - began[0], ended[1] - began[1]))
        return result

    def send(pixels: np.ndarray, encoding: str = "rgb8") -> Any:
        return fill_image(Image(), pixels, encoding)

    for index in range(REPEATS):
        for entry in synced.auxiliaries.values():
            entry.decoded = None
        frame, refused = timed("build", lambda: builder.build(synced))
        review = partial(watch, frame_ids=builder.frame_ids(synced), stamp=0.1 * index)
        make = partial(prepare, frame, spec, plan, cpu, review=review)
        prepared = timed("inputs", make)
        assert not refused
        assert set(prepared.inputs) == set(spec.modalities) | {"rgb"}, prepared.refused
        timed("mask", lambda: send(labels, "mono8"))
        rgb = frame.rgb
        timed("color", lambda: send(colorise(labels, colours)))
        timed("overlay", partial(lambda rgb: send(overlay(rgb, labels, colours)), rgb))
        timed("class", partial(lambda rgb: send(highlight(rgb, labels, 3, (255, 0, 0))), rgb))
    taken = {s: 1e3 * np.median(np.array(t[1:]), axis=0).round(6) for s, t in times.items()}
    total = 1e3 * np.median(
        sum(np.array(times[s][1:]) for s in ("build", "inputs", "mask")), axis=0
    )
    steps = {f"{step}_cpu_ms": round(ms[0], 2) for step, ms in taken.items()}
    return {"cpu_ms": round(total[0], 2), "elapsed_ms": round(total[1], 2)} | steps


if __name__ == "__main__":
    run(report, measure, __doc__)
