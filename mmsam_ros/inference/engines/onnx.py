# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime, on what its execution providers reach."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmsam_ros._util import check_word
from mmsam_ros.inference.engines.cache import cache_folder, fingerprint, new_folder
from mmsam_ros.inference.engines.eager import find_device
from mmsam_ros.inference.errors import InferenceError
from mmsam_ros.inference.export import (
    OPSET,
    PRECISIONS,
    Agreement,
    load_optional,
    sample_inputs,
    write_onnx,
)
from mmsam_ros.model import MMSAMAdapter
from mmsam_ros.weights import file_sha256

TENSORRT, CUDA = "TensorrtExecutionProvider", "CUDAExecutionProvider"
OPENVINO, CPU = "OpenVINOExecutionProvider", "CPUExecutionProvider"
_log = logging.getLogger(__name__)
# device type of its inputs, and what brings it
PROVIDERS = {
    TENSORRT: ("cuda", "onnxruntime-gpu and TensorRT"),
    CUDA: ("cuda", "onnxruntime-gpu"),
    OPENVINO: ("cpu", "onnxruntime-openvino"),
    CPU: ("cpu", "onnxruntime"),
}
_BY_NAME_ALONE = (TENSORRT,)  # building takes minutes
OPENVINO_OPSET = 19  # 2025.4 refuses GridSample's mode as opset 20 calls it
_SUMS = "sha256.json"  # of the files that were exported


