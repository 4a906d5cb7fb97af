# SPDX-License-Identifier: Apache-2.0
"""torch.compile: the network in kernels that are made for it."""

import os
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.runtime.runtime_utils import default_cache_dir
from torch.library import custom_op

from mmsam_ros.inference.engines.cache import cache_folder
from mmsam_ros.inference.engines.eager import TorchEngine, find_device
from mmsam_ros.inference.errors import InferenceError
from mmsam_ros.model import PLAIN, MMSAMAdapter, Operations
from mmsam_ros.model.deformable import Shapes

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
        super().__init__(model, found, precision, _kernels() if found.type == "cuda" else PLAIN)
        default = default_cache_dir()  # in /tmp; set by whatever imports torch._dynamo
        if os.environ.get("TORCHINDUCTOR_CACHE_DIR", default) == default:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder("inductor"))
        torch._dynamo.config.recompile_limit = _VARIANTS
        self._run_by(torch.compile(self.model, dynamic=False, fullgraph=True))

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """See `Engine`."""
        try:
            return super().__call__(inputs)
        except TorchDynamoException as error:  # the compilers' errors, too
            reason = str(error).strip().partition("\n")[0]
            raise InferenceError(f"engine compile: {reason}") from error


@lru_cache(maxsize=1)
def _kernels() -> Operations:
    """The kernels of `model/triton_kernels.py` as operations that the compiler leaves as they are;
    PyTorch's where there is no Triton.
    """
    try:
        from mmsam_ros.model.triton_kernels import KERNELS
    except ImportError:
        return PLAIN
    attend = custom_op(
        "mmsam_ros::attend", KERNELS.attend, mutates_args=(),
        schema="(Tensor q, Tensor k, Tensor v, Tensor by_row, Tensor by_column, Tensor? absent) "
               "-> Tensor",
    )  # fmt: skip
    attend.register_fake(lambda q, k, v, *_: v.new_empty(q.shape))

    def sample(
        value: Tensor, offsets: Tensor, weights: Tensor, points: Tensor, sides: list[int]
    ) -> Tensor:
        return KERNELS.attend_points(
            value, offsets, weights, points, list(zip(sides[::2], sides[1::2], strict=True))
        )

    sampled = custom_op(
        "mmsam_ros::attend_points", sample, mutates_args=(),
        schema="(Tensor value, Tensor offsets, Tensor weights, Tensor points, int[] sides) "
               "-> Tensor",
    )  # fmt: skip

    @sampled.register_fake
    def _(
        value: Tensor, offsets: Tensor, weights: Tensor, points: Tensor, sides: list[int]
    ) -> Tensor:
        B, Q = offsets.shape[:2]
        return value.new_empty((B, Q, value.shape[2] * value.shape[3]), dtype=torch.float32)

    def attend_points(
        value: Tensor, offsets: Tensor, weights: Tensor, points: Tensor, shapes: Shapes
    ) -> Tensor:
        return sampled(
            value, offsets, weights, points, [side for shape in shapes for side in shape]
        )

    return Operations(
        lambda q, k, v, r, c, absent=None: attend(q, k, v, r, c, absent), attend_points
    )
