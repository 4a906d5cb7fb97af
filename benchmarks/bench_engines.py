# SPDX-License-Identifier: Apache-2.0
"""Every engine on every preset and set of sensors: milliseconds, and agreement with PyTorch.

    python benchmarks/bench_engines.py [--presets nano,tiny] [--device cpu]

Engines of one row take turns, so that load falls on all of them; the medians are compared. Those
that this machine does not have are `absent`, with the reason. On a CPU `compile` takes a minute or
two for each set of sensors of a new cache.
"""

import argparse
import copy
import os
import statistics
from collections.abc import Callable
from operator import ge

import torch
from networks import Clock, config_of, network
from results import Row, bar, command_line, in_process, run, write

from mmsam_ros.inference import InferenceError, tune_allocator
from mmsam_ros.inference.engines.choose import make_engine
from mmsam_ros.inference.export import Agreement, subsets

ENGINES: dict[str, tuple[str, ...]] = {  # with ONNX Runtime's providers
    "torch": (),
    "onnx": (),
    "onnx (TensorRT)": ("TensorrtExecutionProvider",),
    "onnx (OpenVINO)": ("OpenVINOExecutionProvider",),
    "compile": (),
    "triton": (),
}


def report(args: argparse.Namespace) -> None:
    """Measure all cases and write bench_engines.json."""
    rows = [
        in_process(
            {"preset": preset, "device": args.device, "modalities": names, "threads": threads},
            OMP_NUM_THREADS=str(threads),
        )
        for preset in args.presets.split(",")
        for names in subsets(config_of(preset))
        for threads in ((2,) if preset.startswith("vit") else (1, 2))
    ]
    write("bench_engines", rows, bars(rows))


def bars(rows: list[Row]) -> list[Row]:
    """How the worst engine agrees; None where a row has failed."""
    reason = next((row["reason"] for row in rows if "reason" in row), "")
    found = [
        agreement
        for row in rows
        for name, agreement in row.get("agreement", {}).items()
        if name != "plain"  # what the others are compared with
    ]
    return [
        bar(f"least {what} of an engine with PyTorch",
            None if reason else round(min(a[key] for a in found), 6), "", 0.999, ge, reason)
        for what, key in (("cosine", "cosine"), ("share of equal labels", "argmax"))
    ]  # fmt: skip


def measure(case: Row) -> Row:
    """Median milliseconds of each engine, how it agrees, and the best one's gain.

    `plain` is the network as it is trained, without what engines do to it.
    """
    tune_allocator()
    device = case["device"]
    model, everything = network(config_of(case["preset"]), device)
    size, repeats = model.config.image_size, 1 if case["preset"].startswith("vit") else 15
    inputs = {name: everything[name] for name in case["modalities"]}
    ways: dict[str, Callable[[dict[str, torch.Tensor]], torch.Tensor]] = {"plain": model}
    absent: dict[str, str] = {}
    for name, providers in ENGINES.items():
        # ONNX Runtime's keeps the network that it is given on the CPU
        own = copy.deepcopy(model) if device == "cuda" else model
        try:
            engine = make_engine(name.partition(" ")[0], own, device, "fp32", size, providers)
            with torch.inference_mode():
                engine(inputs)  # kernels of a device are compiled by then, or fail
        except InferenceError as error:
            absent[name] = str(error)
        else:
            ways[name] = engine
    clock = Clock(device)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    logits: dict[str, torch.Tensor] = {}
    for turn in range(repeats + 1):  # the first one warms up
        for name, forward in ways.items():
            began = clock.now()
            with torch.inference_mode():
                logits[name] = forward(inputs)
            if turn:
                seconds[name].append(clock.now() - began)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "size": list(size),
        "absent": absent,
        "repeats": repeats,
        "load": round(os.getloadavg()[0], 1),
        "ms": {name: round(1e3 * value, 1) for name, value in medians.items()},
        "agreement": {n: vars(Agreement.of(x, logits["plain"])) for n, x in logits.items()},
        "best_over_plain": round(medians["plain"] / min(medians.values()), 2),
    }


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--presets", default="nano,tiny", help="vit_l takes many minutes")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    run(report, measure, __doc__, parser)
