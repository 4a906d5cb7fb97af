# SPDX-License-Identifier: Apache-2.0
"""Everything of a CUDA machine in one run: network and operations, a training step, a frame.

    python benchmarks/bench_gpu.py [--device cpu]

`vit_l` at 1024x1024, batch 1. With --device cpu `nano` is measured to try this program, and no JSON
is written. The node on a GPU: bench_node.py; the engines: bench_engines.py --device cuda.
"""

import argparse
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from operator import ge, le
from typing import Any

import operations
import torch
from bench_train import measure as train_step
from networks import Clock, config_of, network
from results import Row, bar, command_line, in_process, milliseconds, peak_gib, run, write
from scenes import Scene

from mmsam_ros.inference import Segmenter, tune_allocator
from mmsam_ros.inference.engines.choose import make_engine
from mmsam_ros.inference.export import Agreement
from mmsam_ros.model import prepare
from mmsam_ros.weights import default_weights

NO_GPU = "no GPU on this machine"
# way, precision
NETWORK = (
    ("plain", "fp32"), ("plain", "tf32"), ("plain", "bf16"),
    ("prepared", "fp32"), ("prepared", "tf32"), ("prepared", "bf16"),
    ("triton", "fp32"), ("triton", "tf32"), ("triton", "bf16"), ("graph", "tf32"),
    ("graph", "bf16"), ("compile", "fp32"), ("compile", "tf32"), ("compile", "bf16"),
)  # fmt: skip
ENGINES, PRECISIONS = ("prepared", "compile", "triton"), ("fp32", "bf16")
GOALS = {"H200": 12.0, "H100": 16.0}  # ms


def report(args: argparse.Namespace) -> None:
    """Measure and write bench_gpu.json."""
    device, missing = args.device, args.device == "cuda" and not torch.cuda.is_available()
    preset = "vit_l" if device == "cuda" else "nano"
    base = {"device": device, "preset": preset}
    cases: list[Row] = [
        base | {"what": "network", "way": way, "precision": precision} for way, precision in NETWORK
    ]
    cases += [
        base | {"what": "training step", "precision": precision, "batch": 1, "repeats": 10,
                "devices": 1, "strategy": "auto", "checkpointing": False}
        for precision in ("fp32", "bf16-mixed")
    ]  # fmt: skip
    cases += [
        {"what": "frame", "device": device, "size": size} for size in ((720, 1280), (1080, 1920))
    ]
    cases += operations.cases(device)
    rows = [case | {"reason": NO_GPU if missing else "not reached"} for case in cases]
    for number, case in enumerate(() if missing else cases):
        rows[number] = in_process(case)
        if device == "cuda":  # a lent machine may be taken back
            write("bench_gpu", rows, bars(rows))
    if missing:
        write("bench_gpu", rows, bars(rows))


def measure(case: Row) -> Row:
    """A row's numbers."""
    tune_allocator()
    ways = {"network": forward_pass, "training step": train_step, "frame": frame}
    return ways.get(case["what"], operation)(case)


def timed(function: Callable[[], Any], device: str, repeats: int) -> Row:
    """Percentiles of a function's time; three runs warm up."""
    clock, seconds = Clock(device), []
    for _ in range(3 + repeats):
        began = clock.now()
        function()
        seconds.append(clock.now() - began)
    return milliseconds(seconds[3:])


def forward_pass(case: Row) -> Row:
    """The network with all modalities."""
    device, way, precision = case["device"], case["way"], case["precision"]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    half = precision == "bf16"
    model, inputs = network(config_of(case["preset"]), device)
    if way == "prepared":
        model = prepare(model)
    forward: Callable[[], Any] = partial(model, inputs)
    if way in ("compile", "triton", "graph"):  # a graph takes nothing from the CPU, as kernels do
        name, size = ("compile" if way == "compile" else "triton"), model.config.image_size
        engine = make_engine(name, model, device, "bf16" if half else "fp32", size)
        forward = partial(engine, inputs)
    context = torch.autocast(device, torch.bfloat16, cache_enabled=False) if half else nullcontext()
    with torch.inference_mode():
        with context:
            logits = forward()
            if way == "graph":
                forward = captured(forward)
            found = timed(forward, device, 50 if device == "cuda" else 3)
        peak = {"peak_gib": peak_gib(cuda=device == "cuda")}
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        plain, inputs = network(config_of(case["preset"]), device)  # the same seed
        return found | peak | vars(Agreement.of(logits, plain(inputs)))


def captured(forward: Callable[[], Any]) -> Callable[[], None]:
    """A CUDA graph of what a function computes; its inputs stay where they are."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            forward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()
    return graph.replay


@torch.inference_mode()
def operation(case: Row) -> Row:
    """One operation of the network by itself."""
    forward, expected = operations.operation(case)
    difference = (forward() - expected).abs().max().item()
    return timed(forward, case["device"], 50) | {"difference": difference}


def frame(case: Row) -> Row:
    """The package's weights on sensor data, from memory to labels in memory."""
    device = case["device"]
    segmenter = Segmenter.load(default_weights(), device)
    given = Scene.of(*case["size"]).frame()
    steps: list[dict[str, float]] = []

    def once() -> None:
        steps.append(dict(segmenter(given, confidence=False).timings))

    found = timed(once, device, 50 if device == "cuda" else 3)
    return found | {
        f"{s}_ms": round(statistics.median(t[s] for t in steps[3:]), 2) for s in steps[0]
    }


def bars(rows: list[Row]) -> list[Row]:
    """The bars of a GPU; null with the reason where there is none."""
    own = {(r["what"], r.get("way"), r["precision"]): r for r in rows if "precision" in r}
    plain = own["network", "plain", "fp32"]
    reason = plain.get("reason", "no way has run")
    # what a user can choose, as far as it computes the same
    ways = [
        row
        for (what, way, precision), row in own.items()
        if what == "network" and way in ENGINES and precision in PRECISIONS
        and row.get("cosine", 0.0) >= 0.999
    ]  # fmt: skip
    best = min(ways, key=lambda r: r["p50_ms"], default={})
    p50 = best.get("p50_ms")
    name = "GPU, vit_l 1024x1024, batch 1"
    ratio = round(plain["p50_ms"] / p50, 2) if p50 and "p50_ms" in plain else None
    entries = [
        bar(f"{name}: times faster than plain float32 without TF32", ratio, "x", 8.0, ge, reason)
    ]
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    for kind, limit in GOALS.items():
        here = p50 if kind in card else None
        why = reason if not card else f"this GPU is a {card}"
        entries.append(bar(f"{name}, {kind}: p50", here, "ms", limit, le, why))
    steps = [own["training step", None, precision] for precision in ("fp32", "bf16-mixed")]
    for what, key, limit in (("speed", "seconds", 3.0), ("memory", "peak_gib", 2.0)):
        whole, half = (step.get(key, 0.0) for step in steps)
        value = round(whole / half, 2) if whole and half else None
        lacks = next((step["reason"] for step in steps if "reason" in step), "")
        title = f"GPU, training step of vit_l, {what}: float32 over bf16"
        entries.append(bar(title, value, "x", limit, ge, lacks))
    return entries


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    run(report, measure, __doc__, parser)
