# SPDX-License-Identifier: Apache-2.0
"""DDS domains that no other test process on the machine uses."""

from __future__ import annotations

import fcntl
import tempfile
from functools import cache
from pathlib import Path
from typing import IO

BLOCKS, OFFSETS = 9, 11  # domains 1 to 99: ports of higher ones are the system's


def free_domain(offset: int = 0) -> int:
    """A domain of this process; tests that must not hear each other's last words differ in offset.

    Raises:
        RuntimeError: as many test processes as there are blocks run already.
    """
    assert 0 <= offset < OFFSETS
    return 1 + _claim()[0] * OFFSETS + offset


@cache
def _claim() -> tuple[int, IO[str]]:
    """A block of domains and the locked file that keeps it for as long as this process lives."""
    for block in range(BLOCKS):
        try:
            file = (Path(tempfile.gettempdir()) / f"mmsam_test_domains_{block}").open("w")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process has it, or another user
            continue
        return block, file
    raise RuntimeError(f"{BLOCKS} test processes use DDS already; run fewer at once")