class OnnxEngine:
    """A session of ONNX Runtime for each set of modalities and each shape.

    The network is exported into the cache when a session is first needed, and each session has to
    agree with PyTorch before it is used. The model stays on the CPU.

    Args:
        model: the network.
        device: as of `Segmenter`.
        precision: "fp32", or "fp16" on a GPU.
        providers: execution providers, best first; none: those that fit the device.

    Raises:
        InferenceError: no such device, precision or provider, or ONNX Runtime is missing.
    """

    def __init__(
        self, model: MMSAMAdapter, device: str | torch.device = "auto", precision: str = "fp32",
        providers: Sequence[str] = (),
    ) -> None:  # fmt: skip
        check_word("precision of engine onnx", precision, PRECISIONS, InferenceError)
        self._runtime: Any = load_optional("onnxruntime")
        self.device, self.precision = find_device(device), precision
        if precision == "fp16" and self.device.type == "cpu":
            raise InferenceError("precision fp16: no CPU gains from it; expected fp32")
        have = self._runtime.get_available_providers()
        self.providers = choose_providers(providers, have, self.device)
        self.name = f"onnx ({self.providers[0].removesuffix('ExecutionProvider')})"
        self._opset = OPENVINO_OPSET if OPENVINO in self.providers else OPSET
        self._model, self._key = model.cpu(), fingerprint(model, self._opset, precision)
        self._sessions: dict[tuple[tuple[str, ...], tuple[int, ...]], Any] = {}
        state = vars(self._runtime.capi.onnxruntime_pybind11_state).values()  # no common base
        kinds = [kind for kind in state if isinstance(kind, type) and issubclass(kind, Exception)]
        self._errors: tuple[type[Exception], ...] = tuple(kinds)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """See `Engine`; errors as of the network."""
        known = [name for name in self._model.config.modalities if name in inputs]
        names, shape = (*known, *(inputs.keys() - known)), tuple(inputs["rgb"].shape)
        if (names, shape) not in self._sessions:
            self._sessions[names, shape] = self._session(names, shape)
        return self._run(self._sessions[names, shape], inputs)

    def _session(self, names: tuple[str, ...], shape: tuple[int, ...]) -> Any:
        """A session that agrees with PyTorch."""
        what = f"engine onnx with {self.providers[0]} for {' + '.join(names)}"
        folder = cache_folder("onnx") / "-".join((self._key, *names, *map(str, shape)))
        try:
            # before it is loaded: a few wrong weights would pass the comparison with PyTorch
            if folder.exists() and (damaged := _damaged(folder)):
                _log.warning("%s: %s is damaged (%s); it is made again", what, folder, damaged)
                shutil.rmtree(folder)
            if not folder.exists():
                self._export(folder, names, shape)
        except OSError as error:
            raise InferenceError(
                f"{what}: {folder.parent} cannot be written ({error.strerror}); set "
                "MMSAM_CACHE to a folder with room"
            ) from error
        try:
            return self._load(folder, names, shape, what)
        except self._errors as error:
            raise InferenceError(f"{what}: {error}") from error

    def _load(self, folder: Path, names: tuple[str, ...], shape: tuple[int, ...], what: str) -> Any:
        """The session of a folder of the cache."""
        options = self._runtime.SessionOptions()
        options.log_severity_level = 3  # errors alone
        options.intra_op_num_threads = torch.get_num_threads()
        # threads that spin while they wait take the processor from the rest of the node
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = [(name, self._options(name, folder)) for name in self.providers]
        session = self._runtime.InferenceSession(folder / "model.onnx", options, providers)
        active = session.get_providers()
        lacks = [name for name in self.providers if name not in active]
        if lacks:  # ONNX Runtime falls back by itself
            raise InferenceError(f"{what}: {', '.join(lacks)} cannot be loaded, ONNX Runtime fell "
                                 f"back to {', '.join(active)}; its log says why")  # fmt: skip
        found = self._run(session, sample_inputs(names, shape))
        reference = torch.from_numpy(np.load(folder / "reference.npy"))
        Agreement.of(found, reference).check(what)
        return session

    def _export(self, folder: Path, names: tuple[str, ...], shape: tuple[int, ...]) -> None:
        with new_folder(folder) as part:
            reference = write_onnx(
                self._model, names, shape, part / "model.onnx", precision=self.precision,
                opset=self._opset,
            )  # fmt: skip
            np.save(part / "reference.npy", reference.numpy())
            sums = {file.name: file_sha256(file) for file in part.iterdir()}
            (part / _SUMS).write_text(json.dumps(sums))

    def _options(self, provider: str, folder: Path) -> dict[str, Any]:
        number = {"device_id": self.device.index or 0}
        if provider == CUDA:
            return {**number, "use_tf32": 0}
        if provider == TENSORRT:
            kept = {"trt_engine_cache_enable": True, "trt_timing_cache_enable": True}
            half = {"trt_fp16_enable": self.precision == "fp16"}
            return {**number, **kept, **half, "trt_engine_cache_path": str(folder)}
        if provider == OPENVINO:  # by itself it takes every core, and bf16 where there are units
            own = {
                "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
                "INFERENCE_PRECISION_HINT": "f32",
            }
            return {"device_type": "CPU", "load_config": json.dumps({"CPU": own})}
        return {}

    def _run(self, session: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits, on the engine's device; nothing is copied that is there already."""
        images = {n: x.to(self.device, torch.float32).contiguous() for n, x in inputs.items()}
        logits = torch.empty(session.get_outputs()[0].shape, device=self.device)
        place = (self.device.type, self.device.index or 0, np.float32)
        binding = session.io_binding()
        for name, image in images.items():
            binding.bind_input(name, *place, tuple(image.shape), image.data_ptr())
        binding.bind_output("logits", *place, tuple(logits.shape), logits.data_ptr())
        if self.device.type == "cuda":  # it has a stream of its own
            torch.cuda.current_stream(self.device).synchronize()
        session.run_with_iobinding(binding)
        return logits


def choose_providers(wanted: Sequence[str], have: Sequence[str], device: torch.device) -> list[str]:
    """The providers to use of those that ONNX Runtime has, CPU last, for what the others cannot
    run. InferenceError where none of them computes on the device.
    """
    kind = device.type
    for name in wanted:
        check_word("engine.providers", name, PROVIDERS, InferenceError)
        place, package = PROVIDERS[name]
        if name not in have:
            raise InferenceError(f"engine.providers: found {name}, but this ONNX Runtime has "
                                 f"{', '.join(have)}; {package} brings it")  # fmt: skip
        if place != kind and name != CPU:
            raise InferenceError(f"engine.providers: found {name} with device {device}, "
                                 f"expected device {place}")  # fmt: skip
    if wanted and all(PROVIDERS[name][0] != kind for name in wanted):
        # its inputs would be in a memory that no provider of the session can read
        raise InferenceError(f"engine.providers: found {CPU} alone with device {device}, expected "
                             f"device cpu, or {CUDA} before it")  # fmt: skip
    fitting = [n for n in PROVIDERS if n in have and PROVIDERS[n][0] == kind]
    found = [*wanted] or [n for n in fitting if n not in _BY_NAME_ALONE]
    if not found:
        raise InferenceError(f"device {device}: this ONNX Runtime has {', '.join(have)}; "
                             f"onnxruntime-gpu brings {CUDA}")  # fmt: skip
    return list(dict.fromkeys([*found, CPU]))


def _damaged(folder: Path) -> str:
    """Which file of an export is not as it was written; empty: all are."""
    try:
        sums = dict(json.loads((folder / _SUMS).read_text()))
    except (OSError, ValueError, TypeError) as error:
        return f"{_SUMS}: {error}"
    for name, expected in sums.items():
        try:
            if file_sha256(folder / name) != expected:
                return f"{name} is not as it was written"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return "" if sums else f"{_SUMS} names no file"
