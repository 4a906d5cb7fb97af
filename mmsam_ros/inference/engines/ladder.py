# SPDX-License-Identifier: Apache-2.0
"""What happens when an engine fails: a retry, then a simpler engine, then `EngineError`."""

import gc
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from mmsam_ros._util import first_line
from mmsam_ros.inference.engines import Engine
from mmsam_ros.inference.engines.eager import TorchEngine
from mmsam_ros.inference.errors import InferenceError
from mmsam_ros.model import MMSAMAdapter

Make = Callable[[], Engine]
_log = logging.getLogger(__name__)
# of torch's allocator for the CPU, and of OpenCV
_FULL = ("can't allocate memory", "Insufficient memory")


class EngineError(InferenceError):
    """No engine computes any more: the device is lost, or its memory is full for good."""

    reason = "engine"  # for which a frame is refused


class Ladder:
    """An engine that another one replaces when it fails.

    A call that fails is tried again, after unused memory was given back. Where it fails again, the
    engine is tested with blank images of `size`: if it computes those, the frame is at fault, and
    its error is raised. Otherwise the next rung takes over for good. EngineError below the last.

    Args:
        engine: the first one.
        rungs: further engines, in order: the name in the log, and a function that makes it.
        size: (h, w) of the blank images.
        say: logs a line.
    """

    def __init__(
        self, engine: Engine, rungs: Mapping[str, Make], size: tuple[int, int],
        say: Callable[[str], object] = _log.warning,
    ) -> None:  # fmt: skip
        self._engine, self._rungs, self._size = engine, iter(rungs.items()), size
        self._say = say
        self.failures = 0  # calls whose first try failed

    @property
    def name(self) -> str:
        """The name of the present engine."""
        return self._engine.name

    @property
    def device(self) -> torch.device:
        """The device of inputs and logits."""
        return self._engine.device

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """See `Engine`."""
        try:
            return _computed(self._engine, inputs)
        except Exception as error:  # engines have no common error
            self.failures += 1
            self._say(f"engine {self.name} failed, trying once more: {_line(error)}")
        return self._retry(inputs)

    def _retry(self, inputs: Mapping[str, Tensor]) -> Tensor:
        free_memory()
        try:
            return _computed(self._engine, inputs)
        except Exception as error:
            failure = _emptied(error)
        free_memory()
        for engine in self._below(failure):
            try:
                size = (1, 3, *self._size)
                blank = {n: torch.zeros(size, device=x.device) for n, x in inputs.items()}
                _computed(engine, blank)
            except Exception as error:
                failure = _emptied(error)
                continue
            if engine is self._engine:
                raise failure  # caused by the frame
            self._engine = engine
            self._say(f"engine {self.name} takes over: {_line(failure)}")
            return _computed(engine, inputs)
        text = f"no engine computes any more, the last one was {self.name}: {_line(failure)}"
        raise EngineError(text) from failure

    def _below(self, failure: Exception) -> Iterator[Engine]:
        """The present engine, and those that follow as far as they can be made."""
        yield self._engine
        if isinstance(self._engine, TorchEngine):
            self._engine.drop_graphs()  # else the next one would have to fit beside them
        for name, make in self._rungs:
            self._say(f"engine {self.name} fails, trying {name}: {_line(failure)}")
            free_memory()
            try:
                yield make()
            except InferenceError as error:
                self._say(f"engine {name} cannot be made: {error}")


def rungs(engine: Engine, model: MMSAMAdapter, precision: str) -> dict[str, Make]:
    """What follows an engine: PyTorch, on a GPU without CUDA graphs, then PyTorch in bf16, whose
    activations take half the memory. Not the CPU: masks at a tenth of the rate would hide the
    fault.
    """
    half, device = precision == "bf16", engine.device  # the lambdas must not hold it
    found: dict[str, Make] = {}
    if type(engine) is not TorchEngine or device.type == "cuda":
        kind = "bf16" if half else "fp32"
        found[f"torch ({kind})"] = lambda: TorchEngine(model, device, kind)
    if engine.device.type == "cuda" and not half:
        found["torch (bf16)"] = lambda: TorchEngine(model, device, "bf16")
    return found


def _computed(engine: Engine, inputs: Mapping[str, Tensor]) -> Tensor:
    """The engine's logits, once computed: a GPU reports an error only when it is waited for."""
    logits = engine(inputs)
    if engine.device.type == "cuda":
        torch.cuda.current_stream(engine.device).synchronize()
    return logits


def _emptied(error: Exception) -> Exception:
    """The error, after freeing what the frames of its traceback hold in memory."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    return error


def free_memory() -> None:
    """Gives unused memory back; a lost device cannot, which is reported elsewhere."""
    gc.collect()
    try:
        torch.cuda.empty_cache()  # nothing, where there is no CUDA
    except RuntimeError:
        return


def lost(device: torch.device) -> str:
    """The error of a device that no longer works in this process; empty if it works."""
    if device.type == "cuda":
        try:
            torch.cuda.current_stream(device).synchronize()
        except RuntimeError as error:
            return _line(error)
    return ""


def out_of_memory(error: Exception) -> str:
    """The first line of an error that means that the memory, of the device or of the machine, is
    full; empty if it means something else.
    """
    text = first_line(error)
    is_full = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    if is_full or any(words in text for words in _FULL):
        return text or "the memory is full"
    return ""


def _line(error: Exception) -> str:
    """The type of an error and the first line of its message."""
    return f"{type(error).__name__}: {first_line(error)}"
