# SPDX-License-Identifier: Apache-2.0
"""Engines give the labels of PyTorch, are measured, cached, and refused with a reason."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from support.networks import lean_spec, random_network, spec_of

from mmsam_ros.inference import InferenceError, Segmenter, TorchEngine
from mmsam_ros.inference.engines import choose
from mmsam_ros.inference.engines.cache import cache_folder, fingerprint, new_folder
from mmsam_ros.inference.export import Agreement, sample_inputs
from mmsam_ros.model import build_model

CPU = "CPUExecutionProvider"
SEVERAL = "synthetic_rgb_lidar_thermal"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMSAM_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
def test_onnx_runtime_gives_the_same_logits_and_exports_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("onnxruntime")
    spec = lean_spec("muses_rgb_lidar", rgb_only=True)
    model = random_network(spec)
    inputs = sample_inputs(("rgb",), (1, 3, *spec.geometry.size))
    expected = TorchEngine(model, "cpu")(inputs)
    caplog.set_level(logging.INFO)
    for exports in (1, 0):
        caplog.clear()
        segmenter = Segmenter(model, spec, "cpu", engine="onnx", providers=[CPU])
        segmenter.warm_up()
        assert sum("exporting" in record.message for record in caplog.records) == exports
        assert segmenter.engine.name == "onnx (CPU)"
        torch.testing.assert_close(segmenter.engine(inputs), expected, atol=1e-3, rtol=0)
    for name in ("auto", "auto"):
        caplog.clear()
        engine = Segmenter(model, spec, "cpu", engine=name, providers=[CPU]).engine
        assert engine.name in ("torch", "onnx (CPU)")
        (said,) = (r.message for r in caplog.records if " ms" in r.message)
        assert said.startswith(f"engine auto: {engine.name.partition(' ')[0]} (torch ")
        torch.testing.assert_close(engine(inputs), expected, atol=1e-3, rtol=0)


def test_what_disagrees_is_refused_with_its_numbers() -> None:
    reference = torch.randn(1, 5, 40, 50, generator=torch.Generator().manual_seed(1))
    Agreement.of(reference, reference).check("it", 1e-3)
    Agreement.of(reference + 5e-4, reference).check("it", 1e-3)
    flipped = reference.clone()
    flipped[..., :3] = flipped[..., :3].flip(1)
    wrong = {
        "argmax 9[0-9.]+%": flipped,
        "cosine -1.0": -reference,
        "cosine nan": torch.full_like(reference, torch.nan),
        "largest difference 0.002": reference + 2e-3,
    }
    for said, found in wrong.items():
        with pytest.raises(InferenceError, match=f"it does not agree .*{said}.*expected a cosine"):
            Agreement.of(found, reference).check("it", 1e-3)


def test_auto_takes_the_fastest_that_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("muses_rgb_lidar")
    model = random_network(spec)

    class Wrong(TorchEngine):
        name = "wrong"

        def __call__(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            return -super().__call__(inputs)

    class Broken(TorchEngine):
        def __call__(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            raise InferenceError("no compiler")

    makers = {"torch": TorchEngine, "compile": Broken, "onnx": Wrong}
    seconds = {"torch": 0.3, "wrong": 0.1}
    monkeypatch.setattr(choose, "_time", lambda engine, _: seconds[engine.name])

    def measure() -> dict[str, Any]:
        return choose._measure(
            list(makers), lambda name: makers[name](model, "cpu"), spec.config.modalities,
            spec.geometry.size,
        )  # fmt: skip

    found = measure()
    assert found["engine"] == "torch"
    assert found["measured"]["torch"] == "300 ms"
    assert found["measured"]["compile"] == "cannot be used: no compiler"
    assert found["measured"]["onnx"].startswith("cannot be used: engine onnx does not agree")

    class Fatal(TorchEngine):
        def __call__(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            raise RuntimeError("CUDA driver error")  # as Triton's launcher

    makers["compile"] = Fatal
    assert measure()["measured"]["compile"] == "cannot be used: CUDA driver error"
    makers["onnx"] = type("Right", (TorchEngine,), {"name": "wrong"})
    assert measure()["engine"] == "onnx"


def test_auto_without_onnx_runtime_is_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose.importlib.util, "find_spec", lambda name: None)
    spec = spec_of("muses_rgb_lidar")
    engine = Segmenter(random_network(spec), spec, "cpu", engine="auto").engine
    assert engine.name == "torch"
    assert not cache_folder("auto").parent.joinpath("onnx").exists()
    with pytest.raises(InferenceError, match="with engine auto and no onnxruntime installed"):
        Segmenter(random_network(spec), spec, "cpu", engine="auto", providers=[CPU])


def test_others_cannot_put_kernels_into_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a home it is in the temporary folder, where every user may make its folder first."""
    for variable in ("MMSAM_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = cache_folder("auto").parent
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)
    with pytest.raises(InferenceError, match="other users can write there; set MMSAM_CACHE to a"):
        cache_folder("auto")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InferenceError, match="other users can write there"):
        cache_folder("auto")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "onxn"}, "engine: unknown 'onxn'; did you mean 'onnx'"),
        ({"engine": "torch", "providers": [CPU]}, "engine.providers: found CPUExecutionProvider"),
        (
            {"engine": "auto", "precision": "bf16", "providers": [CPU]},
            "found CPUExecutionProvider with engine auto and precision bf16, expected none",
        ),
        ({"engine": "onnx", "precision": "bf16"}, "precision of engine onnx: unknown 'bf16'"),
        ({"engine": "onnx", "precision": "fp16"}, "precision fp16: no CPU gains from it"),
        ({"engine": "torch", "precision": "fp16"}, "precision: found 'fp16'"),
        ({"engine": "triton"}, "engine triton: (found device cpu, expected cuda|.*pip install)"),
        ({"engine": "onnx", "providers": ["CUDA"]}, "engine.providers: unknown 'CUDA'"),
        (
            {"engine": "onnx", "providers": ["ROCMExecutionProvider"]},
            "engine.providers: unknown 'ROCMExecutionProvider'",
        ),
        (
            {"engine": "onnx", "providers": ["TensorrtExecutionProvider"]},
            "TensorrtExecutionProvider.*onnxruntime-gpu and TensorRT brings it|with device cpu",
        ),
    ],
)
def test_what_cannot_be_used_is_said(options: dict[str, object], said: str) -> None:
    if options["engine"] == "onnx":
        pytest.importorskip("onnxruntime")
    spec = spec_of("muses_rgb_lidar")
    with pytest.raises(InferenceError, match=said):
        Segmenter(random_network(spec), spec, "cpu", **options)


