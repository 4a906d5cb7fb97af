# SPDX-License-Identifier: Apache-2.0
"""One frame in, one labelled mask out: what node, evaluation and command line share."""

import dataclasses
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmsam_ros.inference.engines import Engine
from mmsam_ros.inference.engines.choose import make_engine, warm_up
from mmsam_ros.inference.errors import InferenceError
from mmsam_ros.inference.geometry import Plan, Window
from mmsam_ros.inference.labels import class_probabilities, label_image
from mmsam_ros.inference.prepare import Prepared, Review, prepare
from mmsam_ros.model import MMSAMAdapter
from mmsam_ros.sensors import Frame
from mmsam_ros.weights import Geometry, Spec, load_model


@dataclass(frozen=True, eq=False)
class Result:
    """What the network says of a frame.

    Attributes:
        labels: uint8 (H, W) at the camera's size, training ids; 255 is no label.
        confidence: uint8 (H, W), 255 times the winning class's probability; None if not asked.
        present: sensors besides the camera that the network saw.
        timings: milliseconds by step: prepare, network, labels.
        probabilities: float32 (h, w, classes) at a quarter of the size; None if not asked.
    """

    labels: NDArray[np.uint8]
    confidence: NDArray[np.uint8] | None
    present: tuple[str, ...]
    timings: Mapping[str, float]
    probabilities: NDArray[np.float32] | None = None


class Segmenter:
    """A network with everything between sensors and labels.

    Args:
        model: the network.
        spec: what belongs to it.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
        precision: "fp32", "bf16", or with ONNX Runtime on a GPU "fp16".
        geometry: instead of the spec's.
        engine: "torch", "compile", "triton", "onnx", or "auto", the fastest here (docs/engines.md).
        providers: of ONNX Runtime, best first; none: those that fit the device.

    Raises:
        InferenceError: no such device, precision, engine or provider.
        WeightsError: the geometry does not fit the network.
    """

    def __init__(
        self, model: MMSAMAdapter, spec: Spec, device: str = "auto", precision: str = "fp32",
        geometry: Geometry | None = None, *, engine: str = "torch", providers: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.spec = spec
        self.geometry = geometry or spec.geometry
        self.geometry.check_network(spec.config)
        size = self.geometry.size
        self.engine: Engine = make_engine(engine, model, device, precision, size, providers)
        # threads that share the network, or its device, take turns
        self.turn: AbstractContextManager[Any] = threading.Lock()

    @classmethod
    def load(
        cls, path: str | Path, device: str = "auto", precision: str = "fp32", *,
        engine: str = "torch", providers: Sequence[str] = (),
    ) -> Self:  # fmt: skip
        """A segmenter with its weights' geometry; errors as `load_model` and the constructor."""
        model, spec = load_model(path)
        return cls(model, spec, device, precision, engine=engine, providers=providers)

    def warm_up(self) -> None:
        """Make the engine ready for every set of sensors, so that losing one compiles nothing."""
        with self.turn:
            warm_up(self.engine, self.spec.config, self.geometry.size)

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.engine.device

    def __call__(self, frame: Frame, *, confidence: bool = True) -> Result:
        """Segment a frame of native sensor data: `prepare`, then `infer`.

        InferenceError names a sensor whose data does not fit the weights; or as `infer`.
        """
        prepared = self.prepare(frame)
        for refusal in prepared.refused.values():
            if not refusal.of_frame:
                raise InferenceError(f"{refusal.sensor}: {refusal.text}")
        return self.infer(prepared, confidence=confidence)

    @torch.inference_mode()
    def prepare(self, frame: Frame, review: Review | None = None) -> Prepared:
        """The network's inputs; sensors whose data cannot be used are left out and refused.

        `review` sees the planes before they become inputs.
        """
        began = self._now()
        plan = Plan.of(self.geometry, frame.size)
        prepared = prepare(frame, self.spec, plan, self.device, review=review)
        return dataclasses.replace(prepared, milliseconds=1e3 * (self._now() - began))

    @torch.inference_mode()
    def infer(
        self, prepared: Prepared, *, confidence: bool = True, probabilities: bool = False,
        threshold: float = 0.0,
    ) -> Result:  # fmt: skip
        """Labels of a prepared frame, and what else is asked; see `label_image` for `threshold`.

        InferenceError where the network's output is not finite.
        """
        with self.turn:
            began = self._now()
            logits = predict(self.engine, prepared)
            predicted = self._now()
        size = prepared.plan.output
        labels, certainty = label_image(logits, size, confidence=confidence, threshold=threshold)
        found = labels.cpu().numpy(), None if certainty is None else certainty.cpu().numpy()
        shares = class_probabilities(logits, size).cpu().numpy() if probabilities else None
        timings = {
            "prepare": prepared.milliseconds,
            "network": 1e3 * (predicted - began),
            "labels": 1e3 * (self._now() - predicted),
        }
        return Result(*found, prepared.used, timings, shares)

    def _now(self) -> float:
        if self.device.type == "cuda":
            # not for the whole device: that would break another thread's capture of a CUDA graph
            torch.cuda.current_stream(self.device).synchronize()
        return time.perf_counter()


@torch.inference_mode()
def predict(engine: Engine, prepared: Prepared) -> Tensor:
    """Logits (1, classes, *plan.canvas) of a prepared frame; windows see every modality at once.

    InferenceError where the network's output is not finite.
    """

    def run(window: Window) -> Tensor:
        top, bottom, left, right = window
        parts = {m: x[:, :, top:bottom, left:right] for m, x in prepared.inputs.items()}
        # as in the warm-up: torch.compile compiles anew for other strides
        inputs = {m: x.contiguous() for m, x in parts.items()}
        logits = engine(inputs)
        if not bool(logits.isfinite().all()):  # argmax would call every such pixel the first class
            raise InferenceError("the network's output is not finite")
        return logits

    return prepared.plan.logits(run)
