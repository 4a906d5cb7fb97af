# SPDX-License-Identifier: Apache-2.0
"""Every engine on every preset and set of sensors: milliseconds, and agreement with PyTorch.

    [PRESETS=vit_l] python benchmarks/bench_engines.py

Engines of one row take turns, so that load falls on all of them; the medians are compared.
"""

import os
import statistics
import time
from operator import ge

import torch
from results import Row, bar, in_process, run, write

from mmsam_ros.inference import tune_allocator
from mmsam_ros.inference.engines.choose import make_engine
from mmsam_ros.inference.export import Agreement, sample_inputs, subsets
from mmsam_ros.model import CombineConfig, ModelConfig, build_model

LARGE = "vit_l" in os.environ.get("PRESETS", "")
ENGINES = ("torch", "onnx", *(("compile",) if torch.cuda.is_available() else ()))


def report() -> None:
    """Measure all cases and write benchmarks/results/bench_engines.json."""
    presets = ["nano", "tiny", *(["vit_l"] if LARGE else [])]
    rows = [
        in_process({"preset": preset, "modalities": names, "threads": threads},
                   OMP_NUM_THREADS=str(threads))
        for preset in presets
        for names in subsets(config_of(preset))
        for threads in (1, 2)
    ]  # fmt: skip
    bars = [
        bar(f"tiny, all sensors, {row['threads']} threads: best engine over torch",
            row.get("best_over_torch"), "x", 2.0, ge, row.get("reason", ""))
        for row in rows
        if row["preset"] == "tiny" and len(row["modalities"]) == 3
    ]  # fmt: skip
    write("bench_engines", rows, bars)


def config_of(preset: str) -> ModelConfig:
    """The preset with two auxiliaries and the gate."""
    modalities, combine = ("rgb", "lidar", "thermal"), CombineConfig("masked", gate=True)
    return ModelConfig.preset(preset, num_classes=14, modalities=modalities, combine=combine)


def measure(case: Row) -> Row:
    """Median milliseconds of each engine, how it agrees, and the best one's gain."""
    tune_allocator()
    torch.manual_seed(0)
    model = build_model(config_of(case["preset"])).eval()
    size, repeats = model.config.image_size, 1 if case["preset"] == "vit_l" else 15
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs = sample_inputs(case["modalities"], (1, 3, *size))
    engines = {name: make_engine(name, model, device, "fp32", size) for name in ENGINES}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    logits: dict[str, torch.Tensor] = {}
    for turn in range(repeats + 1):  # the first one warms up
        for name, engine in engines.items():
            began = time.perf_counter()
            logits[name] = engine({n: x.to(engine.device) for n, x in inputs.items()}).cpu()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "size": list(size),
        "repeats": repeats,
        "load": round(os.getloadavg()[0], 1),
        "ms": {name: round(1e3 * value, 1) for name, value in medians.items()},
        "agreement": {n: vars(Agreement.of(x, logits["torch"])) for n, x in logits.items()},
        "best_over_torch": round(medians["torch"] / min(medians.values()), 2),
    }


if __name__ == "__main__":
    run(report, measure, __doc__)
