# SPDX-License-Identifier: Apache-2.0
"""What a result depends on besides its input: machine, versions, revision of the code."""

import os
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Processor with its vector units, cores, memory (GiB) and GPUs."""
    import torch

    facts, flags = _processor(), cpu_flags()
    vector_units = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "cpu": facts.get("model name", platform.machine()),
        "flags": [flag for flag in vector_units if flag in flags],
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": ", ".join(gpus) or None,
    }


def cuda_seen() -> str:
    """How many CUDA devices PyTorch sees, in words; the machine may have others."""
    import torch

    lack = f", as PyTorch {torch.__version__} is built without CUDA"
    count = torch.cuda.device_count() or "no"
    return f"PyTorch sees {count} CUDA devices{'' if torch.backends.cuda.is_built() else lack}"


def cpu_flags() -> list[str]:
    """What the processor can do, in the kernel's words; empty where the kernel does not say."""
    facts = _processor()
    return facts.get("flags", facts.get("Features", "")).split()


def _processor() -> dict[str, str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def revision() -> str | None:
    """The last commit that touched the package; None where it is not a checkout."""
    command, package = ["git", "log", "-1", "--format=%H", "--", "."], Path(__file__).parents[1]
    with suppress(OSError, subprocess.CalledProcessError):  # no git, or no repository
        done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=True)
        return done.stdout.strip() or None
    return None
