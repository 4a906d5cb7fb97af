# SPDX-License-Identifier: Apache-2.0
"""An engine by its name; `auto` is the one that was measured to be the fastest here."""

import copy
import importlib.util
import json
import logging
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmsam_ros._util import check_word, cpu_flags, first_line, machine, write_atomic
from mmsam_ros.inference.engines import Engine
from mmsam_ros.inference.engines.cache import cache_folder, fingerprint
from mmsam_ros.inference.engines.eager import TorchEngine, find_device
from mmsam_ros.inference.engines.graphs import PASSES
from mmsam_ros.inference.errors import InferenceError
from mmsam_ros.inference.export import Agreement, sample_inputs, subsets
from mmsam_ros.model import MMSAMAdapter, ModelConfig

ENGINES = ("auto", "torch", "compile", "triton", "onnx")
_BF16_UNITS = ("avx512_bf16", "amx_bf16", "bf16", "svebf16")  # the last two of ARM
_RUNS, _SECONDS = 7, 20.0  # for which an engine is timed
_TURNS = 4  # for each number of threads
# share of labels on which two engines must agree: rounding in another order changes some of them
_SAME, _SAME_TF32, _SAME_BF16 = 0.999, 0.99, 0.97
_log = logging.getLogger(__name__)


def make_engine(
    name: str, model: MMSAMAdapter, device: str | torch.device, precision: str,
    size: tuple[int, int], providers: Sequence[str] = (),
) -> Engine:  # fmt: skip
    """The engine `name` of `ENGINES`; `size` (h, w) is what `auto` measures.

    Logs a warning where the hardware has no unit for the precision. InferenceError names an
    engine, device, precision or provider that cannot be used.
    """
    check_word("engine", name, ENGINES, InferenceError)
    if providers and name not in ("auto", "onnx"):
        raise InferenceError(f"engine.providers: found {', '.join(providers)} with engine {name}, "
                             "expected none: they are ONNX Runtime's")  # fmt: skip
    if reason := slow_precision(find_device(device), precision):
        _log.warning(reason)
    if name == "auto":
        return _fastest(model, find_device(device), precision, size, providers)
    return _make(name, model, device, precision, providers)


def slow_precision(device: torch.device, precision: str) -> str:
    """Why a precision is slower than float32 on a device; empty if it is not, or not known."""
    if precision != "bf16":
        return ""
    if device.type == "cuda":
        has_units, expected = torch.cuda.get_device_capability(device) >= (8, 0), "Ampere or newer"
    else:
        flags, expected = cpu_flags(), "avx512_bf16 or amx_bf16, on ARM bf16"
        has_units = not flags or any(unit in flags for unit in _BF16_UNITS)
    if has_units:
        return ""
    return (f"precision bf16: {device} has no unit for it ({expected}), and is slower with it "
            "than with precision fp32, often many times")  # fmt: skip


@torch.inference_mode()
def warm_up(engine: Engine, config: ModelConfig, size: tuple[int, int]) -> None:
    """Run every set of modalities, so that no frame waits for a compiler or for the capture of a
    CUDA graph; InferenceError where the device cannot, as for want of memory.
    """
    if type(engine) is TorchEngine and engine.device.type == "cpu":
        return  # there is none
    try:
        # all sets without graphs first: such a pass would not find room beside a graph's memory
        for _ in range(PASSES if engine.device.type == "cuda" else 1):
            for names in subsets(config):
                engine({n: torch.zeros(1, 3, *size, device=engine.device) for n in names})
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        raise InferenceError(
            f"engine {engine.name} on {engine.device}: the first pass failed: {first_line(error)}; "
            "precision bf16 or smaller weights need less"
        ) from error


def _make(
    name: str, model: MMSAMAdapter, device: str | torch.device, precision: str,
    providers: Sequence[str],
) -> Engine:  # fmt: skip
    # imported here: the others load for seconds
    if name == "onnx":
        from mmsam_ros.inference.engines.onnx import OnnxEngine

        return OnnxEngine(model, device, precision, providers)
    engine: TorchEngine
    if name == "compile":
        from mmsam_ros.inference.engines.compiled import CompiledEngine

        engine = CompiledEngine(model, device, precision)
    elif name == "triton":
        from mmsam_ros.inference.engines.triton import TritonEngine

        engine = TritonEngine(model, device, precision)
    else:
        engine = TorchEngine(model, device, precision)
    if engine.device.type == "cuda":
        engine.use_graphs()
    return engine


