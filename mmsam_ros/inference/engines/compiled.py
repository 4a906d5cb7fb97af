# SPDX-License-Identifier: Apache-2.0
"""torch.compile: the network in kernels that are made for it."""

import os
from collections.abc import Mapping

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.runtime.runtime_utils import default_cache_dir

from mmsam_ros._util import first_line
from mmsam_ros.inference.engines.cache import cache_folder
from mmsam_ros.inference.engines.eager import TorchEngine, find_device
from mmsam_ros.inference.errors import InferenceError
from mmsam_ros.model import PLAIN, MMSAMAdapter, Operations

_VARIANTS = 64  # sets of modalities and shapes; above torch's limit it would refuse


class CompiledEngine(TorchEngine):
    """`TorchEngine` through torch.compile; kernels stay in the cache.

    The first inputs with a set of modalities take minutes. InferenceError where they cannot be
    compiled, as without a C++ compiler.
    """

    name = "compile"
    packs = False  # the compiler chooses

    def __init__(
        self, model: MMSAMAdapter, device: str | torch.device = "auto", precision: str = "fp32"
    ) -> None:
        found = find_device(device)
        super().__init__(model, found, precision, _operations(found))
        default = default_cache_dir()  # in /tmp; set by whatever imports torch._dynamo
        if os.environ.get("TORCHINDUCTOR_CACHE_DIR", default) == default:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder("inductor"))
        torch._dynamo.config.recompile_limit = _VARIANTS
        self._forward = torch.compile(self.model, dynamic=False, fullgraph=True)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """See `Engine`."""
        try:
            return super().__call__(inputs)
        except TorchDynamoException as error:  # the compilers' errors, too
            raise InferenceError(f"engine compile: {first_line(error)}") from error


def _operations(device: torch.device) -> Operations:
    """On a GPU our kernels, where there is Triton; PyTorch's otherwise."""
    if device.type != "cuda":
        return PLAIN
    try:
        from mmsam_ros.model.triton_ops import OPAQUE
    except ImportError:
        return PLAIN
    return OPAQUE
