# SPDX-License-Identifier: Apache-2.0
"""`mmsam weights export`: a graph for each set of sensors, in two precisions.

Time goes with the number of nodes, of which Road-Fusion makes more than half with several
auxiliaries, and the injectors and extractors most of the rest. So they are not in all of the
networks.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.networks import lean_spec, random_network, spec_of

from mmsam_ros.cli.main import main
from mmsam_ros.inference.export import _publish, sample_inputs, subsets
from mmsam_ros.model import CombineConfig, FusionConfig
from mmsam_ros.sensors import RGB
from mmsam_ros.weights import Spec, save_model

CPU = "CPUExecutionProvider"
SEVERAL, ONE = "synthetic_rgb_lidar_thermal", "muses_rgb_lidar"
FLOAT, HALF = 1, 10  # ONNX's numbers


def export(spec: Spec, tmp_path: Path, *words: str) -> Any:
    """The network, and the folder that the command has written."""
    model = random_network(spec).eval()
    weights, out = tmp_path / "w.safetensors", tmp_path / "out"
    save_model(weights, model, spec)
    command = ["weights", "export", str(weights), "--format", "onnx", "--out", str(out), *words]
    assert main(command) == 0
    return model, out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "absent", "fusion", "asked"),
    [
        (SEVERAL, "masked", "concat", ["thermal"]),
        (ONE, "empty", "road", ["lidar"]),
        (ONE, "empty", "add", None),
        (SEVERAL, "fallback", "road", []),  # the camera alone is another network
        (SEVERAL, "fallback", "concat", ["lidar", "thermal"]),
    ],
)
def test_sets_of_sensors_are_exported(
    network: str, absent: Any, fusion: Any, asked: list[str] | None, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Combined by presence, and one auxiliary as published, whose absence is its empty raster."""
    runtime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    combine = CombineConfig(absent, gate=absent != "empty")
    like = spec_of(network).config.fusion
    spec = lean_spec(network, combine=combine, fusion=replace(like, kind=fusion))
    if fusion == "add":  # the sum of the maps, which the empty raster's are added to
        interaction = replace(spec.config.interaction, kind="entry")
        spec = replace(spec, config=replace(spec.config, interaction=interaction))
    words = [] if asked is None else [f"--sensors={','.join(asked)}"]
    model, out = export(spec, tmp_path, *words)
    said = capsys.readouterr().out
    if asked is None:
        sets = subsets(spec.config)
        assert len(sets) == 2 ** len(spec.sensors)
    else:
        sets = [(RGB, *asked)]
    assert len(list(out.iterdir())) == len(sets)
    for names in sets:
        path = out / f"{'_'.join(('w', 'camera', *names[1:]))}_fp32.onnx"
        assert f"{path}: cosine 1.000000, argmax 100.000%" in said
        session = runtime.InferenceSession(path, providers=[CPU])
        facts = session.get_modelmeta().custom_metadata_map
        assert json.loads(facts["modalities"]) == list(names)
        values = {key: json.loads(facts[key]) for key in spec.to_dict()}
        assert Spec.from_dict(values) == spec
        assert [i.name for i in session.get_inputs()] == list(names)
        inputs = sample_inputs(names, (1, 3, *spec.geometry.size))
        (found,) = session.run(["logits"], {n: x.numpy() for n, x in inputs.items()})
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(found), model(inputs), atol=1e-3, rtol=0)
        proto = onnx.load(path)
        assert [o.version for o in proto.opset_import if not o.domain] == [20]
        assert not {"ScatterElements", "NonZero"} & {node.op_type for node in proto.graph.node}
        assert str(Path.home()).encode() not in path.read_bytes()  # no traces of this machine


@pytest.mark.parametrize("calls", range(5))
def test_a_graph_never_reads_the_tensors_of_another(
    calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files cannot be replaced at once. Here the process ends after so many system calls."""
    left = iter(range(calls))

    def limited(call: Any) -> Any:
        def run(*given: Any, **options: Any) -> Any:
            if next(left, None) is None:
                raise SystemExit
            return call(*given, **options)

        return run

    path, made = tmp_path / "w.onnx", tmp_path / "part" / "w.onnx"
    made.parent.mkdir()
    for file, age in ((path, "old"), (made, "new")):
        file.write_text(age)
        file.with_name("w.onnx.data").write_text(age)
    with monkeypatch.context() as patch, suppress(SystemExit):
        patch.setattr(os, "unlink", limited(os.unlink))
        patch.setattr(os, "replace", limited(os.replace))
        _publish(made, path)
    data = path.with_name("w.onnx.data")
    assert not path.exists() or path.read_text() == data.read_text()
    assert path.exists() == (calls in (0, 4))


def test_a_graph_alone_takes_the_place_of_one_with_tensors(tmp_path: Path) -> None:
    path, made = tmp_path / "w.onnx", tmp_path / "part" / "w.onnx"
    made.parent.mkdir()
    for file in (path, path.with_name("w.onnx.data"), made):
        file.write_text(str(file))
    _publish(made, path)
    assert path.read_text() == str(made)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["w.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("absent", ["empty", "fallback"])
def test_half_precision_is_of_layers_and_of_the_encoders_attention(
    absent: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fallback's encoder is the only one; each block has two products, of queries with keys and
    of weights with values.
    """
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    if absent == "empty":
        spec, words = lean_spec(ONE, rgb_only=True), []
    else:
        fusion = FusionConfig("concat")
        spec = lean_spec(SEVERAL, combine=CombineConfig(absent, gate=True), fusion=fusion)
        words = ["--sensors=lidar"]
    _, out = export(spec, tmp_path, "--precision", "fp16", *words)
    (path,) = out.iterdir()
    assert f"{path}: cosine " in capsys.readouterr().out  # it agreed, or there were no file
    graph = onnx.load(path).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Cast":
            kinds[node.output[0]] = node.attribute[0].i
    weights = {tensor.name for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    of_values = [node for node in products if not weights & {*node.input}]
    halves = [node for node in of_values if {kinds.get(name) for name in node.input} == {HALF}]
    assert len(halves) == 2 * spec.config.encoder.depth
    layers = [node for node in products if weights & {*node.input}]
    assert all(kinds[name] == HALF for node in layers for name in node.input)
    floats = {name for name in weights if kinds[name] != HALF}
    assert any("norm" in name for name in floats)
    assert {name for name in floats if ".classifier." in name} == {
        "model.head.classifier.weight", "model.head.classifier.bias",
    }  # fmt: skip
    assert graph.output[0].type.tensor_type.elem_type == FLOAT
