# SPDX-License-Identifier: Apache-2.0
"""The network by components: milliseconds, multiply-adds, and the share of the matrix rate.

    python benchmarks/bench_model.py [--presets tiny,vit_l] [--device cpu] [--against CHECKOUT]

The matrix rate is that of a linear layer (4096 tokens, 1024 to 4096) of the same precision,
measured in the same process before and after. Random weights. vit_l takes minutes for each row.
With --against, vit_l of another checkout is measured as it comes: plain, default allocator.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from operator import ge, le
from pathlib import Path
from typing import Any

import torch
from networks import Clock, config_of, network
from results import (
    BF16_UNITS,
    KINDS,
    Row,
    bar,
    command_line,
    in_process,
    kind_of,
    peak_gib,
    run,
    said_by,
    write,
)
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmsam_ros._util import machine
from mmsam_ros.inference import tune_allocator
from mmsam_ros.model import build_model, pack, packing_pays, prepare
from mmsam_ros.model.packed import PackedLinear

TOKENS, NARROW, WIDE = 4096, 1024, 4096


def report(args: argparse.Namespace) -> None:
    """Measure all cases and write bench_model.json."""
    rows = [
        in_process(case | {"device": args.device}, OMP_NUM_THREADS=str(case["threads"]))
        for preset in args.presets.split(",")
        for case in cases(preset, args.device)
    ]
    if args.against:
        rows.append(before(args.against.resolve()))
    if not torch.cuda.is_available():
        missing = {"preset": "vit_l", "device": "cuda", "total_ms": None}
        rows.append(missing | {"reason": "no GPU on this machine"})
    write("bench_model", rows, bars(rows))


def cases(preset: str, device: str) -> Iterator[Row]:
    """Plain with both allocators, prepared, and both in bf16 where the hardware has it."""
    has_bf16 = device != "cpu" or not BF16_UNITS.isdisjoint(machine()["flags"])
    for threads in (1, 2) if preset != "vit_l" else (2,):
        base = {"preset": preset, "threads": threads, "precision": "fp32", "allocator": "tuned"}
        yield base | {"network": "plain", "allocator": "default"}
        for precision in ("fp32", "bf16") if has_bf16 else ("fp32",):
            for kind in ("plain", "prepared"):
                yield base | {"network": kind, "precision": precision}


def before(checkout: Path) -> Row:
    """The row of vit_l in another checkout."""
    case = {"preset": "vit_l", "threads": 2, "precision": "fp32", "allocator": "default",
            "network": "before", "device": "cpu"}  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, str(Path(__file__).with_name("plain_forward.py")), "vit_l"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    row = case | said_by(done)
    print(row, flush=True)
    return row


def measure(case: Row) -> Row:
    """Median milliseconds by component over the forward passes; the first one warms up."""
    if case["allocator"] == "tuned":
        tune_allocator()
    half = case["precision"] == "bf16"
    model, inputs = network(config_of(case["preset"]), case["device"])
    if case["network"] == "prepared":
        model = prepare(model)
        if case["device"] == "cpu" and packing_pays():  # as the engine does
            pack(model, torch.bfloat16 if half else torch.float32)
    clock, repeats = Clock(case["device"]), 1 if case["preset"] == "vit_l" else 9
    autocast = partial(torch.autocast, case["device"], torch.bfloat16, enabled=half)
    taken: list[Row] = []
    rates = [matrix_rate(clock, half)]
    with torch.inference_mode(), autocast():
        for _ in range(repeats + 1):
            with by_component(model, clock.now) as spent:
                began = clock.now()
                model(inputs)
            taken.append({name: 1e3 * value for name, value in spent.items()})
            taken[-1]["total"] = 1e3 * (clock.now() - began)
    rates.append(matrix_rate(clock, half))
    components = {n: round(statistics.median(t[n] for t in taken[1:]), 1) for n in taken[0]}
    total = components.pop("total")
    components["rest"] = round(total - sum(components.values()), 1)
    gmac, rate = multiply_adds(case["preset"], case["network"]), statistics.mean(rates)
    return {
        "size": list(inputs["rgb"].shape[-2:]), "repeats": repeats, "total_ms": total,
        "components_ms": components, "gmac": round(sum(gmac.values()), 3),
        "components_gmac": {name: round(value, 3) for name, value in gmac.items()},
        "matrix_gflops": round(rate, 1),
        "share_of_matrix_rate": round(2e3 * sum(gmac.values()) / total / rate, 3),
        "peak_gib": peak_gib(cuda=case["device"] == "cuda"),
    }  # fmt: skip


@torch.inference_mode()
def matrix_rate(clock: Clock, half: bool) -> float:
    """GFLOP/s of a linear layer, in the layout that the engine gives it."""
    kind = torch.bfloat16 if half else torch.float32
    x = torch.randn(TOKENS, NARROW, device=clock.device, dtype=kind)
    layer = nn.Linear(NARROW, WIDE, device=clock.device, dtype=kind)
    packs = clock.device == "cpu" and packing_pays()
    product = PackedLinear(layer, kind) if packs else layer
    seconds = []
    for _ in range(5):
        began = clock.now()
        product(x)
        seconds.append(clock.now() - began)
    return 2e-9 * TOKENS * NARROW * WIDE / statistics.median(seconds[1:])


def component(name: str, module: nn.Module) -> str | None:
    """What a module of the network counts as, with all that is in it; None: look inside."""
    parts = name.split(".")
    if parts[0] == "prior" and len(parts) == (4 if parts[1:2] == ["fusion"] else 3):
        return {"trunks": "trunks", "projections": "projections"}.get(parts[1], "fusion")
    if parts[-2:-1] == ["blocks"]:
        return "windowed blocks" if getattr(module, "window", 0) else "global blocks"
    words = {"patch_embed": "embed", "injector": "injectors", "extractor": "extractors",
             "extra_extractors": "extractors", "up": "up", "head": "head", "reads": "head",
             "norms": "norms"}  # fmt: skip
    return words.get(parts[-1]) or words.get(parts[-2:][0])


@contextmanager
def by_component(model: nn.Module, meter: Any) -> Iterator[dict[str, float]]:
    """What `meter()` grows by within each component; a module within another counts once."""
    spent: dict[str, float] = {}
    inside: list[nn.Module] = []
    began: list[float] = []
    hooks = []

    def enter(module: nn.Module, _: Any) -> None:
        if not inside:
            began.append(meter())
        inside.append(module)

    def leave(module: nn.Module, _: Any, __: Any, word: str) -> None:
        inside.pop()
        if not inside:
            spent[word] = spent.get(word, 0.0) + meter() - began.pop()

    for name, module in model.named_modules():
        if name and (word := component(name, module)):
            hooks.append(module.register_forward_pre_hook(enter))
            hooks.append(module.register_forward_hook(partial(leave, word=word)))
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()


def multiply_adds(preset: str, kind: str) -> dict[str, float]:
    """GMAC by component, counted without computing; attention is counted as matrix products."""
    config = config_of(preset)
    with torch.device("meta"):
        model = build_model(config).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model = model.to_empty(device="cpu")
        inputs = {name: torch.empty(1, 3, *config.image_size) for name in config.modalities}
        model = prepare(model) if kind == "prepared" else model
        counter = FlopCounterMode(display=False)
        with counter, by_component(model, lambda: counter.get_total_flops() / 2e9) as spent:
            model(inputs)
    return spent | {"rest": counter.get_total_flops() / 2e9 - sum(spent.values())}


def bars(rows: list[Row]) -> list[Row]:
    """The bars of vit_l on this kind of CPU."""
    found = {(r["network"], r["precision"], r["allocator"]): r for r in rows
             if r["preset"] == "vit_l" and r["device"] == "cpu"}  # fmt: skip
    old = found.get(("before", "fp32", "default"), {})
    best = {p: found.get(("prepared", p, "tuned"), {}) for p in ("fp32", "bf16")}

    def ratio(precision: str) -> float | None:
        before, after = (row.get("total_ms", 0.0) for row in (old, best[precision]))
        return round(before / after, 2) if before and after else None

    fp32, lacks = best["fp32"], "not measured (vit_l, --against), or failed"
    without_bf16 = [
        ("times faster than before", ratio("fp32"), "x", 1.8, ge),
        ("share of the matrix rate", fp32.get("share_of_matrix_rate"), "", 0.8, ge),
        ("peak memory", fp32.get("peak_gib"), "GiB", 5.0, le),
    ]
    own = {
        "cpu_bf16": [
            ("float32: times faster than before", ratio("fp32"), "x", 2.5, ge),
            ("bf16: times faster than before", ratio("bf16"), "x", 5.0, ge),
            ("peak memory", fp32.get("peak_gib"), "GiB", 3.5, le),
        ],
        "cpu_avx512": without_bf16,
        "cpu_avx2": without_bf16,
    }
    kind = kind_of(machine())
    return [
        bar(f"vit_l 1024x1024, {KINDS[kind]}: {what}", value, unit, limit, holds, lacks)
        for what, value, unit, limit, holds in own.get(kind, ())
    ]


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--presets", default="tiny", help="with commas (default: tiny)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--against", type=Path, help="the checkout to compare vit_l with")
    run(report, measure, __doc__, parser)
