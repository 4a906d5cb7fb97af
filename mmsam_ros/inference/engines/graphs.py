# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: all kernels of a forward pass launched at once."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mmsam_ros._util import first_line

_MOST = 32  # graphs of an engine; each holds its part of the memory
PASSES = 3  # until a set is captured; in the first ones libraries choose their kernels
_log = logging.getLogger(__name__)
Forward = Callable[[Mapping[str, Tensor]], Tensor]
Signature = tuple[tuple[str, torch.Size], ...]


class Graphs:
    """A forward pass on a GPU as one CUDA graph for each set of modalities and size.

    Launching thousands of small kernels one by one takes longer than running them. The first passes
    of a set run as they are, the next one is captured, and from then on replayed. A set that cannot
    be captured, which is logged, goes on without, and so do sizes beyond the first 32. Callers take
    turns (`Segmenter.turn`).

    Args:
        forward: computes logits of normalised images, always with the same kernels.
        device: the GPU.
    """

    def __init__(self, forward: Forward, device: torch.device) -> None:
        self.forward, self._device = forward, device
        self._passes: dict[Signature, int] = {}
        self._captured: dict[Signature, _Captured | None] = {}
        self._pool: Any = None  # memory that the graphs share
        # to capture on: the one that PyTorch chooses is on the first GPU that has captured
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits, in memory of their own."""
        key = tuple(sorted((name, image.shape) for name, image in inputs.items()))
        passes = self._passes[key] = self._passes.get(key, 0) + 1
        if passes == PASSES and len(self._captured) < _MOST:
            self._captured[key] = self._capture(inputs)
        graph = self._captured.get(key)
        return self.forward(inputs) if graph is None else graph.replay(inputs)

    def _capture(self, inputs: Mapping[str, Tensor]) -> "_Captured | None":
        device = self._device
        # a capture that fails leaves its stream as the current one
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)):
            if self._stream is None:
                self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)
            try:
                return _Captured(self.forward, inputs, self._pool, self._stream)
            except RuntimeError as error:  # out of memory, or an operation that waits for the CPU
                reason = first_line(error)
            _end_of_capture(self._stream)  # the error is gone, and with it what its frames held
        _log.warning(
            "no CUDA graph of the network with %s, continuing without one, slower: %s",
            ", ".join(inputs), reason,
        )  # fmt: skip
        return None


class _Captured:
    """A captured pass with the memory that it reads and writes."""

    def __init__(
        self, forward: Forward, inputs: Mapping[str, Tensor], pool: Any, stream: torch.cuda.Stream
    ) -> None:
        self._inputs = {name: image.clone() for name, image in inputs.items()}
        self._graph = torch.cuda.CUDAGraph()
        # other threads may use the GPU meanwhile, but not wait for all of it
        with torch.cuda.graph(self._graph, pool, stream, "thread_local"):
            self._logits = forward(self._inputs)

    def replay(self, inputs: Mapping[str, Tensor]) -> Tensor:
        for name, image in inputs.items():
            self._inputs[name].copy_(image)
        self._graph.replay()
        return self._logits.clone()


def _end_of_capture(stream: torch.cuda.Stream) -> None:
    """After a capture that failed PyTorch's generator of random numbers believes that one is going
    on, and refuses to draw, until another capture ends.
    """
    with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream):
        torch.zeros((), device="cuda")
