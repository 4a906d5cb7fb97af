# SPDX-License-Identifier: Apache-2.0
"""Labels at the camera's size: `label_image` against passes over all classes, on the CPU.

    python benchmarks/bench_labels.py

Both take turns in one process. `scene`: the package's weights on docs/synthetic.jpg, a page of
pictures, the logits moved by a row for further classes; `noise`: random values at the network's
output.
"""

import statistics
import time
from itertools import product
from operator import ge

import cv2
import numpy as np
import torch
from results import ROOT, Row, bar, in_process, run, write

from mmsam_ros.inference import Segmenter
from mmsam_ros.inference.geometry import Plan, resize_maps
from mmsam_ros.inference.labels import label_image, plain_label_image
from mmsam_ros.sensors import Frame, decode_image, picture_rgb
from mmsam_ros.weights import default_weights

SIZES, CLASSES, REPEATS = ((720, 1280), (1080, 1920)), (14, 25), 5
WAYS = {"plain": plain_label_image, "fast": label_image}


def report() -> None:
    """Measure all cases and write bench_labels.json."""
    cases = product((1, 2), ("scene", "noise"))
    measured = [in_process({"threads": threads, "content": content}) for threads, content in cases]
    rows = [row for found in measured for row in found.get("rows", [found])]
    bars = [
        bar(
            f"{'labels and confidence' if row['confidence'] else 'labels'}, {row['size'][1]}x"
            f"{row['size'][0]}, {row['classes']} classes, {row['threads']} threads: times faster",
            row["times_faster"], "", 4.0, ge,
        )
        for row in rows if row["content"] == "scene" and "reason" not in row
    ]  # fmt: skip
    write("bench_labels", rows, bars)


def measure(case: Row) -> Row:
    """Rows of median milliseconds, elapsed and of the CPU, and of how often both differ."""
    torch.set_num_threads(case["threads"])
    segmenter = Segmenter.load(default_weights(), device="cpu")
    picture = picture_rgb(decode_image((ROOT / "docs/synthetic.jpg").read_bytes(), -1))
    rows = []
    for classes, size, confidence in product(CLASSES, SIZES, (False, True)):
        frame = Frame(np.asarray(cv2.resize(picture, size[::-1]), np.uint8), {})
        plan = Plan.of(segmenter.geometry, size)
        logits = segmenter.engine(segmenter.prepare(frame).inputs)
        logits = torch.cat((logits, logits.roll(1, dims=2) - 1), dim=1)[:, :classes]
        if case["content"] == "noise":
            logits = torch.from_numpy(np.random.default_rng(0).normal(0, 4, logits.shape)).float()
        canvas = resize_maps(logits, plan.padded)[..., : plan.canvas[0], : plan.canvas[1]]
        taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        found = {}
        for way in list(WAYS) * REPEATS:
            began = time.perf_counter(), time.process_time()
            found[way] = WAYS[way](canvas, size, confidence=confidence)
            ended = time.perf_counter(), time.process_time()
            taken[way].append((ended[0] - began[0], ended[1] - began[1]))
        row = {**case, "classes": classes, "size": size, "confidence": confidence}
        for way, times in taken.items():
            elapsed, cpu = (1e3 * statistics.median(some) for some in zip(*times, strict=True))
            row |= {f"{way}_ms": round(elapsed, 2), f"{way}_cpu_ms": round(cpu, 2)}
        pairs = zip(taken["plain"], taken["fast"], strict=True)
        row["times_faster"] = round(statistics.median(a[0] / b[0] for a, b in pairs), 1)
        row["pixels_that_differ"] = int((found["plain"][0] != found["fast"][0]).sum())
        rows.append(row)
    return {"rows": rows}


if __name__ == "__main__":
    run(report, measure, __doc__)
