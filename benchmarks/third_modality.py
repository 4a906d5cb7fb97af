# SPDX-License-Identifier: Apache-2.0
"""What a third modality costs: `vit_l` at 1024x1024 with one and with two auxiliaries.

    python benchmarks/third_modality.py

The networks run in turn in one process, so that what slows the machine slows all; the first turn
warms up, and counts multiply-adds. `absent` is the larger network with one auxiliary missing.
"""

from __future__ import annotations

import statistics
import time
from contextlib import nullcontext
from operator import le
from typing import Any

from results import bar, write

LIMIT = 1.2
NETWORKS = {
    "one auxiliary": ("deliver_rgb_lidar", ()),
    "two auxiliaries": ("synthetic_rgb_lidar_thermal", ()),
    "two auxiliaries, one absent": ("synthetic_rgb_lidar_thermal", ("thermal",)),
}


def main() -> None:
    """Measure and write benchmarks/results/third_modality.json."""
    from mmsam_ros.inference import tune_allocator

    tune_allocator()
    import torch

    from mmsam_ros.model import build_model
    from mmsam_ros.weights import setting_config

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    repeats = 20 if device.type == "cuda" else 2
    models = {
        name: build_model(setting_config(name, "vit_l")).eval().to(device)
        for name in {setting for setting, _ in NETWORKS.values()}
    }
    rows, bars = [], []
    for precision in ("fp32", "bf16"):
        seconds, counted = measure(models, device, precision, repeats)
        base = statistics.median(seconds["one auxiliary"])
        for name, (setting, _) in NETWORKS.items():
            median = statistics.median(seconds[name])
            parameters = sum(p.numel() for p in models[setting].parameters())
            rows.append({
                "network": name, "device": device.type, "precision": precision, "repeats": repeats,
                "parameters_m": round(parameters / 1e6, 1), "median_s": round(median, 3),
                "ratio": round(median / base, 3),
                "gmac": round(counted[name] / 1e9, 1),
            })  # fmt: skip
            print(rows[-1], flush=True)
        ratio = next(float(r["ratio"]) for r in reversed(rows) if r["network"] == "two auxiliaries")
        bars.append(bar(f"{device.type} {precision}: two over one", ratio, "x", LIMIT, le))
    if device.type == "cpu":
        bars.append(bar("cuda: two over one", None, "x", LIMIT, le, "no GPU on this machine"))
    print(write("third_modality", rows, bars))


def measure(
    models: dict[str, Any], device: Any, precision: str, repeats: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of forward passes by network, in turn, and multiply-adds of one."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counted: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in NETWORKS}
    for turn in range(repeats + 1):
        for name, (setting, absent) in NETWORKS.items():
            model = models[setting]
            inputs = {
                m: torch.randn(1, 3, 1024, 1024, device=device)
                for m in model.config.modalities
                if m not in absent
            }
            counter = FlopCounterMode(display=False)
            began = time.perf_counter()
            enabled = precision == "bf16"
            with (
                torch.no_grad(),
                torch.autocast(device.type, torch.bfloat16, enabled=enabled),
                nullcontext() if turn else counter,
            ):
                model(inputs)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                seconds[name].append(time.perf_counter() - began)
            else:
                counted[name] = counter.get_total_flops() / 2
    return seconds, counted


if __name__ == "__main__":
    main()
