# SPDX-License-Identifier: Apache-2.0
"""One forward pass on the CPU: seconds and peak memory, by preset, precision and environment.

    python benchmarks/network_cpu.py

Every row is a process of its own, as memory peaks and OpenMP settings belong to a process.
`contended` rows share the machine with one process that computes all the time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from operator import lt
from typing import Any

from results import bar, write

LIMIT_GIB = 8.0
CASES: list[dict[str, Any]] = [
    {"preset": "vit_l", "precision": "fp32", "allocator": "default", "repeats": 1},
    {"preset": "vit_l", "precision": "fp32", "allocator": "tuned", "repeats": 1},
    {"preset": "tiny", "precision": "fp32", "allocator": "default", "repeats": 9},
    {"preset": "tiny", "precision": "fp32", "allocator": "tuned", "repeats": 9},
    {"preset": "tiny", "precision": "fp32", "allocator": "tuned", "repeats": 9, "wait": "ACTIVE"},
    {"preset": "tiny", "precision": "fp32", "allocator": "tuned", "repeats": 9, "contended": True},
    {
        "preset": "tiny", "precision": "fp32", "allocator": "tuned", "repeats": 9, "wait": "ACTIVE",
        "contended": True,
    },
]  # fmt: skip


def main() -> None:
    """Run all cases and write benchmarks/results/network_cpu.json, or one case (internal)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case)))
        return
    rows: list[dict[str, Any]] = []
    for case in CASES:
        rows.append({"wait": "PASSIVE", "contended": False} | case | in_process(case))
        print(rows[-1], flush=True)
    vit_l = next(r for r in rows if (r["preset"], r["allocator"]) == ("vit_l", "tuned"))
    bars = [
        bar("vit_l 1024x1024 float32 peak memory", vit_l["peak_gib"], "GiB", LIMIT_GIB, lt),
    ]
    print(write("network_cpu", rows, bars))


def in_process(case: dict[str, Any]) -> dict[str, Any]:
    """Measure a case in a process of its own."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    environment = os.environ | {"OMP_WAIT_POLICY": case.get("wait", "PASSIVE")}
    with busy_process(wanted=case.get("contended", False)):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@contextmanager
def busy_process(*, wanted: bool) -> Iterator[None]:
    """One process that computes, for as long as this lasts."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Median seconds of a forward pass at the preset's size, and the process's peak memory."""
    from mmsam_ros.inference import tune_allocator

    if case["allocator"] == "tuned":
        tune_allocator()
    import torch

    from mmsam_ros.model import ModelConfig, build_model

    config = ModelConfig.preset(case["preset"], num_classes=25)
    model = build_model(config).eval()
    height, width = config.image_size
    inputs = {m: torch.randn(1, 3, height, width) for m in config.modalities}
    seconds = []
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=case["precision"] == "bf16")
    with torch.inference_mode(), autocast:
        for _ in range(case["repeats"] + 1):  # the first one warms up
            begin = time.perf_counter()
            model(inputs)
            seconds.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "size": [height, width],
        "threads": torch.get_num_threads(),
        "median_s": round(statistics.median(seconds[1:]), 3),
        "first_s": round(seconds[0], 3),
        "peak_gib": round(peak, 2),
    }


if __name__ == "__main__":
    main()
