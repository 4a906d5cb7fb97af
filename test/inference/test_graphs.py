# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs of an engine. Without a GPU there is nothing to capture, but what leads to it."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping

import pytest
import torch
from support.networks import random_network, spec_of
from torch import Tensor

from mmsam_ros.inference import Segmenter, TorchEngine
from mmsam_ros.inference.engines import graphs
from mmsam_ros.inference.engines.choose import make_engine
from mmsam_ros.inference.engines.graphs import PASSES, Graphs
from mmsam_ros.inference.engines.ladder import Ladder
from mmsam_ros.inference.export import Agreement, sample_inputs, subsets

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def _whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions take TF32 by default: two engines then differ by more than their rounding."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


SEVERAL = "synthetic_rgb_lidar_thermal"


@gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["torch", "triton"])
def test_every_set_of_sensors_is_captured_and_gives_what_pytorch_gives(
    name: str, precision: str
) -> None:
    spec = spec_of(SEVERAL)
    model = random_network(spec)
    engine = make_engine(name, model, "cuda", precision, spec.geometry.size)
    size, sets = (1, 3, *spec.geometry.size), list(subsets(spec.config))
    for names in sets * PASSES:
        engine({name: torch.zeros(size, device="cuda") for name in names})
    assert isinstance(engine, TorchEngine)
    assert isinstance(engine._forward, Graphs)
    captured = engine._forward._captured
    assert len(captured) == len(sets)
    assert None not in captured.values()
    plain = model.eval().cuda()
    for seed in range(2):
        torch.manual_seed(seed)
        inputs = {n: torch.randn(size, device="cuda") for n in spec.config.modalities}
        found = {}
        for names in sets:  # the graphs share memory: no result may change another
            found[names] = engine({name: inputs[name] for name in names})
        for names in sets:
            with torch.inference_mode():
                expected = plain({name: inputs[name] for name in names})
            same = Agreement.of(found[names], expected)
            same.check(f"{name} {names}", argmax=0.9 if precision == "bf16" else 0.999)


@gpu
def test_a_segmenter_captures_before_its_first_frame() -> None:
    spec = spec_of(SEVERAL)
    segmenter = Segmenter(random_network(spec), spec, "cuda")
    segmenter.warm_up()
    engine = segmenter.engine
    assert isinstance(engine, TorchEngine)
    assert isinstance(engine._forward, Graphs)
    captured = engine._forward._captured
    assert len(captured) == len(list(subsets(spec.config)))


@gpu
def test_what_cannot_be_captured_goes_on_without(caplog: pytest.LogCaptureFixture) -> None:
    def waits(inputs: Mapping[str, Tensor]) -> Tensor:
        return inputs["rgb"] * float(inputs["rgb"].mean())  # the CPU asks for a value

    forward = Graphs(waits, torch.device("cuda"))
    x = torch.randn(1, 3, 8, 8, device="cuda")
    for _ in range(PASSES + 2):
        torch.testing.assert_close(forward({"rgb": x}), waits({"rgb": x}))
    torch.randn(2, device="cuda")  # a training that validates draws from it afterwards
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    freed = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    del freed
    reserved = torch.cuda.memory_reserved()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() < reserved, "memory can be given back as before"
    (said,) = (r.message for r in caplog.records if r.levelno == logging.WARNING)
    assert said.startswith("no CUDA graph of the network with rgb, continuing without one")


class Replayed:
    """Stands for a captured pass, whose logits are negative here."""

    def replay(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return -inputs["rgb"]


@pytest.mark.parametrize("fails", [False, True])
def test_the_third_pass_of_each_set_of_inputs_is_captured_once(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Whatever the order of sets; a capture that has failed is not tried again."""
    asked: list[tuple[str, ...]] = []

    def capture(_: Graphs, inputs: Mapping[str, Tensor]) -> Replayed | None:
        asked.append(tuple(sorted(inputs)))
        return None if fails else Replayed()

    monkeypatch.setattr(Graphs, "_capture", capture)
    forward, x = Graphs(lambda inputs: inputs["rgb"], torch.device("cpu")), torch.ones(1, 3, 8, 8)
    sets = [{"rgb": x}, {"rgb": x, "lidar": x}]
    for done in range(PASSES + 2):
        expected = -x if done >= PASSES - 1 and not fails else x
        assert all(torch.equal(forward(inputs), expected) for inputs in sets)
    assert torch.equal(forward({"lidar": x, "rgb": x}), x if fails else -x)
    assert asked == [("rgb",), ("lidar", "rgb")]


def test_sizes_without_end_do_not_take_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_MOST", 2)
    monkeypatch.setattr(Graphs, "_capture", lambda *_: Replayed())
    forward = Graphs(lambda inputs: inputs["rgb"], torch.device("cpu"))
    for number, side in enumerate((8, 16, 24, 32)):
        x = torch.ones(1, 3, side, side)
        found = [forward({"rgb": x}) for _ in range(PASSES + 1)][-1]
        assert torch.equal(found, -x if number < 2 else x)
    assert len(forward._captured) == 2


def test_an_engine_that_has_failed_gives_its_graphs_back() -> None:
    """The next one would have to fit beside them."""
    spec = spec_of("muses_rgb_lidar", rgb_only=True)
    engine = TorchEngine(random_network(spec), "cpu")
    engine.use_graphs()
    inputs = sample_inputs(("rgb",), (1, 3, *spec.geometry.size))
    expected, failing = engine(inputs), weakref.ref(engine._forward)
    there: list[bool] = []

    def broken(_: Mapping[str, Tensor]) -> Tensor:
        raise RuntimeError("CUDA error: out of memory")

    def make() -> TorchEngine:
        there.append(failing() is not None)
        return TorchEngine(random_network(spec), "cpu")

    engine._forward.forward = broken  # type: ignore[union-attr]
    ladder = Ladder(engine, {"next": make}, spec.geometry.size, lambda _: None)
    torch.testing.assert_close(ladder(inputs), expected)
    assert there == [False]


@gpu
def test_inputs_are_uploaded_as_they_are() -> None:
    from mmsam_ros.inference.prepare import upload

    for dtype in (torch.uint8, torch.float32):
        array = (torch.rand(3, 5, 7) * 255).to(dtype).numpy()
        there = upload(array, torch.device("cuda"))
        assert there.is_cuda
        torch.testing.assert_close(there.cpu(), torch.from_numpy(array))


@gpu
def test_inputs_of_sample_networks_are_not_kept() -> None:
    forward = Graphs(lambda inputs: inputs["rgb"] + 1, torch.device("cuda"))
    first, second = (sample_inputs(("rgb",), (1, 3, 8, 8))["rgb"].cuda() + i for i in (0, 1))
    for _ in range(PASSES):
        forward({"rgb": first})
    kept = forward({"rgb": first})
    torch.testing.assert_close(forward({"rgb": second}), second + 1)
    torch.testing.assert_close(kept, first + 1)  # a replay does not change earlier logits
