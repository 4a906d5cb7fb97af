# SPDX-License-Identifier: Apache-2.0
"""torch.compile's network computes as PyTorch's; its kernels are in the cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from support.networks import lean_spec, random_network
from torch._inductor.runtime.runtime_utils import default_cache_dir

from mmsam_ros.inference import Segmenter, TorchEngine
from mmsam_ros.inference.export import sample_inputs


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")
def test_the_compiled_network_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMSAM_CACHE", str(tmp_path))
    # as importing torch._dynamo leaves it
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())
    spec = lean_spec("muses_rgb_lidar", rgb_only=True)
    model = random_network(spec)
    inputs = sample_inputs(("rgb",), (1, 3, *spec.geometry.size))
    expected = TorchEngine(model, "cpu")(inputs)
    engine = Segmenter(model, spec, "cpu", engine="compile").engine
    assert engine.name == "compile"
    torch.testing.assert_close(engine(inputs), expected, atol=1e-3, rtol=0)
    assert any((tmp_path / "inductor").rglob("*.so"))
