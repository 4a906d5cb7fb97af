# SPDX-License-Identifier: Apache-2.0
"""The engine that `auto` has measured with all sensors, and that fails with fewer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmsam_ros.inference import InferenceError, TorchEngine
from mmsam_ros.inference.engines import choose, onnx
from mmsam_ros.inference.export import sample_inputs, subsets
from mmsam_ros.model import MMSAMAdapter
from mmsam_ros.ros.parameters import check_parameters, load_segmenter
from mmsam_ros.weights import load_model

FULL = "onnx cannot be written (No space left on device); set MMSAM_CACHE"


class Full(TorchEngine):
    """As ONNX Runtime's engine where the disk has room for the first network only."""

    name = "onnx (CPU)"

    def __init__(self, model: MMSAMAdapter, device: str, precision: str, providers: object) -> None:
        super().__init__(model, device, precision)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if len(inputs) < 3:
            raise InferenceError(FULL)
        return super().__call__(inputs)


@pytest.fixture(autouse=True)
def _fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("MMSAM_CACHE", str(tmp_path))
    monkeypatch.setattr(onnx, "OnnxEngine", Full)
    monkeypatch.setattr(choose, "_time", lambda engine, _: 0.1 if engine.name != "torch" else 0.3)


def test_torch_takes_the_place_of_what_auto_chose(weights: Path) -> None:
    said: list[str] = []
    given = {"weights": str(weights), "device": "cpu", "engine": "auto"}
    for _ in range(2):  # it is measured, and read
        said.clear()
        segmenter = load_segmenter(check_parameters(given, said.append), said.append)
        assert said == [f"engine auto: torch takes the place of onnx (CPU), which fails: {FULL}"]
        assert segmenter.engine.name == "torch"
    model, spec = load_model(weights)
    for names in subsets(spec.config):
        inputs = sample_inputs(names, (1, 3, *spec.geometry.size))
        expected = TorchEngine(model, "cpu")(inputs)
        torch.testing.assert_close(segmenter.engine(inputs), expected)


def test_an_engine_that_is_named_is_not_replaced(weights: Path) -> None:
    given = {"weights": str(weights), "device": "cpu", "engine": "onnx"}
    with pytest.raises(InferenceError, match="cannot be written"):
        load_segmenter(check_parameters(given, print), print)