def test_a_missing_onnx_runtime_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    spec = spec_of("muses_rgb_lidar")
    with pytest.raises(InferenceError, match=r"pip install onnx onnxruntime onnxscript"):
        Segmenter(random_network(spec), spec, "cpu", engine="onnx")


@pytest.mark.parametrize(
    ("flags", "slow"),
    [
        (["avx2", "avx512f"], True), (["avx512_bf16"], False), (["amx_bf16"], False),
        (["asimd"], True), (["asimd", "bf16"], False), ([], False),
    ],
)  # fmt: skip
def test_bf16_without_a_unit_is_warned_of(
    flags: list[str], slow: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choose, "cpu_flags", lambda: flags)
    spec = spec_of("muses_rgb_lidar")
    Segmenter(random_network(spec), spec, "cpu", "bf16")
    warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert [text.startswith("precision bf16: cpu has no unit") for text in warnings] == [
        True
    ] * slow
    caplog.clear()
    Segmenter(random_network(spec), spec, "cpu", "fp32")
    assert not caplog.records


def test_the_key_follows_weights_configuration_and_facts() -> None:
    spec = spec_of("muses_rgb_lidar")
    torch.manual_seed(0)
    model = build_model(spec.config)
    key = fingerprint(model, 20)
    assert key == fingerprint(model, 20) != fingerprint(model, 21)
    with torch.no_grad():
        model.head.classifier.bias[0] += 1e-6
    assert fingerprint(model, 20) != key


def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder("onnx") == tmp_path / "cache/onnx"
    monkeypatch.delenv("MMSAM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("onnx") == tmp_path / "xdg/mmsam/onnx"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("onnx") == tmp_path / ".cache/mmsam/onnx"
    (tmp_path / "file").touch()
    monkeypatch.setenv("MMSAM_CACHE", str(tmp_path / "file"))
    with pytest.raises(InferenceError, match="set MMSAM_CACHE to a folder"):
        cache_folder("onnx")


def test_a_folder_of_the_cache_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "entry"
    with pytest.raises(FileNotFoundError), new_folder(path) as part:
        (part / "absent" / "half").touch()
    assert list(tmp_path.iterdir()) == []
    with new_folder(path) as part:
        (part / "whole").touch()
        with new_folder(path) as other:  # a faster process
            (other / "theirs").touch()
    assert [p.name for p in path.iterdir()] == ["theirs"]
    assert list(tmp_path.iterdir()) == [path]
