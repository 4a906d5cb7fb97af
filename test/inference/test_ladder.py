# SPDX-License-Identifier: Apache-2.0
"""Engines that fail: by `Engine`'s interface, as a device, its memory or a runtime would."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.networks import random_network, spec_of
from torch import Tensor

from mmsam_ros.inference import InferenceError, Segmenter
from mmsam_ros.inference.engines.eager import TorchEngine
from mmsam_ros.inference.engines.ladder import EngineError, Ladder, rungs
from mmsam_ros.sensors import Frame

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore")
LOST = RuntimeError("CUDA error: an illegal memory access was encountered")
SIZE = (8, 8)
IMAGE = {"rgb": torch.ones(1, 3, *SIZE)}


class Failing:
    """An engine whose calls fail as listed (None: it computes), and as the last one for ever."""

    device = torch.device("cpu")

    def __init__(self, name: str, *failures: Exception | None, blank: bool = False) -> None:
        self.name, self._failures, self._blank = name, list(failures), blank
        self.calls = 0

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        self.calls += 1
        if self._blank and not inputs["rgb"].any():
            return inputs["rgb"]
        failure = self._failures.pop(0) if len(self._failures) > 1 else self._failures[0]
        if failure is not None:
            raise failure
        return inputs["rgb"]


def ladder(first: Failing, *others: Failing) -> tuple[Ladder, list[str]]:
    said: list[str] = []
    return Ladder(first, {e.name: lambda e=e: e for e in others}, SIZE, said.append), said


@pytest.mark.parametrize("failure", [FULL, LOST, InferenceError("no session"), KeyError("x")])
def test_a_failure_that_passes_costs_nothing(failure: Exception) -> None:
    engine, spare = Failing("onnx", failure, None), Failing("torch", None)
    tried, said = ladder(engine, spare)
    for _ in range(3):
        assert torch.equal(tried(IMAGE), IMAGE["rgb"])
    assert (tried.name, tried.failures, engine.calls, spare.calls) == ("onnx", 1, 4, 0)
    assert len(said) == 1
    assert said[0].startswith("engine onnx failed, trying once more: ")


@pytest.mark.parametrize("failure", [FULL, LOST, InferenceError("no session")])
def test_the_next_engine_takes_over_for_good(failure: Exception) -> None:
    engine, spare = Failing("onnx", failure), Failing("torch", None)
    tried, said = ladder(engine, spare)
    for _ in range(3):
        assert torch.equal(tried(IMAGE), IMAGE["rgb"])
    # the call, once more, and blank
    assert (tried.name, engine.calls, spare.calls) == ("torch", 3, 4)
    assert said[-1].startswith("engine torch takes over: ")


def test_below_the_last_one_is_a_fault() -> None:
    tried, said = ladder(Failing("onnx", FULL), Failing("a", FULL), Failing("b", LOST))
    with pytest.raises(EngineError, match="the last one was onnx: RuntimeError: CUDA error") as at:
        tried(IMAGE)
    assert at.value.reason == "engine"
    assert [line for line in said if "trying a" in line or "trying b" in line] == said[1:]
    with pytest.raises(EngineError):
        tried(IMAGE)


def test_an_engine_that_cannot_be_made_is_passed_over() -> None:
    def absent() -> Failing:
        raise InferenceError("device cuda: the network cannot be moved there")

    said: list[str] = []
    makers: dict[str, Callable[[], Failing]] = {"a": absent, "b": lambda: Failing("b", None)}
    tried = Ladder(Failing("onnx", LOST), makers, SIZE, said.append)
    assert torch.equal(tried(IMAGE), IMAGE["rgb"])
    assert tried.name == "b"
    assert "engine a cannot be made: device cuda: the network cannot be moved there" in said


def test_a_frame_that_no_engine_takes_replaces_none() -> None:
    engine, spare = Failing("onnx", ValueError("odd"), blank=True), Failing("torch", None)
    tried, _ = ladder(engine, spare)
    for count in (1, 2):
        with pytest.raises(ValueError, match="odd"):
            tried(IMAGE)
        assert (tried.name, tried.failures, spare.calls) == ("onnx", count, 0)


@pytest.mark.parametrize(
    ("owner", "name", "failure"),
    [(torch.cuda, "current_stream", LOST), (torch, "zeros", FULL), (torch, "zeros", LOST)],
)
def test_a_gpu_that_fails_late_or_has_no_room_for_blank_images_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, failure: Exception
) -> None:
    """As CUDA does it: kernels fail when they are waited for, and then all that follows."""

    def fail(*_: Any, **__: Any) -> None:
        raise failure

    fine = SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: fine)
    monkeypatch.setattr(owner, name, fail)
    engine = Failing("torch", None if name == "current_stream" else failure)
    engine.device = torch.device("cuda")
    with pytest.raises(EngineError, match="no engine computes any more, the last one was torch"):
        ladder(engine)[0](IMAGE)


def test_what_follows_an_engine() -> None:
    spec = spec_of("synthetic_rgb_lidar_thermal", rgb_only=True)
    model = random_network(spec)
    cpu, failing = TorchEngine(model, "cpu"), Failing("onnx", LOST)
    assert rungs(cpu, model, "fp32") == {}
    assert [*rungs(failing, model, "fp32")] == ["torch (fp32)"]
    failing.device = torch.device("cuda")
    assert [*rungs(failing, model, "fp16")] == ["torch (fp32)", "torch (bf16)"]
    assert [*rungs(failing, model, "bf16")] == ["torch (bf16)"]


def test_the_mask_is_that_of_the_engine_that_took_over() -> None:
    spec = spec_of("synthetic_rgb_lidar_thermal", rgb_only=True)
    model = random_network(spec)
    segmenter = Segmenter(model, spec, "cpu")
    pixels = np.random.default_rng(3).integers(0, 256, (96, 128, 3), np.uint8)
    frame = Frame(pixels, {}, None)
    expected = segmenter(frame).labels
    lost = Failing("onnx", LOST)
    segmenter.engine = Ladder(lost, rungs(lost, model, "fp32"), segmenter.geometry.size, str)
    assert np.array_equal(segmenter(frame).labels, expected)
    assert segmenter.engine.name == "torch"


def test_what_a_failed_pass_held_is_free_before_the_next_engine() -> None:
    """Else the next one, which may need less, would not fit beside it."""
    alive: list[weakref.ref[Any]] = []

    class Large:
        """In place of activations."""

    class Full(Failing):
        def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
            activations = Large()
            alive.append(weakref.ref(activations))
            return super().__call__(inputs)

    class Spare(Failing):
        def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
            assert not any(ref() for ref in alive)
            return super().__call__(inputs)

    first = Full("onnx", FULL)
    held = weakref.ref(first)
    tried = Ladder(first, {"torch": lambda: Spare("torch", None)}, SIZE, lambda _: None)
    del first
    assert torch.equal(tried(IMAGE), IMAGE["rgb"])
    assert len(alive) == 3
    assert held() is None
    model = random_network(spec_of("muses_rgb_lidar"))
    engine = Failing("onnx", None)
    makers, held = rungs(engine, model, "fp32"), weakref.ref(engine)
    del engine
    assert makers
    assert held() is None
