# SPDX-License-Identifier: Apache-2.0
"""What a third modality costs: `vit_l` at 1024x1024 with one and with two auxiliaries.

    python benchmarks/third_modality.py

The networks take turns in one process, so that what slows the machine slows all of them; the first
turn warms up and counts multiply-adds. `absent` is the larger network with one auxiliary missing.
"""

import statistics
import time
from contextlib import nullcontext
from operator import le

import torch
from results import Row, bar, write
from torch.utils.flop_counter import FlopCounterMode

from mmsam_ros.data.open import find_benchmark
from mmsam_ros.inference import tune_allocator
from mmsam_ros.model import MMSAMAdapter, build_model
from mmsam_ros.training.start import network_config

LIMIT = 1.2
ONE: tuple[str, ...] = ("lidar",)
TWO: tuple[str, ...] = ("lidar", "event")
CASES: dict[
    str, tuple[tuple[str, ...], tuple[str, ...]]
] = {  # the network and what it does not get
    "one auxiliary": (ONE, ()),
    "two auxiliaries": (TWO, ()),
    "two auxiliaries, one absent": (TWO, ("event",)),
}


def main() -> None:
    """Measure and write benchmarks/results/third_modality.json."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, bars = [], []
    for precision in ("fp32", "bf16"):
        found = measure(device, precision, repeats=20 if device == "cuda" else 2)
        for row in found:
            row["ratio"] = round(row["median_s"] / found[0]["median_s"], 3)
            print(row, flush=True)
        rows += found
        title = f"{device} {precision}: two over one"
        bars.append(bar(title, found[1]["ratio"], "x", LIMIT, le))
    if device == "cpu":
        bars.append(bar("cuda: two over one", None, "x", LIMIT, le, "no GPU on this machine"))
    write("third_modality", rows, bars)


def measure(device: str, precision: str, repeats: int) -> list[Row]:
    """A row for each of `CASES`."""
    tune_allocator()
    deliver = find_benchmark("deliver")
    models: dict[tuple[str, ...], MMSAMAdapter] = {}
    for sensors in (ONE, TWO):
        modalities = {sensor: deliver.modalities[sensor] for sensor in sensors}
        config = network_config(deliver, deliver.classes, modalities, "vit_l")
        models[sensors] = build_model(config).eval().to(device)
    counters = {name: FlopCounterMode(display=False) for name in CASES}
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for turn in range(repeats + 1):
        for name, (sensors, absent) in CASES.items():
            given = [m for m in models[sensors].config.modalities if m not in absent]
            inputs = {m: torch.randn(1, 3, 1024, 1024, device=device) for m in given}
            half = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
            began = time.perf_counter()
            with torch.no_grad(), half, nullcontext() if turn else counters[name]:
                models[sensors](inputs)
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return [
        {
            "network": name, "device": device, "precision": precision, "repeats": repeats,
            "parameters_m": round(sum(p.numel() for p in models[sensors].parameters()) / 1e6, 1),
            "median_s": round(statistics.median(seconds[name]), 3),
            "gmac": round(counters[name].get_total_flops() / 2e9, 1),
        }
        for name, (sensors, _) in CASES.items()
    ]  # fmt: skip


if __name__ == "__main__":
    main()
