# SPDX-License-Identifier: Apache-2.0
"""glibc's allocator, told to keep the memory that it was given.

By default it returns every large tensor to the kernel, and page faults take about half the time
of a forward pass on the CPU.
"""

import ctypes
import platform

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def tune_allocator() -> bool:
    """Keep freed memory in the process; call it before large tensors are made.

    Returns whether it took effect: only glibc on Linux has these settings.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
