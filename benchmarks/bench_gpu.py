# SPDX-License-Identifier: Apache-2.0
"""Everything of a CUDA machine in one run: network and operations, a training step, a frame.

    python benchmarks/bench_gpu.py [--device cpu]

`vit_l` at 1024x1024, batch 1. With --device cpu `nano` is measured to try this program, and no JSON
is written. The node on a GPU: bench_node.py; the engines: bench_engines.py --device cuda.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from operator import ge, le
from typing import Any

import operations
import torch
from bench_train import measure as train_step
from networks import Clock, config_of, network
from results import Row, bar, command_line, milliseconds, peak_gib, write
from scenes import Scene
from torch import Tensor

from mmsam_ros._util import MmsamError
from mmsam_ros.inference import Segmenter, tune_allocator
from mmsam_ros.inference.engines.choose import make_engine
from mmsam_ros.inference.export import Agreement
from mmsam_ros.model import MMSAMAdapter
from mmsam_ros.weights import default_weights

NO_GPU = "no GPU on this machine"
# way, precision; the first is the network as it is trained. `compile` takes minutes
NETWORK = (("plain", "fp32"), ("plain", "tf32"), ("plain", "bf16"), ("torch", "fp32"),
           ("torch", "bf16"), ("triton", "fp32"), ("triton", "bf16"))  # fmt: skip
COMPILED = (("compile", "bf16"),)
ENGINES = ("torch", "triton", "compile")
WARM_UP = 5  # runs; the third is captured as a CUDA graph
GOALS = {"H200": 12.0, "H100": 16.0}  # ms


def report(args: argparse.Namespace) -> None:
    """Measure and write bench_gpu.json."""
    device, missing = args.device, args.device == "cuda" and not torch.cuda.is_available()
    preset = "vit_l" if device == "cuda" else "nano"
    base = {"device": device, "preset": preset, "what": "network"}
    cases: list[Row] = [base | {"way": way, "precision": kind} for way, kind in NETWORK]
    cases += operations.cases(device)
    cases += [
        base | {"what": "training step", "precision": precision, "batch": 1, "repeats": 10,
                "devices": 1, "strategy": "auto", "checkpointing": False}
        for precision in ("fp32", "bf16-mixed")
    ]  # fmt: skip
    cases += [
        {"what": "frame", "device": device, "size": size, "engine": engine}
        for engine in ("torch", "triton") for size in ((720, 1280), (1080, 1920))
    ]  # fmt: skip
    cases += [base | {"way": way, "precision": kind} for way, kind in COMPILED]
    rows = [case | {"reason": NO_GPU if missing else "not reached"} for case in cases]
    for number, case in enumerate(() if missing else cases):
        rows[number] = guarded(case)
        if device == "cuda":  # a lent machine may be taken back
            write("bench_gpu", rows, bars(rows))
    if missing:
        write("bench_gpu", rows, bars(rows))


def guarded(case: Row) -> Row:
    """The case and what `measure` says of it, or why it cannot be measured.

    All in one process: a large network takes longer to make than to time, and the peak of a GPU's
    memory can be counted anew.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        row = case | measure(case)
    except (MmsamError, ImportError, RuntimeError) as error:
        row = case | {"reason": str(error).strip().partition("\n")[0]}
    print(row, flush=True)
    return row


def measure(case: Row) -> Row:
    """A row's numbers."""
    tune_allocator()
    ways = {"network": forward_pass, "training step": train_step, "frame": frame}
    return ways.get(case["what"], operation)(case)


def timed(function: Callable[[], Any], device: str, repeats: int) -> Row:
    """Percentiles of a function's time; `WARM_UP` runs come first."""
    clock, seconds = Clock(device), []
    for _ in range(WARM_UP + repeats):
        began = clock.now()
        function()
        seconds.append(clock.now() - began)
    return milliseconds(seconds[WARM_UP:])


def forward_pass(case: Row) -> Row:
    """The network with all modalities, against the plain one in float32."""
    device, way, precision = case["device"], case["way"], case["precision"]
    half = precision == "bf16"
    model, inputs, expected = plain_network(case["preset"], device)
    forward: Callable[[], Any] = partial(model, inputs)
    if way != "plain":
        kind = "bf16" if half else "fp32"
        engine = make_engine(way, model, device, kind, model.config.image_size)
        forward = partial(engine, inputs)
    autocast = torch.autocast(device, torch.bfloat16, enabled=half and way == "plain")
    with torch.inference_mode(), autocast, tensor_float(precision == "tf32"):
        found = timed(forward, device, 20 if device == "cuda" else 3)
        logits = forward()
    peak = {"peak_gib": peak_gib(cuda=device == "cuda")}
    return found | peak | vars(Agreement.of(logits, expected))


@lru_cache(maxsize=1)
@torch.inference_mode()
def plain_network(preset: str, device: str) -> tuple[MMSAMAdapter, dict[str, Tensor], Tensor]:
    """A network, inputs, and its logits in float32 without TF32."""
    model, inputs = network(config_of(preset), device)
    with tensor_float(on=False):
        return model, inputs, model(inputs)


@contextmanager
def tensor_float(on: bool) -> Iterator[None]:
    """Products and convolutions of float32 in TF32, or not."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = on
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@torch.inference_mode()
def operation(case: Row) -> Row:
    """One operation of the network by itself."""
    forward, expected = operations.operation(case)
    difference = (forward() - expected).abs().max().item()
    return timed(forward, case["device"], 50) | {"difference": difference}


def frame(case: Row) -> Row:
    """The package's weights on sensor data, from memory to labels in memory."""
    device = case["device"]
    segmenter = Segmenter.load(default_weights(), device, engine=case["engine"])
    segmenter.warm_up()
    given = Scene.of(*case["size"]).frame()
    steps: list[dict[str, float]] = []

    def once() -> None:
        steps.append(dict(segmenter(given, confidence=False).timings))

    found = timed(once, device, 50 if device == "cuda" else 3)
    return found | {
        f"{s}_ms": round(statistics.median(t[s] for t in steps[WARM_UP:]), 2) for s in steps[0]
    }


def bars(rows: list[Row]) -> list[Row]:
    """The bars of a GPU; null with the reason where there is none."""
    own = {(r["what"], r.get("way"), r["precision"]): r for r in rows if "precision" in r}
    plain = own["network", "plain", "fp32"]
    reason = plain.get("reason", "no way has run")
    # what a user can choose, as far as it computes the same
    ways = [
        row
        for (what, way, _), row in own.items()
        if what == "network" and way in ENGINES and row.get("cosine", 0.0) >= 0.999
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
    report(parser.parse_args())