def _fastest(
    model: MMSAMAdapter, device: torch.device, precision: str, size: tuple[int, int],
    providers: Sequence[str],
) -> Engine:  # fmt: skip
    """The engine that a measurement has chosen on this machine; the first start measures."""
    names = ["torch"] if precision != "fp16" else []
    # on the CPU "compile" takes minutes, and again for each set of sensors
    names += ["triton", "compile"] if names and device.type == "cuda" else []
    names += ["onnx"] if precision != "bf16" and importlib.util.find_spec("onnxruntime") else []
    if providers and "onnx" not in names:
        reason = "precision bf16" if precision == "bf16" else "no onnxruntime installed"
        raise InferenceError(f"engine.providers: found {', '.join(providers)} with engine auto and "
                             f"{reason}, expected none: they are ONNX Runtime's")  # fmt: skip
    if len(names) < 2:
        return _make(names[0] if names else "onnx", model, device, precision, providers)
    threads = torch.get_num_threads()
    # the node's threads sleep while they wait, those of other programs may spin: other times
    waiting = os.environ.get("OMP_WAIT_POLICY")
    facts = (machine(), device, threads, waiting, precision, size, providers, names)
    key = fingerprint(model, *facts)
    note = cache_folder("auto") / f"{key}.json"
    found = _noted(note)
    if found is None:
        _log.info("engine auto: measuring %s on %s, once", ", ".join(names), device)

        def make(name: str) -> Engine:
            own = copy.deepcopy(model) if name == "onnx" and device.type == "cuda" else model
            return _make(name, own, device, precision, providers)

        same = _least_agreement(device, precision)
        found = _measure(names, make, model.config.modalities, size, same)
        try:
            write_atomic(note, json.dumps(found))
        except OSError as error:
            _log.warning("engine auto: %s cannot be written (%s); it is measured again at the next "
                         "start", note, error.strerror)  # fmt: skip
    chosen = found["engine"]
    text = ", ".join(f"{name} {said}" for name, said in found["measured"].items())
    _log.info("engine auto: %s (%s); remove %s to measure again", chosen, text, note)
    try:
        return _make(chosen, model, device, precision, providers)
    except InferenceError as error:  # a compiler or library that has gone since
        if chosen == "torch" or "torch" not in names:
            raise
        _log.warning("engine auto: %s cannot be made any more, torch takes its place: %s. Remove "
                     "%s to measure again", chosen, error, note)  # fmt: skip
    return _make("torch", model, device, precision, providers)


def _least_agreement(device: torch.device, precision: str) -> float:
    """Share of labels; a GPU computes the convolutions of float32 in TF32 unless told otherwise."""
    if precision == "bf16":
        return _SAME_BF16
    return _SAME_TF32 if device.type == "cuda" and torch.backends.cudnn.allow_tf32 else _SAME


def _noted(note: Path) -> dict[str, Any] | None:
    """What was measured before; None if nothing was, or the file is damaged."""
    try:
        found = json.loads(note.read_text())
        if found["engine"] in ENGINES and found["measured"].items():
            return dict(found)
        reason = f"engine {found['engine']!r}"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error)
    _log.warning("engine auto: %s is damaged, it is measured again: %s", note, reason)
    return None


def _measure(
    names: Sequence[str], make: Callable[[str], Engine], modalities: Sequence[str],
    size: tuple[int, int], same: float = _SAME,
) -> dict[str, Any]:  # fmt: skip
    """The fastest engine that agrees with the first, and what was measured of each."""
    inputs = sample_inputs(modalities, (1, 3, *size))
    reference: list[Tensor] = []
    seconds: dict[str, float] = {}
    said: dict[str, str] = {}

    def measured(name: str) -> float:  # the engine and its graphs are gone when this returns
        engine = make(name)
        logits = engine({n: x.to(engine.device) for n, x in inputs.items()}).cpu()
        reference.append(logits)
        Agreement.of(logits, reference[0]).check(f"engine {name}", argmax=same)
        return _time(engine, inputs)

    for name in names:
        try:
            seconds[name] = measured(name)
            said[name] = f"{1e3 * seconds[name]:.3g} ms"
        except Exception as error:  # engines have no common error
            reason = first_line(error) or type(error).__name__
            _log.warning("engine auto: %s is left out: %s", name, reason)
            said[name] = f"cannot be used: {reason}"
    if not seconds:
        raise InferenceError(f"engine auto: none of {', '.join(names)} can be used")
    return {"engine": min(seconds, key=lambda name: seconds[name]), "measured": said}


def _time(engine: Engine, inputs: Mapping[str, Tensor]) -> float:
    """Median seconds of a forward pass."""
    on_device = {name: image.to(engine.device) for name, image in inputs.items()}
    seconds: list[float] = []
    while len(seconds) < _RUNS and sum(seconds) < _SECONDS:
        began = time.perf_counter()
        engine(on_device)
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


@torch.inference_mode()
def time_threads(model: MMSAMAdapter, size: tuple[int, int]) -> dict[int, float]:
    """Seconds of PyTorch's forward pass at `size` (h, w) on the CPU, by number of threads: 1, 2, 4
    and so on up to those that PyTorch has here. Each is its fastest pass, taken in turns.
    """
    engine, most = TorchEngine(model, "cpu"), torch.get_num_threads()
    counts = [*(2**i for i in range(most.bit_length()) if 2**i < most), most]
    inputs = sample_inputs(model.config.modalities, (1, 3, *size))
    seconds = dict.fromkeys(counts, float("inf"))
    try:
        for count in counts * _TURNS:
            torch.set_num_threads(count)
            began = time.perf_counter()
            engine(inputs)
            seconds[count] = min(seconds[count], time.perf_counter() - began)
    finally:
        torch.set_num_threads(most)
    return seconds
