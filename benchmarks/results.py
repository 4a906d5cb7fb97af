# SPDX-License-Identifier: Apache-2.0
"""What all benchmarks share: rows measured in processes of their own, and one JSON for each.

Results go to benchmarks/results/<name>.json, with the machine, the versions and the command; those
of speed into a folder of it for each kind of machine.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmsam_ros._util import machine, revision, versions, write_atomic
from mmsam_ros._util.openmp import wait_passively

wait_passively()  # as in the node; the processes that measure inherit it
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "onnxruntime",
    "onnxruntime-openvino",
    "opencv-python-headless",
    "rosbags",
)
BF16_UNITS = {"avx512_bf16", "amx_bf16"}  # of a processor that multiplies bfloat16
# folder of the results of speed, and how the kind of machine is called
KINDS = {"cpu_bf16": "CPU with bf16 units", "cpu_avx512": "CPU with AVX-512, no bf16 units",
         "cpu_avx2": "CPU with AVX2", "cpu": "other CPU", "gpu": "GPU"}  # fmt: skip
Row = dict[str, Any]


def bar(
    name: str, value: float | None, unit: str, limit: float, holds: Callable[[float, float], bool],
    reason: str = "",
) -> Row:  # fmt: skip
    """A bar; whether it holds is computed. Not measured: value None and a reason."""
    entry: Row = {"name": name, "value": value, "unit": unit, "bar": limit}
    entry["holds"] = None if value is None else holds(value, limit)
    return entry | ({"reason": reason} if value is None else {})


def kind_of(machine: Mapping[str, Any]) -> str:
    """Which of `KINDS` a machine is."""
    if machine["gpu"]:
        return "gpu"
    flags = set(machine["flags"])
    if flags & BF16_UNITS:
        return "cpu_bf16"
    units = {"avx512f": "cpu_avx512", "avx2": "cpu_avx2"}
    return next((kind for unit, kind in units.items() if unit in flags), "cpu")


def write(name: str, rows: Sequence[Mapping[str, Any]], bars: Sequence[Mapping[str, Any]]) -> None:
    """Write the results of a benchmark; speed is that of one kind of machine."""
    own = machine()
    folder = RESULTS / kind_of(own) if name.startswith("bench_") else RESULTS
    folder.mkdir(exist_ok=True)
    script = Path(sys.argv[0]).resolve().relative_to(ROOT)
    content = {
        "name": name,
        "command": " ".join(["python", str(script), *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": own,
        "load": [
            round(load, 1) for load in os.getloadavg()
        ],  # over 1, 5 and 15 minutes, at the end
        "versions": versions(PACKAGES),
        "revision": revision(),
        "rows": list(rows),
        "bars": list(bars),
    }
    path = folder / f"{name}.json"
    write_atomic(path, json.dumps(content, indent=2) + "\n")
    print(path)


def command_line(description: str) -> argparse.ArgumentParser:
    """A parser with the first line of a benchmark's docstring."""
    return argparse.ArgumentParser(description=description.splitlines()[0])


def run(
    report: Callable[..., None], measure: Callable[[Row], Row], description: str,
    parser: argparse.ArgumentParser | None = None,
) -> None:  # fmt: skip
    """Command line of a benchmark: `report` with the parser's options, if there is one, or
    `measure` one case for `in_process`.
    """
    own = parser or command_line(description)
    own.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = own.parse_args()
    if args.case is not None:
        print(json.dumps(measure(args.case)))
    elif parser:
        report(args)
    else:
        report()


def milliseconds(seconds: Sequence[float]) -> Row:
    """Percentiles and jitter, the standard deviation; empty of nothing."""
    if not seconds:
        return {}
    ordered = sorted(1e3 * value for value in seconds)
    quantiles = {
        f"p{q}_ms": round(ordered[min(len(ordered) - 1, q * len(ordered) // 100)], 1)
        for q in (50, 95, 99)
    }
    return quantiles | {"jitter_ms": round(statistics.pstdev(ordered), 1)}


def in_process(case: Row, **environment: str) -> Row:
    """The case and what `measure` says of it, in a process of its own: memory peaks and OpenMP
    settings belong to a process. Where that fails, the reason.
    """
    command = [sys.executable, sys.argv[0], "--case", json.dumps(case)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    row = case | said_by(done)
    print(row, flush=True)
    return row


def said_by(done: "subprocess.CompletedProcess[str]") -> Row:
    """The JSON in the last line of a process's output; if it failed, the reason, which is the
    status alone for one that was killed, as for want of memory.
    """
    if done.returncode == 0:
        found: Row = json.loads(done.stdout.strip().splitlines()[-1])
        return found
    *_, reason = ["", *done.stderr.strip().splitlines()]
    return {"reason": reason or f"the process has ended with status {done.returncode}"}


def peak_gib(*, cuda: bool = False) -> float:
    """Peak memory of this process, or what it had of the GPU."""
    import torch

    if cuda:
        return round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def markdown_table(rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first row is its head."""
    lines = [rows[0], ["---"] + ["---:"] * (len(rows[0]) - 1), *rows[1:]]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
