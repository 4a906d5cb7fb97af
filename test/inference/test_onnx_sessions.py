# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's sessions and their files, whatever the network."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.networks import spec_of
from support.pixels import PixelNetwork
from torch import Tensor

from mmsam_ros.inference import InferenceError
from mmsam_ros.inference import export as export_module
from mmsam_ros.inference.engines.cache import cache_folder
from mmsam_ros.inference.engines.choose import make_engine, warm_up
from mmsam_ros.inference.engines.onnx import OPENVINO, OPENVINO_OPSET, OnnxEngine, choose_providers
from mmsam_ros.inference.export import export_file, sample_inputs, subsets, write_onnx

onnx, onnxruntime = map(pytest.importorskip, ("onnx", "onnxruntime"))
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
SPEC = spec_of("synthetic_rgb_lidar_thermal", image_size=(64, 96))
SIZE = SPEC.geometry.size


@pytest.fixture(autouse=True)
def _pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("MMSAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(export_module, "prepare", lambda model: model)


def test_losing_a_sensor_makes_no_session(caplog: pytest.LogCaptureFixture) -> None:
    model = PixelNetwork(SPEC.config)
    engine = OnnxEngine(model, "cpu")
    caplog.set_level(logging.INFO)
    warm_up(engine, SPEC.config, SIZE)
    sets = subsets(SPEC.config)
    said = [r.message for r in caplog.records if r.message.startswith("exporting")]
    assert [text.split(" to ONNX")[0].split(" for ")[1] for text in said] == [
        " + ".join(names) for names in sets
    ]
    folders = {path: path.stat().st_mtime_ns for path in cache_folder("onnx").iterdir()}
    assert len(folders) == len(sets) == 4
    sessions = dict(engine._sessions)
    caplog.clear()
    for names in (*sets, ("rgb", "thermal", "lidar")):  # in whatever order they come
        inputs = sample_inputs(names, (1, 3, *SIZE))
        with torch.inference_mode():
            torch.testing.assert_close(engine(inputs), model(inputs), atol=1e-4, rtol=0)
    assert engine._sessions == sessions
    assert not caplog.records
    assert {path: path.stat().st_mtime_ns for path in cache_folder("onnx").iterdir()} == folders


def _emptied(content: bytes) -> bytes:
    return b""  # as a power cut may leave it


def _with_a_wrong_bit(content: bytes) -> bytes:
    """The file can be read, and its network may still agree well enough."""
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [_emptied, _with_a_wrong_bit])
@pytest.mark.parametrize("name", ["model.onnx", "reference.npy", "sha256.json"])
def test_what_is_not_as_it_was_written_is_made_again(
    name: str, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    model, inputs = PixelNetwork(SPEC.config), sample_inputs(("rgb",), (1, 3, *SIZE))
    expected = OnnxEngine(model, "cpu")(inputs)
    (folder,) = cache_folder("onnx").iterdir()
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    torch.testing.assert_close(OnnxEngine(model, "cpu")(inputs), expected)
    assert f"{folder} is damaged ({name}" in caplog.text
    caplog.clear()
    OnnxEngine(model, "cpu")(inputs)
    assert "damaged" not in caplog.text


def _write_whole(file: Path, content: bytes) -> None:
    """Another content, as if it had been exported."""
    file.write_bytes(content)
    sums = json.loads((file.parent / "sha256.json").read_text())
    sums[file.name] = hashlib.sha256(content).hexdigest()
    (file.parent / "sha256.json").write_text(json.dumps(sums))


def test_what_disagrees_is_neither_deleted_nor_made_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """TensorRT's engines of many minutes are beside the network."""
    model, inputs = PixelNetwork(SPEC.config), sample_inputs(("rgb",), (1, 3, *SIZE))
    OnnxEngine(model, "cpu")(inputs)
    (folder,) = cache_folder("onnx").iterdir()
    np.save(folder / "other.npy", -np.load(folder / "reference.npy"))
    _write_whole(folder / "reference.npy", (folder / "other.npy").read_bytes())
    (folder / "other.npy").rename(folder / "kept.engine")
    with pytest.raises(InferenceError, match=r"for rgb does not agree .* cosine -1\.0"):
        OnnxEngine(model, "cpu")(inputs)
    assert not [
        r for r in caplog.records if r.name.startswith("mmsam_ros") and r.levelno > logging.INFO
    ]
    assert {path.name for path in folder.iterdir()} == {
        "kept.engine",
        "model.onnx",
        "reference.npy",
        "sha256.json",
    }


def test_a_whole_file_that_a_provider_refuses_is_not_made_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, inputs = PixelNetwork(SPEC.config), sample_inputs(("rgb",), (1, 3, *SIZE))
    OnnxEngine(model, "cpu", providers=[CPU])(inputs)
    (folder,) = cache_folder("onnx").iterdir()
    refused = b"nothing that this provider reads"
    _write_whole(folder / "model.onnx", refused)
    with pytest.raises(InferenceError, match=f"engine onnx with {CPU} for rgb: .*model.onnx"):
        OnnxEngine(model, "cpu", providers=[CPU])(inputs)
    assert "damaged" not in caplog.text
    assert (folder / "model.onnx").read_bytes() == refused


class SamplingNetwork(PixelNetwork):
    """With a bilinear sampling of the camera image."""

    def forward(self, inputs: Mapping[str, Tensor], present: Any = None) -> Tensor:
        turned = inputs["rgb"].flip(1).tanh().movedim(1, -1)[..., :2]
        image = F.grid_sample(inputs["rgb"], turned, align_corners=False)
        return super().forward({**inputs, "rgb": image})


def test_openvino_gets_the_names_that_it_knows(tmp_path: Path) -> None:
    model, shape = SamplingNetwork(SPEC.config), (1, 3, *SIZE)
    expected = write_onnx(model, ("rgb",), shape, tmp_path / "w.onnx", opset=OPENVINO_OPSET)
    written = onnx.load(tmp_path / "w.onnx")
    assert [entry.version for entry in written.opset_import if not entry.domain] == [OPENVINO_OPSET]
    (node,) = (node for node in written.graph.node if node.op_type == "GridSample")
    assert b"bilinear" in {attribute.s for attribute in node.attribute}
    session = onnxruntime.InferenceSession(tmp_path / "w.onnx", providers=[CPU])
    (found,) = session.run(None, {"rgb": sample_inputs(("rgb",), shape)["rgb"].numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=0)


def test_openvino_agrees() -> None:
    if OPENVINO not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-openvino is not installed")
    model, inputs = SamplingNetwork(SPEC.config), sample_inputs(("rgb",), (1, 3, *SIZE))
    engine = OnnxEngine(model, "cpu")
    assert engine.name == "onnx (OpenVINO)"
    torch.testing.assert_close(engine(inputs), model(inputs), atol=1e-4, rtol=0)


def test_a_refused_export_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, model = tmp_path / "out", PixelNetwork(SPEC.config)
    other = PixelNetwork(SPEC.config, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(export_module, "prepare", lambda model: other)  # a rewrite that is wrong
        with pytest.raises(InferenceError, match=r"w\.onnx does not agree .*cosine 0\."):
            export_file(model, SPEC, ["lidar"], out / "w.onnx")
    assert list(out.iterdir()) == []
    export_file(model, SPEC, ["lidar"], out / "w.onnx")
    before = (out / "w.onnx").read_bytes()
    monkeypatch.setattr(export_module, "prepare", lambda model: other)
    with pytest.raises(InferenceError, match="does not agree"):
        export_file(model, SPEC, ["lidar"], out / "w.onnx")
    assert [path.read_bytes() for path in out.iterdir()] == [before]


@pytest.mark.parametrize(
    ("wanted", "device", "found"),
    [
        ([], "cpu", [CPU]),
        ([], "cuda", [CUDA, CPU]),
        ([TENSORRT], "cuda", [TENSORRT, CPU]),
        ([TENSORRT, CUDA, CPU], "cuda", [TENSORRT, CUDA, CPU]),
        ([CPU], "cpu", [CPU]),
    ],
)
def test_providers_of_a_device(wanted: list[str], device: str, found: list[str]) -> None:
    have = [TENSORRT, CUDA, CPU]
    assert choose_providers(wanted, have, torch.device(device)) == found


def test_the_cpu_alone_is_refused_with_inputs_on_a_gpu() -> None:
    said = f"found {CPU} alone with device cuda:1, expected device cpu, or {CUDA} before it"
    with pytest.raises(InferenceError, match=said):
        choose_providers([CPU], [CUDA, CPU], torch.device("cuda:1"))
    with pytest.raises(InferenceError, match=f"found {CUDA} with device cpu, expected device cuda"):
        choose_providers([CUDA], [CUDA, CPU], torch.device("cpu"))


@pytest.mark.parametrize("text", ["", "[]", '{"engine": "faster", "measured": {}}'])
def test_a_damaged_measurement_is_made_again(
    text: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsam_ros.inference.engines.eager.prepare", lambda model, _: model)
    model = PixelNetwork(SPEC.config)
    make_engine("auto", model, "cpu", "fp32", SIZE, [CPU])
    (note,) = cache_folder("auto").iterdir()
    note.write_text(text)
    caplog.set_level(logging.INFO)
    caplog.clear()
    engine = make_engine("auto", model, "cpu", "fp32", SIZE, [CPU])
    assert engine.name in ("torch", "onnx (CPU)")
    assert "measuring" in caplog.text
    assert json.loads(note.read_text())["engine"] in ("torch", "onnx")


def test_what_was_measured_while_threads_spin_is_not_for_threads_that_sleep(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mmsam_ros.inference.engines.eager.prepare", lambda model, _: model)
    model = PixelNetwork(SPEC.config)
    caplog.set_level(logging.INFO)
    for policy in ("ACTIVE", "PASSIVE"):
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
        caplog.clear()
        make_engine("auto", model, "cpu", "fp32", SIZE)
        assert "measuring" in caplog.text
    assert len(list(cache_folder("auto").iterdir())) == 2


def test_every_start_says_why_an_engine_was_left_out_and_what_to_remove(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mmsam_ros.inference.engines.eager.prepare", lambda model, _: model)
    model = PixelNetwork(SPEC.config)
    cache_folder("onnx").rmdir()
    cache_folder("auto").with_name("onnx").touch()  # no export can be written
    assert make_engine("auto", model, "cpu", "fp32", SIZE).name == "torch"
    (note,) = cache_folder("auto").iterdir()
    caplog.set_level(logging.INFO)
    caplog.clear()
    make_engine("auto", model, "cpu", "fp32", SIZE)
    assert "onnx cannot be used: " in caplog.text
    assert f"set MMSAM_CACHE to a folder that can be written); remove {note}" in caplog.text


def test_an_engine_that_was_measured_and_is_gone(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmsam_ros.inference.engines.eager.prepare", lambda model, _: model)
    model = PixelNetwork(SPEC.config)
    make_engine("auto", model, "cpu", "fp32", SIZE)
    (note,) = cache_folder("auto").iterdir()
    note.write_text('{"engine": "triton", "measured": {"triton": "1 ms"}}')
    assert make_engine("auto", model, "cpu", "fp32", SIZE).name == "torch"
    assert "triton cannot be made any more, torch takes its place" in caplog.text
    assert str(note) in caplog.text
