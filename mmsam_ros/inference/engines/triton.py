# SPDX-License-Identifier: Apache-2.0
"""PyTorch with Triton kernels for attention and deformable sampling, on CUDA."""

import os
from collections.abc import Mapping

import torch
from torch import Tensor

from mmsam_ros._util import first_line
from mmsam_ros.inference.engines.cache import cache_folder
from mmsam_ros.inference.engines.eager import TorchEngine, find_device
from mmsam_ros.inference.errors import InferenceError
from mmsam_ros.model import MMSAMAdapter


class TritonEngine(TorchEngine):
    """`TorchEngine` with the kernels of `model/triton_kernels.py`; compiled ones stay in the cache.

    InferenceError where there is no Triton, or where its kernels do not fit the device, which the
    first inputs of a size tell. On the CPU they run in Triton's interpreter (TRITON_INTERPRET=1).
    """

    name = "triton"

    def __init__(
        self, model: MMSAMAdapter, device: str | torch.device = "auto", precision: str = "fp32"
    ) -> None:
        os.environ.setdefault("TRITON_CACHE_DIR", str(cache_folder("triton")))
        try:
            from triton import knobs
            from triton.errors import TritonError
            from triton.runtime import driver

            from mmsam_ros.model.triton_kernels import KERNELS
        except ImportError as error:
            raise InferenceError(f"engine triton: {error}; pip install triton") from error
        found = find_device(device)
        if found.type == "cuda":
            try:
                driver.active.get_current_device()  # builds its launcher
            except Exception as error:  # many kinds: no C compiler, no Python.h, no libcuda
                reason = f"{type(error).__name__}: {first_line(error)}"
                raise InferenceError(
                    f"engine triton: no kernel can be launched ({reason}); it needs a C compiler "
                    "and Python's headers"
                ) from error
        elif not knobs.runtime.interpret:
            raise InferenceError(f"engine triton: found device {found}, expected cuda")
        self._errors = TritonError
        super().__init__(model, found, precision, KERNELS)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """See `Engine`."""
        try:
            return super().__call__(inputs)
        except self._errors as error:
            raise InferenceError(f"engine triton: {first_line(error)}") from error
