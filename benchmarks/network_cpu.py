# SPDX-License-Identifier: Apache-2.0
"""One forward pass on the CPU: seconds and peak memory, by preset, precision and environment.

    python benchmarks/network_cpu.py

`contended` rows share the machine with a process that computes all the time.
"""

import statistics
import subprocess
import sys
import time
from operator import lt

import torch
from results import Row, bar, in_process, peak_gib, run, write

from mmsam_ros.inference import tune_allocator
from mmsam_ros.model import ModelConfig, build_model

LIMIT_GIB = 8.0


def report() -> None:
    """Measure all cases and write benchmarks/results/network_cpu.json."""
    large = [
        measured("vit_l", allocator=allocator, repeats=1) for allocator in ("default", "tuned")
    ]
    small = [measured("tiny", allocator="default")] + [
        measured("tiny", wait=wait, contended=contended)
        for contended in (False, True)
        for wait in ("PASSIVE", "ACTIVE")
    ]
    peak, reason = large[1].get("peak_gib"), large[1].get("reason", "")
    name = "vit_l 1024x1024 float32 peak memory"
    write("network_cpu", [*large, *small], [bar(name, peak, "GiB", LIMIT_GIB, lt, reason)])


def measured(
    preset: str, *, allocator: str = "tuned", repeats: int = 9, wait: str = "PASSIVE",
    contended: bool = False,
) -> Row:  # fmt: skip
    """A row; wait: what idle OpenMP threads do (OMP_WAIT_POLICY)."""
    case = {"preset": preset, "precision": "fp32", "allocator": allocator, "repeats": repeats,
            "wait": wait, "contended": contended}  # fmt: skip
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if contended else None
    try:
        return in_process(case, OMP_WAIT_POLICY=wait)
    finally:
        if other:
            other.kill()


def measure(case: Row) -> Row:
    """Median seconds of a forward pass at the preset's size, and the process's peak memory."""
    if case["allocator"] == "tuned":
        tune_allocator()
    config = ModelConfig.preset(case["preset"], num_classes=25)
    model = build_model(config).eval()
    height, width = config.image_size
    inputs = {m: torch.randn(1, 3, height, width) for m in config.modalities}
    seconds = []
    with torch.inference_mode():
        for _ in range(case["repeats"] + 1):  # the first one warms up
            began = time.perf_counter()
            model(inputs)
            seconds.append(time.perf_counter() - began)
    return {
        "size": [height, width],
        "threads": torch.get_num_threads(),
        "median_s": round(statistics.median(seconds[1:]), 3),
        "first_s": round(seconds[0], 3),
        "peak_gib": peak_gib(),
    }


if __name__ == "__main__":
    run(report, measure, __doc__)
