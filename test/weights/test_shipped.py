# SPDX-License-Identifier: Apache-2.0
"""The weights that come with the package, and what specs hold of the benchmarks."""

from __future__ import annotations

import shutil
from itertools import combinations
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from support.networks import spec_of

from mmsam_ros.weights import default_weights, load_model, read_spec, registry

MODELS = sorted((Path(__file__).parents[2] / "models").glob("*.safetensors"))
every_model = pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)

BYTE = pytest.approx((1 / 255,) * 3)
# name: classes, size, mode, stride, sources, scale, mean, std
PUBLISHED = {
    "deliver_rgb_depth": (25, (1024, 1024), "pad", None, ("depth",), BYTE, (0, 0, 0), (1, 1, 1)),
    "deliver_rgb_event": (25, (1024, 1024), "pad", None, ("event",), BYTE, (0, 0, 0), (1, 1, 1)),
    "deliver_rgb_lidar": (25, (1024, 1024), "pad", None, ("lidar",), BYTE, (0, 0, 0), (1, 1, 1)),
    "fmb_rgb_thermal": (14, (800, 800), "pad", None, ("thermal",), BYTE, (0, 0, 0), (1, 1, 1)),
    "muses_rgb_lidar": (
        19, (1024, 1024), "slide", (640, 640), ("lidar",), (1, 1, 1),
        (1.4628459, 1.8271197, 0.07808967), (7.55678107, 9.85001751, 0.67012253),
    ),
    "muses_rgb_event": (
        19, (1024, 1024), "slide", (640, 640), ("event",), (1, 1, 1),
        (0.08768561, 0.08779435, 0.0), (0.4479273728, 0.4006636355, 1.0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_numbers(name: str) -> None:
    count, size, mode, stride, sources, scale, mean, std = PUBLISHED[name]
    spec = spec_of(name, "vit_l")
    assert (len(spec.classes), spec.geometry.size) == (count, size)
    assert (spec.geometry.mode, spec.geometry.stride, spec.sensors) == (mode, stride, sources)
    given = spec.inputs[spec.config.auxiliaries[0]]
    assert (given.scale, given.mean, given.std) == (scale, mean, std)
    rgb = spec.inputs["rgb"]
    assert (rgb.mean, rgb.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert rgb.scale == BYTE


def test_the_default_knows_all_sensors_and_is_named_where_users_look(root: Path) -> None:
    path = default_weights()
    assert path in MODELS
    assert read_spec(path).sensors == ("lidar", "thermal")
    assert (
        f"[{path.stem}]({path.stem}.md) is what the node,"
        in (root / "models/README.md").read_text()
    )


def test_one_name_decides_on_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "share/mmsam_ros/models/other.safetensors"
    other.parent.mkdir(parents=True)
    shutil.copyfile(default_weights(), other)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.setattr(registry, "DEFAULT", other.name)
    assert default_weights() == other


@every_model
def test_the_packages_weights_have_scores_a_card_and_terms(path: Path) -> None:
    spec = read_spec(path)
    counts = range(len(spec.sensors) + 1)
    sets = [some for count in counts for some in combinations(spec.sensors, count)]
    assert set(spec.presence.scores) == {"+".join(("camera", *some)) for some in sets}
    assert path.with_suffix(".md").read_text().startswith(f"# {path.name}\n")
    assert f"| `{path.name}`" in path.with_name("LICENSE.md").read_text()


def test_the_packages_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in MODELS) <= 40 * 2**20


@every_model
def test_the_packages_weights_load(path: Path) -> None:
    model, spec = load_model(path)
    assert model.config == spec.config
    kinds = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    counters = {name for name, kind in kinds.items() if kind == torch.int64}
    assert counters == {name for name in kinds if name.endswith("num_batches_tracked")}
    assert set(kinds.values()) == {torch.float32, torch.int64}


@every_model
def test_the_packages_weights_are_half_where_that_does_no_harm(path: Path) -> None:
    with safe_open(path, "pt") as file:
        kinds = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    sensitive = ("temperature", "level_embed", "running_mean", "running_var", "gamma", "bias")
    for name, tensor in kinds.items():
        assert bool(tensor.isfinite().all()), name
        if tensor.ndim <= 1 or name.endswith(sensitive):
            assert tensor.dtype != torch.float16, name
    halves = [t.numel() for t in kinds.values() if t.dtype == torch.float16]
    assert sum(halves) > 0.95 * sum(t.numel() for t in kinds.values())
