# SPDX-License-Identifier: Apache-2.0
"""The node between processes, from the camera's message to the mask.

    python benchmarks/bench_node.py [--engine auto] [--against CHECKOUT] [--short]

Needs ROS 2. The package's weights, 100,000 points, thermal 640x512, all stamps equal. Unloaded: one
frame at a time. Then frames at 10, 20 and 30 Hz, and the highest rate at which less than 5 % are
dropped. With --against, nodes of this checkout and of another one get frames in turn.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from itertools import product
from operator import ge, le, lt
from pathlib import Path

import torch
from node_rig import DOMAIN, Rig
from results import ROOT, Row, bar, command_line, milliseconds, write

SIZES = {"1 MP": (720, 1280), "2 MP": (1080, 1920)}
RATES, DROPS = (10, 20, 30), 0.05
TIMES_FASTER = {"1 MP": 2.5, "2 MP": 3.0}
NO_GPU, NO_CHECKOUT = "no GPU on this machine", "without --against"


def main() -> None:
    """Measure and write bench_node.json."""
    parser = command_line(__doc__)
    parser.add_argument("--engine", default="auto", help="of this checkout (default: auto)")
    parser.add_argument("--against", type=Path, help="another checkout, with its default engine")
    parser.add_argument("--short", action="store_true", help="few frames: try it out, no JSON")
    args = parser.parse_args()
    rows: list[Row] = []
    for size, sensors in product(SIZES, (3, 2)):
        case = {"size": size, "sensors": sensors}
        rows += guarded(case, lambda case: alone(case, args))
        if torch.cuda.is_available() and not args.short:  # a lent machine may be taken back
            write("bench_node", rows, bars(rows))
    for size, threads in product(SIZES, (1, 2)) if args.against else ():
        case = {"size": size, "sensors": 3, "threads": threads, "what": "in turn"}
        rows += guarded(case, lambda case: in_turn(case, args))
    if not args.short:
        write("bench_node", rows, bars(rows))


def guarded(case: Row, measure: Callable[[Row], list[Row]]) -> list[Row]:
    """What is measured, or the case with the reason why it is not."""
    try:
        rows = measure(case)
    except RuntimeError as error:
        rows = [case | {"reason": str(error)[-2000:]}]
    for row in rows:
        print(row, flush=True)
    return rows


def alone(case: Row, args: argparse.Namespace) -> list[Row]:
    """Rows of one size and number of sensors: unloaded, at each rate, and the highest rate."""
    frames, seconds, probes = (5, 1, 2) if args.short else (30, 6, 5)
    with Rig(ROOT, case["sensors"], SIZES[case["size"]], args.engine) as rig:
        case |= {"engine": rig.facts["engine"], "device": rig.facts["device"]}
        cpu, began = rig.cpu(), time.monotonic()
        taken = [rig.ask() for _ in range(frames)]
        used = {"cpu_cores": round((rig.cpu() - cpu) / (time.monotonic() - began), 2)}
        load = {"load": round(os.getloadavg()[0], 1)}
        rows = [{"what": "unloaded", "frames": frames, **milliseconds(taken), **used, **load}]
        rows += [{"what": "rate", **rig.drive(rate, rate * seconds)} for rate in RATES]
        reached = 1 / statistics.median(taken)
        rows.append({"what": "highest rate"} | highest_rate(rig, reached, frames, probes))
    return [case | row for row in rows]


def highest_rate(rig: Rig, reached: float, frames: int, probes: int) -> Row:
    """The row of the highest rate with few drops, between half and twice what is `reached` with
    one frame at a time.
    """
    low, high, best = reached / 2, 2 * reached, {"rate_hz": None}
    for _ in range(probes):
        row = rig.drive((low + high) / 2, frames)
        if row["dropped"] < DROPS:
            low, best = row["rate_hz"], row
        else:
            high = row["rate_hz"]
    return best


def in_turn(case: Row, args: argparse.Namespace) -> list[Row]:
    """One row: both checkouts' latencies, and how many times faster this one is."""
    frames, sensors, size = 5 if args.short else 21, case["sensors"], SIZES[case["size"]]
    taken: dict[str, list[float]] = {"this": [], "other": []}
    cpu: dict[str, float] = {}
    with (
        Rig(ROOT, sensors, size, args.engine, case["threads"]) as this,
        Rig(args.against.resolve(), sensors, size, "", case["threads"], DOMAIN + 1) as other,
    ):
        rigs = {"this": this, "other": other}
        for name, rig in rigs.items():
            cpu[name] = -rig.cpu()
        for _ in range(frames):
            for name, rig in rigs.items():
                taken[name].append(rig.ask())
        for name, rig in rigs.items():
            cpu[name] = round(1e3 * (cpu[name] + rig.cpu()) / frames, 1)
    pairs = zip(taken["other"], taken["this"], strict=True)
    row = {f"{name}_p50_ms": milliseconds(times)["p50_ms"] for name, times in taken.items()}
    row |= {f"{name}_cpu_ms": value for name, value in cpu.items()}
    row |= {"times_faster": round(statistics.median(a / b for a, b in pairs), 2)}
    return [case | {"engine": this.facts["engine"], "frames": frames} | row]


def bars(rows: list[Row]) -> list[Row]:
    """The bars: against the other checkout, and on a GPU."""
    entries = []
    for size, threads in product(SIZES, (1, 2)):
        found = [r for r in rows if (r.get("threads"), r["size"]) == (threads, size)]
        value = found[0].get("times_faster") if found else None
        reason = found[0].get("reason", "") if found else NO_CHECKOUT
        name = f"tiny, CPU, topic to topic, {size}, {threads} threads: times faster than before"
        entries.append(bar(name, value, "x", TIMES_FASTER[size], ge, reason))
    gpu = torch.cuda.is_available()
    ours = [r for r in rows if gpu and (r["size"], r["sensors"]) == ("1 MP", 3)]
    failed = (row["reason"] for row in ours if "reason" in row)
    reason = next(failed, "no mask has arrived") if gpu else NO_GPU
    for what, rate, key, limit, holds in (
        ("unloaded", None, "p50_ms", 25.0, le), ("unloaded", None, "p99_ms", 35.0, le),
        ("rate", 10.0, "jitter_ms", 6.0, lt), ("rate", 30.0, "dropped", 0.0, le),
    ):  # fmt: skip
        at = [r for r in ours if r.get("what") == what and r.get("rate_hz") == rate]
        value = at[0].get(key) if at else None  # of nothing that has arrived there is no latency
        title = f"GPU, topic to topic, three sensors, 1 MP, {what} {rate or ''}".rstrip()
        unit = "ms" if key.endswith("_ms") else ""
        entries.append(bar(f"{title}: {key}", value, unit, limit, holds, reason))
    return entries


if __name__ == "__main__":
    main()
