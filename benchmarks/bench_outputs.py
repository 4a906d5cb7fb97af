# SPDX-License-Identifier: Apache-2.0
"""What each output of the node costs: from the labels to the message, without the middleware.

    python benchmarks/bench_outputs.py

A camera image of 1280x720, 100,000 points of the synthetic world, its true labels, one thread. CPU
time, which other processes do not disturb; the middle one of 15 runs.
"""

import time
from collections.abc import Callable
from operator import le
from typing import Any

import cv2
import numpy as np
import torch
from results import Row, bar, in_process, run, write
from sensor_msgs.msg import CompressedImage, Image

from mmsam_ros.inference import tune_allocator
from mmsam_ros.inference.draw import colorise, highlight, overlay
from mmsam_ros.inference.labels import class_probabilities, label_image
from mmsam_ros.inference.points import labelled_cloud, organised_cloud
from mmsam_ros.ros.messages import fill_image
from mmsam_ros.ros.pack import cloud_message, fill_jpeg, fill_png
from mmsam_ros.sensors import SYNTHETIC_CLASSES, palette, seen_points
from mmsam_ros.world import Vehicle, build_street, make_rig

WIDTH, HEIGHT, POINTS, REPEATS = 1280, 720, 100_000, 15


def report() -> None:
    """Measure and write bench_outputs.json."""
    row = in_process({"threads": 1}, OMP_NUM_THREADS="1")
    found, reason = row.get("points_cpu_ms"), row.get("reason", "")
    bars = [bar("~/points, CPU", found, "ms", 50.0, le, reason)]
    write("bench_outputs", [row], bars)


def measure(case: Row) -> Row:
    """CPU milliseconds and bytes by output."""
    tune_allocator()  # as the node does
    torch.set_num_threads(case["threads"])
    cv2.setNumThreads(case["threads"])
    rig = make_rig(WIDTH, HEIGHT, steps=4096)
    vehicle = Vehicle(build_street(1), rig)
    picture, xyz = vehicle.camera(0.5), vehicle.lidar(0.5).xyz
    xyz = np.resize(xyz, (POINTS, 3))  # repeated as far as necessary
    rgb, labels, colours = picture.rgb, picture.labels, palette(SYNTHETIC_CLASSES)
    confidence = np.full(labels.shape, 200, np.uint8)
    small = cv2.resize(labels, (320, 180), interpolation=cv2.INTER_NEAREST)
    logits = torch.zeros(1, len(SYNTHETIC_CLASSES), 180, 320)
    for index in range(len(SYNTHETIC_CLASSES)):
        logits[0, index] = torch.from_numpy(4.0 * (small == index))
    size = (HEIGHT, WIDTH)

    def seen() -> Any:
        return seen_points(xyz, rig.camera_model, rig.T_camera_lidar)

    def certainty() -> Any:
        _, found = label_image(logits, size, confidence=True)
        assert found is not None
        return found.numpy()

    outputs: dict[str, Callable[[], Any]] = {
        "semantic": lambda: fill_image(Image(), labels, "mono8"),
        "semantic_compressed": lambda: fill_png(CompressedImage(), labels),
        "confidence": lambda: fill_image(Image(), certainty(), "mono8"),
        "probabilities": lambda: fill_image(
            Image(), class_probabilities(logits, size).numpy(), "32FC14"
        ),
        "color": lambda: fill_image(Image(), colorise(labels, colours), "rgb8"),
        "color_compressed": lambda: fill_jpeg(CompressedImage(), colorise(labels, colours)),
        "overlay": lambda: fill_image(Image(), overlay(rgb, labels, colours), "rgb8"),
        "class": lambda: fill_image(Image(), highlight(rgb, labels, 3, (255, 0, 0)), "rgb8"),
        "points": lambda: cloud_message(
            Image().header, organised_cloud(seen(), labels, confidence, colours)
        ),
        "points_labelled": lambda: cloud_message(
            Image().header, labelled_cloud(xyz, seen(), labels, confidence, colours)[None]
        ),
    }
    row: Row = {"in_view": len(seen().index)}
    label_only = timed(lambda: label_image(logits, size))[0]
    for name, make in outputs.items():
        spent, message = timed(make)
        if name == "confidence":  # the labels are computed in any case
            spent -= label_only
        row[f"{name}_cpu_ms"] = round(spent, 2)
        row[f"{name}_bytes"] = len(message.data)
    return row


def timed(make: Callable[[], Any]) -> tuple[float, Any]:
    """CPU milliseconds, and what was made last."""
    spent = []
    for _ in range(REPEATS):
        began = time.process_time()
        made = make()
        spent.append(1e3 * (time.process_time() - began))
    return float(np.median(spent)), made


if __name__ == "__main__":
    run(report, measure, __doc__)
