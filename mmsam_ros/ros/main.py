# SPDX-License-Identifier: Apache-2.0
"""Entry point of `ros2 run mmsam_ros segment`."""

import os
import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Run the node; see `mmsam_ros.ros.node`."""
    # By default, OpenMP threads that wait spin and take the cores from other threads
    # (benchmarks/results/network_cpu.json). Set before torch is loaded, which reads it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from mmsam_ros.ros.node import run

    return run(args)


if __name__ == "__main__":
    sys.exit(main())
