# SPDX-License-Identifier: Apache-2.0
"""Entry point of `ros2 run mmsam_ros segment`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Run the node; see `mmsam_ros.ros.node`."""
    # OpenMP threads that spin while they wait take the cores from other processes and from each
    # other (benchmarks/results/network_cpu.json). Read when torch loads, so it is set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from mmsam_ros.ros.node import run

    return run(args)


if __name__ == "__main__":
    sys.exit(main())
