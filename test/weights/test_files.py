# SPDX-License-Identifier: Apache-2.0
"""The weights file: round trip, validation, atomic writing."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.networks import NETWORKS, network_of, random_network, spec_of
from support.randomise import randomise

from mmsam_ros._util import MmsamError
from mmsam_ros.cli.main import main
from mmsam_ros.model import CombineConfig, build_model
from mmsam_ros.sensors import ChannelStatistics
from mmsam_ros.weights import (
    Presence,
    Score,
    Spec,
    WeightsError,
    load_model,
    read_spec,
    save_model,
    save_spec,
)

NAME = "synthetic_rgb_lidar_thermal"


@pytest.fixture(scope="module")
def spec() -> Spec:
    return spec_of(NAME, seed=3)


@pytest.fixture(scope="module")
def weights_file(spec: Spec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    model = build_model(spec.config)
    randomise(model, seed=5)
    save_model(path, model, spec)
    return path


def rewrite(source: Path, target: Path, **changes: str | None) -> Path:
    """A copy of a weights file with other metadata values (None: key left out)."""
    with safe_open(source, framework="pt") as file:
        metadata = dict(file.metadata())
    for key, value in changes.items():
        metadata.pop(key)
        if value is not None:
            metadata[key] = value
    save_file(load_file(source), target, metadata)
    return target


def test_round_trip(weights_file: Path, spec: Spec) -> None:
    model, loaded = load_model(weights_file)
    assert loaded == spec
    assert not model.training
    expected = randomise(build_model(spec.config), seed=5).state_dict()
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert list(weights_file.parent.iterdir()) == [weights_file]  # no partial file is left


def test_what_equals_the_fallbacks_is_stored_once(spec: Spec, tmp_path: Path) -> None:
    config = dataclasses.replace(spec.config, combine=CombineConfig("fallback", gate=True))
    model = randomise(build_model(config), seed=5)
    model.begin_as_fallback()
    assert model.fallback is not None
    torch.nn.init.ones_(model.head.classifier.bias)
    path = tmp_path / "nano.safetensors"
    save_model(path, model, dataclasses.replace(spec, config=config))
    stored = load_file(path)
    assert "head.classifier.weight" not in stored
    assert "head.classifier.bias" in stored
    loaded, loaded_spec = load_model(path)
    found = loaded.state_dict()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
    one, other = loaded.up, loaded.fallback and loaded.fallback.up
    assert one is not None
    assert other is not None
    assert one.weight.data_ptr() != other.weight.data_ptr()
    other_spec = dataclasses.replace(loaded_spec, seen={})
    save_spec(path, other_spec)
    assert load_file(path).keys() == stored.keys()
    assert load_model(path)[1] == other_spec
    undeclared = rewrite(path, tmp_path / "undeclared.safetensors", shared=None)
    with pytest.raises(WeightsError, match=r"missing: .*head\.classifier\.weight"):
        load_model(undeclared)
    twice = rewrite(path, tmp_path / "twice.safetensors", shared='["head.classifier.bias"]')
    with pytest.raises(WeightsError, match=r"'shared' names head\.classifier\.bias, expected"):
        load_model(twice)
    for text in ("7", "[", "[" * 10_000):
        spoilt = rewrite(path, tmp_path / "spoilt.safetensors", shared=text)
        with pytest.raises(WeightsError, match="metadata key 'shared' is no list"):
            load_model(spoilt)


def test_a_loaded_network_needs_its_file_no_more(weights_file: Path, tmp_path: Path) -> None:
    """New weights are copied over those of a running node; tensors in the file would follow, and
    the process would end with SIGBUS where it gets shorter.
    """
    path = Path(shutil.copy(weights_file, tmp_path / "nano.safetensors"))
    model, spec = load_model(path)
    before = copy.deepcopy(model.state_dict())
    save_model(other := tmp_path / "other.safetensors", random_network(spec, seed=6), spec)
    shutil.copyfile(other, path)
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())
    path.write_bytes(b"")
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())


def test_half_precision_files_load_as_float32(weights_file: Path, tmp_path: Path) -> None:
    full = load_file(weights_file)
    state = {n: v.half() if v.is_floating_point() else v for n, v in full.items()}
    with safe_open(weights_file, framework="pt") as file:
        save_file(state, tmp_path / "half.safetensors", file.metadata())
    model, _ = load_model(tmp_path / "half.safetensors")
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_benchmark_makes_a_valid_spec(name: str) -> None:
    for preset in ("vit_l", "tiny"):
        spec = spec_of(name, preset)
        assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def change(spec: Spec, path: str, value: Any) -> dict[str, Any]:
    """The spec as plain values with one of them replaced."""
    values: dict[str, Any] = json.loads(json.dumps(spec.to_dict()))
    *parents, leaf = path.split("/")
    node: Any = values
    for key in parents:
        node = node[int(key)] if isinstance(node, list) else node[key]
    node[int(leaf) if isinstance(node, list) else leaf] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("geometry/mode", "stretch", "geometry.mode"),
        ("geometry/size", [100, 100], "geometry.size"),
        ("geometry/stride", [64, 64], "geometry.stride"),
        ("geometry/strid", None, "unknown key 'strid'; did you mean 'stride'"),
        ("classes/0/id", 7, "classes"),
        ("classes/1/name", "road", "classes"),
        ("classes/1/rgb", [0, 0, 300], "class 'sidewalk': rgb"),
        ("inputs/lidar/std", [1.0, 0.0, 1.0], "inputs.lidar.std"),
        ("inputs/lidar/scale", [1.0, float("inf"), 0.0], "scale"),
        ("inputs/rgb/scale", [0.0, 1.0, 1.0], "inputs.rgb.scale"),
        ("inputs/lidar/mean", [10**400, 0.0, 0.0], r"mean\[0\]: int too large"),
        ("inputs/lidar/point_size", 0, "point_size"),
        ("inputs/thermal/limits", None, "limits"),
        ("inputs/thermal/limits", [5.0, 5.0], "limits"),
        ("inputs/lidar/encoding", "png9", "encoding"),
        ("inputs/lidar/fields/0", "colour", "fields"),
        ("inputs/lidar/encoding", "mono8", "fields"),
        ("inputs/lidar/encoding", "rgb8", "fields"),
        ("inputs/rgb/fields", 3, "expected a list"),
        ("config/num_classes", 3, "classes"),
        ("config/fusion/groups", 0, "fusion.groups"),
        ("inputs/rgb/fields/0", "blue", "inputs.rgb.fields"),
        ("inputs/thermal/limits", [float("-inf"), 5.0], "limits"),
        ("inputs/lidar/std", [1e-60, 1.0, 1.0], "std"),
        ("presence/trained_subsets", [["camera", "sonar"]], "presence"),
        ("presence/scores", {"camera": {"miou": 101.0, "dataset": "d"}}, "presence.scores"),
        ("config/encoder/depht", 3, "did you mean 'depth'"),
        ("presence/scores", {"camera": {"miou": "x", "dataset": "d"}}, "presence.scores"),
    ],
)
def test_bad_specs_are_refused_by_name(spec: Spec, path: str, value: Any, message: str) -> None:
    with pytest.raises(MmsamError, match=message):
        Spec.from_dict(change(spec, path, value))


def test_bad_files_are_refused_by_name(weights_file: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.safetensors: no such file"):
        load_model(tmp_path / "absent.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("not tensors")
    with pytest.raises(WeightsError, match=r"text\.safetensors: not a safetensors file"):
        load_model(text)
    other = rewrite(weights_file, tmp_path / "a.safetensors", format=json.dumps("mmsam/9"))
    with pytest.raises(WeightsError, match=r'format is "mmsam/9", expected \'mmsam/1\''):
        read_spec(other)
    other = rewrite(weights_file, tmp_path / "b.safetensors", inputs=None)
    with pytest.raises(WeightsError, match="metadata key 'inputs' is missing"):
        read_spec(other)
    other = rewrite(weights_file, tmp_path / "c.safetensors", classes="[{")
    with pytest.raises(WeightsError, match="metadata key 'classes' is not JSON"):
        read_spec(other)
    for text in ("[" * 10**5, "9" * 5000, '{"num_classes": ' + "9" * 5000 + "}"):
        other = rewrite(weights_file, tmp_path / "d.safetensors", config=text)
        with pytest.raises(WeightsError, match="metadata key 'config' is not JSON"):
            read_spec(other)
        assert main(["weights", "info", str(other)]) == 2


def test_tensors_that_do_not_fit_are_listed(weights_file: Path, tmp_path: Path) -> None:
    state = load_file(weights_file)
    state.pop("level_embed")
    state["strange"] = torch.zeros(1)
    state["head.classifier.bias"] = torch.zeros(2)
    with safe_open(weights_file, framework="pt") as file:
        save_file(state, tmp_path / "x.safetensors", file.metadata())
    with pytest.raises(WeightsError, match="1 missing: level_embed; 1 unexpected: strange; 1 mis"):
        load_model(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("head.classifier.weight", torch.nan, "has values that are not finite"),
        ("encoder.pos_embed", torch.inf, "has values that are not finite"),
        ("head.fuse.norm.running_var", -1.0, "has values below 0, expected a variance"),
        ("level_embed", torch.int64, "is torch.int64, expected a floating type"),
        ("head.fuse.norm.running_var", torch.float8_e4m3fn, "is torch.float8_e4m3fn, expected"),
    ],
)
def test_values_that_no_training_ends_with_are_refused(
    weights_file: Path, tmp_path: Path, name: str, value: Any, message: str
) -> None:
    """The node would publish one class everywhere, and nobody would know why."""
    state = load_file(weights_file)
    if isinstance(value, torch.dtype):
        state[name] = state[name].to(value)
    else:
        state[name].view(-1)[-1] = value
    with safe_open(weights_file, framework="pt") as file:
        save_file(state, tmp_path / "x.safetensors", file.metadata())
    with pytest.raises(WeightsError, match=f"x.safetensors: {name} {message}"):
        load_model(tmp_path / "x.safetensors")


def test_a_spec_that_could_not_be_loaded_is_not_saved(
    weights_file: Path, spec: Spec, tmp_path: Path
) -> None:
    model, _ = load_model(weights_file)
    score = Score(True, "d")
    broken = dataclasses.replace(spec, presence=Presence((), {"camera": score}))
    with pytest.raises(WeightsError, match="miou: found True, expected float"):
        save_model(tmp_path / "x.safetensors", model, broken)
    assert not list(tmp_path.iterdir())


def test_a_model_of_another_configuration_is_not_saved(spec: Spec, tmp_path: Path) -> None:
    other = network_of(NAME, image_size=(64, 64))
    with pytest.raises(WeightsError, match="configuration"):
        save_model(tmp_path / "x.safetensors", other, spec)
    assert not list(tmp_path.iterdir())


SEEN = {
    "lidar": {"intensity": ChannelStatistics(4.0, 210.0, 49.0, 0.9, -0.4)},
    "thermal": {"value": ChannelStatistics(1.0, 254.0, 158.0, 0.3, 0.7)},
}


def test_what_the_sensors_looked_like_is_kept(
    weights_file: Path, spec: Spec, tmp_path: Path
) -> None:
    """`save_spec` changes metadata alone, whatever the precision of the tensors."""
    path = tmp_path / "half.safetensors"
    state = {n: v.half() if v.ndim > 1 else v for n, v in load_file(weights_file).items()}
    with safe_open(weights_file, framework="pt") as file:
        save_file(state, path, file.metadata())
    save_spec(path, dataclasses.replace(spec, seen=SEEN))
    assert read_spec(path) == dataclasses.replace(spec, seen=SEEN)
    stored = load_file(path)
    assert stored.keys() == state.keys()
    assert all(stored[n].dtype == v.dtype and torch.equal(stored[n], v) for n, v in state.items())
    with pytest.raises(WeightsError, match="configuration is not the file's"):
        save_spec(path, spec_of(NAME, image_size=(64, 96)))


def test_files_without_statistics_keep_loading(weights_file: Path, tmp_path: Path) -> None:
    old = rewrite(weights_file, tmp_path / "old.safetensors", seen=None)
    assert read_spec(old).seen == {}


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        ({"radar": {}}, "seen: found"),
        ({"lidar": {"colour": {"low": 0, "high": 1, "mean": 0.5}}}, "seen: found"),
        ({"lidar": {"range": {"low": 2, "high": 1, "mean": 0.5}}}, r"seen\.lidar\.range\.high"),
        ({"lidar": {"range": {"low": 2}}}, "'high' is missing"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(
    weights_file: Path, tmp_path: Path, seen: Any, reason: str
) -> None:
    wrong = rewrite(weights_file, tmp_path / "wrong.safetensors", seen=json.dumps(seen))
    with pytest.raises(WeightsError, match=reason):
        read_spec(wrong)


def test_the_package_s_weights_know_their_sensors(root: Path) -> None:
    seen = read_spec(root / "models/tiny_synthetic.safetensors").seen
    assert {sensor: set(fields) for sensor, fields in seen.items()} == {
        "lidar": {"range", "intensity", "height"},
        "thermal": {"value"},
    }
    assert seen["lidar"]["height"].slope < -0.5  # the ground is below
    assert seen["thermal"]["value"].slope > 0.5  # the sky is cold
    assert 100 < seen["lidar"]["intensity"].high < 256
