# SPDX-License-Identifier: Apache-2.0
"""A frame in the node without network and labels: messages to inputs, labels to messages.

    python benchmarks/bench_around.py

A camera image of 1280x800, a thermal image of 640x512 registered by rotation, 100,000 points; the
package's weights. The first bar counts the CPU's time, which other processes do not disturb.
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
from results import Row, bar, in_process, run, write

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

WIDTH, HEIGHT, POINTS, REPEATS = 1280, 800, 100_000, 31
T_CAMERA_LIDAR = np.array([[0, -1, 0, 0], [0, 0, -1, 0.2], [1, 0, 0, 0], [0, 0, 0, 1.0]])
POSES = {"lidar": T_CAMERA_LIDAR, "thermal": np.eye(4)}


def report() -> None:
    """Measure with one thread and with two and write benchmarks/results/bench_around.json."""
    rows = [in_process({"threads": threads}, OMP_NUM_THREADS=str(threads)) for threads in (1, 2)]
    name = "node without network and labels, one thread, CPU p50"
    write("bench_around", rows, [bar(name, rows[0].get("cpu_ms"), "ms", 12.0, le)])


def message(data: bytes, frame: str, **fields: Any) -> SimpleNamespace:
    """As of rclpy."""
    header = SimpleNamespace(frame_id=frame, stamp=SimpleNamespace(sec=0, nanosec=0))
    return SimpleNamespace(header=header, data=data, is_bigendian=False, **fields)


def image(pixels: np.ndarray, encoding: str, frame: str) -> SimpleNamespace:
    """An Image."""
    height, width = pixels.shape[:2]
    step = pixels.nbytes // height
    sides: dict[str, Any] = {"height": height, "width": width, "step": step, "encoding": encoding}
    return message(pixels.tobytes(), frame, **sides)


def cloud(points: np.ndarray) -> SimpleNamespace:
    """A PointCloud2 of float32 points (N, 4)."""
    names = enumerate(("x", "y", "z", "intensity"))
    fields = [SimpleNamespace(name=n, offset=4 * i, datatype=7, count=1) for i, n in names]
    layout = {"height": 1, "width": len(points), "point_step": 16, "row_step": points.nbytes}
    return message(points.tobytes(), "lidar", fields=fields, **layout)


def info(width: int, height: int) -> SimpleNamespace:
    """A CameraInfo without distortion."""
    k = [0.7 * width, 0, width / 2, 0, 0.7 * width, height / 2, 0, 0, 1.0]
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    return message(
        b"", "camera", width=width, height=height, k=k, d=[0.0] * 5, r=np.eye(3).ravel().tolist(),
        p=[*k[:3], 0, *k[3:6], 0, *k[6:], 0], distortion_model="plumb_bob", binning_x=0,
        binning_y=0, roi=roi,
    )  # fmt: skip


def scene() -> tuple[SyncedSet, np.ndarray]:
    """A set of messages, and labels: coarse noise, enlarged, so that all have edges."""
    rng = np.random.default_rng(0)

    def blocks(height: int, width: int, high: int, *channels: int) -> np.ndarray:
        shape = (height // 16, width // 16, *channels)
        values = rng.integers(0, high, shape).repeat(16, axis=0).repeat(16, axis=1)
        return values + rng.integers(0, max(1, high // 16), values.shape)

    points = rng.uniform((-60, -40, -2, 0), (60, 40, 4, 100), (POINTS, 4)).astype(np.float32)
    rgb, warm = blocks(HEIGHT, WIDTH, 240, 3), 20000 + blocks(512, 640, 4000)
    camera = image(rgb.astype(np.uint8), "rgb8", "camera")
    messages = {"lidar": cloud(points), "thermal": image(warm.astype(np.uint16), "mono16", "warm")}
    others = {name: Entry(name, 0, m, 0) for name, m in messages.items()}
    labels = blocks(HEIGHT, WIDTH, len(SYNTHETIC_CLASSES)).astype(np.uint8)
    return SyncedSet(Entry("camera", 0, camera, 0), others, frozenset()), labels


def measure(case: Row) -> Row:
    """Medians by step: CPU (process) and elapsed milliseconds."""
    tune_allocator()  # as the node does
    torch.set_num_threads(case["threads"])
    cv2.setNumThreads(case["threads"])
    synced, labels = scene()
    spec, colours = read_spec(default_weights()), palette(SYNTHETIC_CLASSES)
    infos = CameraInfos()
    infos.update("camera", info(WIDTH, HEIGHT))
    infos.update("thermal", info(640, 512))
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
        return fill_image(SimpleNamespace(), pixels, encoding)

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
