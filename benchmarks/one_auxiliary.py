# SPDX-License-Identifier: Apache-2.0
"""Has the path of one auxiliary become slower? `tiny` on the CPU, now and at an earlier revision.

    git worktree add ../before 634e9e7^      # the last revision that knows one auxiliary only
    python benchmarks/one_auxiliary.py ../before

Judged by the operations that a forward pass runs, by name and number: on a shared machine the
seconds of one and the same code differ by half, more than anything that could have changed. They
are measured all the same, in processes that take turns, each first in every second turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from operator import le
from pathlib import Path
from typing import Any

from results import bar, write

TURNS, REPEATS = 4, 20
FORWARD = f"""
from mmsam_ros.inference import tune_allocator
tune_allocator()
import json, statistics, time, torch
from torch.profiler import ProfilerActivity, profile
from mmsam_ros.model import build_model
from mmsam_ros.weights import setting_config
model = build_model(setting_config("deliver_rgb_lidar", "tiny")).eval()
inputs = {{m: torch.randn(1, 3, 288, 384) for m in model.config.modalities}}
seconds = []
with torch.inference_mode():
    for _ in range({REPEATS}):
        began = time.perf_counter()
        model(inputs)
        seconds.append(time.perf_counter() - began)
    with profile(activities=[ProfilerActivity.CPU]) as ran:
        model(inputs)
operations = {{e.key: e.count for e in ran.key_averages() if e.key.startswith("aten::")}}
print(json.dumps({{"seconds": statistics.median(seconds), "operations": operations}}))
"""


def main() -> None:
    """Measure and write benchmarks/results/one_auxiliary.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="checkout of the earlier revision")
    folders = [Path(__file__).resolve().parents[1], parser.parse_args().before.resolve()]
    now, before = folders
    seconds: dict[Path, list[float]] = {folder: [] for folder in folders}
    operations: dict[Path, dict[str, int]] = {}
    for turn in range(TURNS):
        for folder in folders if turn % 2 else reversed(folders):
            found = _forward(folder)
            seconds[folder].append(found["seconds"])
            operations[folder] = found["operations"]
            print(folder.name, found["seconds"], flush=True)
    rows = [
        {
            "network": "tiny, 288x384, one auxiliary, fp32",
            "revision": name,
            "operations": sum(operations[folder].values()),
            "median_s": round(statistics.median(seconds[folder]), 4),
            "by process": [round(value, 4) for value in seconds[folder]],
        }
        for name, folder in zip(("now", "before"), folders, strict=True)
    ]
    more = {
        name: count - operations[before].get(name, 0)
        for name, count in operations[now].items()
        if count > operations[before].get(name, 0)
    }
    rows.append({"what": "operations that run more often now", **more})
    bars = [bar("operations that run more often now", sum(more.values()), "", 0, le)]
    print(write("one_auxiliary", rows, bars))


def _forward(folder: Path) -> Any:
    """Median seconds of a forward pass and its operations, with the code in `folder`."""
    done = subprocess.run(
        [sys.executable, "-c", FORWARD], cwd=folder, check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
