# SPDX-License-Identifier: Apache-2.0
"""The tests of numbers, computed as other processors compute them.

    python test/numerics.py [--part ci | all]

Each row sets what the libraries take a processor for, the threads and oneDNN, and runs pytest. The
last line counts rows; the exit status is 1 where one failed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

Row = dict[str, str]

ROOT = Path(__file__).parents[1]
NETWORK = ["test/model/test_golden_network.py", "test/model/test_regression.py",
           "test/training/test_losses.py"]  # fmt: skip
ALL = ["test/model", "test/inference", "test/sensors", "test/weights",
       *(f"test/training/test_{name}.py" for name in
         ("losses", "optimiser", "metrics", "network_inputs", "distributed", "evaluate",
          "gradients"))]  # fmt: skip
CI: list[Row] = [
    {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"},
    {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "SSE41", "OMP_NUM_THREADS": "2"},
]


def matrix() -> Iterator[Row]:
    """Every vector unit of torch's and oneDNN's kernels, with and without oneDNN, 1 and 2 threads.

    A unit that the processor lacks is left out by the libraries themselves.
    """
    onednn = ({}, {"ONEDNN_MAX_CPU_ISA": "SSE41"}, {"MMSAM_TEST_ONEDNN": "0"})
    units = ({"ATEN_CPU_CAPABILITY": "default"}, {"ATEN_CPU_CAPABILITY": "avx2"}, {})
    for unit, dnn, threads in itertools.product(units, onednn, ("1", "2")):
        yield {**unit, **dnn, "OMP_NUM_THREADS": threads}


def run(row: Row, tests: list[str]) -> bool:
    """One row; says how it went, and everything where it failed."""
    began = time.monotonic()
    plugins = ["-p", "xdist", "-p", "_hypothesis_pytestplugin"]
    command = [sys.executable, "-m", "pytest", "-q", *plugins,
               "--numprocesses", "2", "--dist", "loadfile", *tests]  # fmt: skip
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **row}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    name = " ".join(f"{key}={value}" for key, value in row.items())
    last = done.stdout.strip().rpartition("\n")[2]
    print(f"{name}: {last} ({time.monotonic() - began:.0f} s)", flush=True)
    if done.returncode:
        print(done.stdout, done.stderr, flush=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--part", choices=("ci", "all"), default="ci")
    rows, tests = (CI, NETWORK) if parser.parse_args().part == "ci" else (list(matrix()), ALL)
    passed = [run(row, tests) for row in rows]
    print(f"rows: {sum(passed)} passed, {len(passed) - sum(passed)} failed")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
