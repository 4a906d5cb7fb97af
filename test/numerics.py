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
UNITS = ("losses", "optimiser", "metrics", "network_inputs", "evaluate", "gradients")
NUMBERS = ["test/model", "test/inference", "test/weights",
           *(f"test/training/test_{name}.py" for name in UNITS)]  # fmt: skip
# they choose threads themselves
TRAINING = ["test/training/test_distributed.py", "test/training/test_learning.py"]

# MKL, which takes the matrix products of float64, knows no name for "none"; this is its plainest.
NO_UNIT = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"}
ONEDNN: list[Row] = [{}, {"ONEDNN_MAX_CPU_ISA": "SSE41"}, {"MMSAM_TEST_ONEDNN": "0"}]


def rows(part: str) -> Iterator[tuple[Row, list[str]]]:
    """What each row sets, and its tests; units that the processor lacks libraries leave out."""
    if part == "ci":
        yield {**NO_UNIT, "OMP_NUM_THREADS": "1"}, NETWORK
        yield {**AVX2, "ONEDNN_MAX_CPU_ISA": "SSE41", "OMP_NUM_THREADS": "2"}, NETWORK
        return
    for unit, onednn, threads in itertools.product((NO_UNIT, AVX2, {}), ONEDNN, ("1", "2")):
        own = TRAINING if threads == "1" and not onednn else []
        yield {**unit, **onednn, "OMP_NUM_THREADS": threads}, NUMBERS + own


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
    passed = [run(row, tests) for row, tests in rows(parser.parse_args().part)]
    print(f"rows: {sum(passed)} passed, {len(passed) - sum(passed)} failed")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
