# SPDX-License-Identifier: Apache-2.0
"""How PyTorch's threads wait for each other."""

import os


def wait_passively() -> None:
    """Let waiting threads sleep, unless the environment says otherwise; before torch is loaded.

    By default they spin and take the cores from other threads: with one other busy process, a
    forward pass took twice as long. Where waking them is slow, as in some virtual machines, one
    thread may then be faster than two; `mmsam doctor` measures it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
