# SPDX-License-Identifier: Apache-2.0
"""PyTorch's eager mode, the reference for other engines."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mmsam_ros._util import cuda_seen
from mmsam_ros.inference.engines.graphs import Graphs
from mmsam_ros.inference.errors import InferenceError
from mmsam_ros.model import (
    PLAIN,
    MMSAMAdapter,
    Operations,
    pack,
    packing_pays,
    prepare,
    store_halved,
)

PRECISIONS = ("fp32", "bf16")


class TorchEngine:
    """The network, prepared for inference, in PyTorch's eager mode, with autocast for bf16.

    Arguments and errors as of `Segmenter`; the model is put on the device and into eval mode.
    """

    name = "torch"
    packs = True  # whether it may use layouts that only this PyTorch and CPU read

    def __init__(
        self, model: MMSAMAdapter, device: str | torch.device = "auto", precision: str = "fp32",
        operations: Operations = PLAIN,
    ) -> None:  # fmt: skip
        if precision not in PRECISIONS:
            raise InferenceError(f"precision: found {precision!r}, expected one of {PRECISIONS}")
        self.device = find_device(device)
        self.precision = precision
        try:
            self.model = prepare(model.eval().to(self.device), operations)
            if self.device.type == "cuda" and precision == "bf16":
                store_halved(self.model)
            if self.packs and self.device.type == "cpu" and packing_pays():
                pack(self.model, torch.bfloat16 if precision == "bf16" else torch.float32)
        except RuntimeError as error:  # out of memory, no driver
            reason = f"the network cannot be moved there ({error})"
            raise InferenceError(f"device {device}: {reason}") from error
        self._forward: Callable[[Mapping[str, Tensor]], Tensor] = self.model

    def use_graphs(self) -> None:
        """Compute as CUDA graphs from now on. The weights must stay where and as they are."""
        self._forward = Graphs(self._forward, self.device)

    def drop_graphs(self) -> None:
        """Compute without them again; their memory is free then."""
        if isinstance(self._forward, Graphs):
            self._forward = self._forward.forward

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """See `Engine`."""
        half = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return self._forward(inputs).float()


def find_device(name: str | torch.device) -> torch.device:
    """The named device; InferenceError if PyTorch does not see it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = f"device: found {str(name)!r}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InferenceError(f"{found}, expected auto, cpu or cuda[:N]") from error
    if device.type not in ("cpu", "cuda"):
        raise InferenceError(f"{found}, expected auto, cpu or cuda[:N]")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InferenceError(f"{found}, but {cuda_seen()}")
    return device
