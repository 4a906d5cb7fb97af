# SPDX-License-Identifier: Apache-2.0
"""Commands that run the network keep the memory of large tensors, as the node does."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import ctypes, sys
from mmsam_ros.cli.main import main

names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
fields = [(name, ctypes.c_size_t) for name in names.split()]
Info = type("Info", (ctypes.Structure,), {"_fields_": fields})  # see malloc.h
libc = ctypes.CDLL(None)
libc.mallinfo2.restype, libc.malloc.restype = Info, ctypes.c_void_p

code = main(sys.argv[1:])
before = libc.mallinfo2().hblks
libc.malloc(ctypes.c_size_t(2**26))
print(code, libc.mallinfo2().hblks - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
@pytest.mark.parametrize(
    ("words", "code", "mappings"),
    [
        (["predict", "absent.png"], 2, 0),  # there is no such file, which is said later
        (["eval", "--weights", "absent.safetensors", "--root", "absent"], 2, 0),
        (["experiments", "list"], 0, 1),  # given back to the kernel when it is freed
    ],
)
def test_large_tensors_are_no_mappings_of_their_own(
    words: list[str], code: int, mappings: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", RUN, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == [str(code), str(mappings)], done.stderr
