# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels compute what their plain twins do, and compile for GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TEST = Path(__file__).parents[1]
SHARED_MEMORY = 99 * 1024  # that a program may have on GPUs of compute capability 8.6 and 8.9
HALF, WHOLE = "bf16", "fp32"

triton = pytest.importorskip("triton", reason="comes with PyTorch for CUDA, Linux on x86-64")


@pytest.mark.slow
def test_kernels_agree_with_their_twins() -> None:
    """In Triton's interpreter; what else they promise is asserted there."""
    path = os.pathsep.join(filter(None, [str(TEST), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, TEST / "model/interpreted.py"],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 32
    for case, (difference, spread) in found.items():
        assert spread > 0.1, case
        half = case.startswith("attention") and "float16" in case
        bound = 2e-3 if half else 3e-5 if case.startswith("network") else 5e-6
        assert difference < bound, case


def compiled(kernel: str, capability: int, pointers: dict[str, str], **constants: object) -> object:
    """A kernel's code for a GPU; sizes and strides are multiples of 16, as in real networks."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mmsam_ros.model import triton_kernels

    stages = constants.pop("num_stages", 3)
    function = getattr(triton_kernels, kernel)
    kinds = {name: f"*{kind}" for name, kind in pointers.items()}
    kinds |= dict.fromkeys(constants, "constexpr") | {"scale": "fp32"}
    signature = {name: kinds.get(name, "i32") for name in function.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, kind in enumerate(signature.values())
        if kind not in ("constexpr", "fp32")
    }
    source = ASTSource(function, signature, constants, aligned)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_stages": stages})


@pytest.mark.slow
@pytest.mark.parametrize("kind", [HALF, WHOLE])
@pytest.mark.parametrize("capability", [80, 87, 90])
def test_kernels_compile_for_gpus(
    capability: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `vit_l` at 1024 x 1024 wants them: A100, Orin, H100; without a GPU."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    names = ("q_ptr", "k_ptr", "v_ptr", "row_ptr", "column_ptr", "out_ptr")
    attention = compiled(
        "_attend", capability, dict.fromkeys(names, kind) | {"absent_ptr": WHOLE},
        HEIGHT=64, WIDTH=64, CHANNELS=64, HAS_ABSENT=True, E=64, QUERIES=64, KEYS=64,
        PRECISION="tf32x3", num_stages=2 if kind == HALF else 1,
    )  # fmt: skip
    pointers = dict.fromkeys(("offset_ptr", "weight_ptr", "point_ptr", "out_ptr"), WHOLE)
    sampling = compiled(
        "_attend_points", capability, pointers | {"value_ptr": kind},
        SHAPES=(128, 128, 64, 64, 32, 32), LEVELS=3, HEADS=16, POINTS=4, CHANNELS=32,
        SAMPLES=16, E=32, QUERIES=32,
    )  # fmt: skip
    for code in (attention, sampling):
        assert code.asm["cubin"]
        assert code.metadata.shared <= SHARED_MEMORY
