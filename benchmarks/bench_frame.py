# SPDX-License-Identifier: Apache-2.0
"""A whole frame, from sensor data to labels: engines of this checkout and another one, in turn.

    python benchmarks/bench_frame.py --against CHECKOUT [--engines torch,onnx] [--frames 15]

The package's weights on the CPU, three sensors, 100,000 points. Every engine has a process of its
own, and the processes take turns, so that load falls on all of them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from itertools import product
from operator import ge
from pathlib import Path
from typing import Any

from results import ROOT, Row, bar, command_line, write
from scenes import Scene

SIZES, THREADS = ((720, 1280), (1080, 1920)), (1, 2)
STEPS = ("prepare", "network", "labels")
TIMES_FASTER, NETWORK = {720: 2.5, 1080: 3.0}, 2.0
BEFORE = "before"


def main() -> None:
    """Measure and write bench_frame.json."""
    parser = command_line(__doc__)
    parser.add_argument("--against", type=Path, help="the checkout to compare with")
    parser.add_argument(
        "--engines", default="torch,onnx", help="of this one, with commas; onnx:PROVIDER"
    )
    parser.add_argument("--frames", type=int, default=15, help="of each (default: 15)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        serve(args.worker)
        return
    rows = [
        row for size, threads in product(SIZES, THREADS) for row in in_turn(size, threads, args)
    ]
    write("bench_frame", rows, bars(rows))


class Worker:
    """A process that segments a frame when asked, with a checkout's code."""

    def __init__(self, checkout: Path, engine: str, threads: int) -> None:
        path = os.pathsep.join((str(checkout), os.environ.get("PYTHONPATH", "")))
        own = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", engine], env=os.environ | own, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, size: tuple[int, int]) -> dict[str, float]:
        """Milliseconds by step of one frame; RuntimeError where the process has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(size) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process has ended with status {self.process.wait()}")
        found: dict[str, float] = json.loads(line)
        return found

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def serve(engine: str) -> None:
    """Segment a frame of each size that standard input asks for."""
    from mmsam_ros.inference import Segmenter, tune_allocator
    from mmsam_ros.weights import default_weights

    tune_allocator()
    name, _, provider = engine.partition(":")
    own = {"engine": name, "providers": [provider] if provider else []}
    options: Any = {} if engine == BEFORE else own
    segmenter = Segmenter.load(default_weights(), "cpu", **options)
    for line in sys.stdin:
        timings = segmenter(Scene.of(*json.loads(line)).frame(), confidence=False).timings
        print(json.dumps({step: timings[step] for step in STEPS}), flush=True)


def in_turn(size: tuple[int, int], threads: int, args: argparse.Namespace) -> list[Row]:
    """A row for every engine, with how much faster it is than the other checkout."""
    workers = {name: Worker(ROOT, name, threads) for name in args.engines.split(",")}
    if args.against:
        workers[BEFORE] = Worker(args.against.resolve(), BEFORE, threads)
    base = {"size": list(size), "threads": threads}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    try:
        for turn in range(args.frames + 2):  # the first two warm up
            for name, worker in workers.items():
                found = worker.ask(size)
                taken[name] += [found] if turn > 1 else []
    except RuntimeError as error:
        return [base | {"engine": name, "reason": str(error)}]
    finally:
        for worker in workers.values():
            worker.close()
    rows = []
    for name, own in taken.items():
        row = {**base, "engine": name, "frames": args.frames, "load": round(os.getloadavg()[0], 1)}
        row |= {f"{step}_ms": round(statistics.median(f[step] for f in own), 1) for step in STEPS}
        row["total_ms"] = round(statistics.median(sum(f.values()) for f in own), 1)
        if name != BEFORE and args.against:
            pairs = list(zip(taken[BEFORE], own, strict=True))
            whole = [sum(b.values()) / sum(f.values()) for b, f in pairs]
            row["times_faster"] = round(statistics.median(whole), 2)
            network = [b["network"] / f["network"] for b, f in pairs]
            row["network_times_faster"] = round(statistics.median(network), 2)
        print(row, flush=True)
        rows.append(row)
    return rows


def bars(rows: list[Row]) -> list[Row]:
    """Whole frame and network, of the engine with the fastest frame, against the other checkout."""
    entries = []
    for size, threads in product(SIZES, THREADS):
        own = [r for r in rows if (r["size"], r["threads"]) == (list(size), threads)]
        best = max(own, key=lambda r: r.get("times_faster", 0), default={})
        reason = best.get("reason", "without --against")
        for what, key, limit in (
            ("whole frame", "times_faster", TIMES_FASTER[size[0]]),
            ("network alone", "network_times_faster", NETWORK),
        ):
            name = f"tiny, CPU, {size[1]}x{size[0]}, {threads} threads, {what}: times faster"
            entries.append(bar(name, best.get(key), "x", limit, ge, reason))
    return entries


if __name__ == "__main__":
    main()
