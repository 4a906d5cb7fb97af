# SPDX-License-Identifier: Apache-2.0
"""Linear layers with weights in oneDNN's own layout, for CPUs on which its products are faster."""

import torch
from torch import Tensor, nn

from mmsam_ros.model.rewritten import EXACT

LARGE = 2**18  # weights of a layer; in smaller ones the call costs more than the product saves


def packing_pays() -> bool:
    """Whether packing makes this CPU faster.

    A product of 4096x1024 and 1024x4096 on two cores of an AMD EPYC with AVX-512: 123 to 174
    GFLOP/s by PyTorch's own choice, 350 to 470 packed. On one with AVX2 alone both have 75.
    """
    return torch.backends.mkldnn.is_available() and (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


class PackedLinear(nn.Module):
    """`nn.Linear` for inference on a CPU, in one dtype; under autocast, too."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(dtype))
        self.register_buffer("weight", packed, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out) in the layer's dtype."""
        return torch.ops.mkldnn._linear_pointwise(
            x.to(self.dtype), self.weight, self.bias, "none", [], ""
        )


@torch.no_grad()
def pack(net: nn.Module, dtype: torch.dtype, least: int = LARGE) -> None:
    """Replace the large linear layers of a network prepared for inference, in place.

    What needs float32 whatever the dtype stays as it is. A layer that two
    networks share is packed once. Float32 weights that nothing else holds are freed.
    """
    packed: dict[int, PackedLinear] = {}
    for name, module in list(net.named_modules(remove_duplicate=False)):
        large = type(module) is nn.Linear and module.weight.numel() >= least
        if large and name.rpartition(".")[2] not in EXACT:
            if id(module) not in packed:
                packed[id(module)] = PackedLinear(module, dtype)
            net.set_submodule(name, packed[id(module)])
