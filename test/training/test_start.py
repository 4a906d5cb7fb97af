# SPDX-License-Identifier: Apache-2.0
"""What a run begins with: data set, network, start weights, frozen parts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.trees import make_deliver, make_folder

from mmsam_ros.data.open import open_frames
from mmsam_ros.inference.geometry import Plan
from mmsam_ros.model import CombineConfig
from mmsam_ros.sensors import FIELDS, frame_planes
from mmsam_ros.training.config import TrainConfig, TrainingError
from mmsam_ros.training.configure import load_config
from mmsam_ros.training.start import build, components, freeze
from mmsam_ros.weights import save_model

NANO = (
    "--model.preset=nano", "--model.image_size=[64, 96]", "--augment.crop=[64, 96]",
    "--start.sam=scratch", "--start.convnext=scratch",
)  # fmt: skip


def options(*more: str) -> TrainConfig:
    return load_config(["--dataset=deliver", "--sensors=[lidar]", *NANO, *more])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deliver")
    make_deliver(folder)
    return folder


def test_benchmark_spec(root: Path) -> None:
    frames = open_frames("deliver", root, "train", ("lidar",))
    model, spec = build(options(), frames)
    assert spec.config == model.config
    assert (model.config.num_classes, model.config.modalities) == (25, ("rgb", "lidar"))
    assert spec.presence.trained_subsets == (("camera", "lidar"),)
    assert f"{len(frames)} frames" in spec.provenance.data
    rgb, spec = build(options("--model.inputs=rgb"), frames)
    assert rgb.config.modalities == ("rgb",)
    assert spec.sensors == ()


def test_class_weights_are_for_all_classes(root: Path) -> None:
    frames = open_frames("deliver", root, "train", ("lidar",))
    for wrong in ([1.0, 2.0], [0.0] * 25):
        with pytest.raises(TrainingError, match=r"class_weights: .*25 values, not all 0, for Bui"):
            build(options(f"--loss.class_weights={wrong}"), frames)
    with pytest.raises(TrainingError, match=r"loss.class_weights: found .* at least 0"):
        options("--loss.class_weights=[1.0, -2.0]")
    assert build(options(f"--loss.class_weights={[1.0] * 25}"), frames)


@pytest.mark.parametrize("sensors", ["lidar", "lidar,event"])
def test_combining_no_auxiliaries_is_refused(root: Path, sensors: str) -> None:
    """What several sensors are combined by unless asked otherwise does not count as asked for."""
    frames = open_frames("deliver", root, "train", tuple(sensors.split(",")))
    rgb_only = [f"--sensors={sensors}", "--model.inputs=rgb"]
    assert build(options(*rgb_only), frames)[0].config.combine == CombineConfig()
    several = "," in sensors
    for key, value in (("absent", "empty" if several else "masked"), ("gate", str(not several))):
        with pytest.raises(TrainingError, match=rf"model\.combine\.{key}: found .*no auxiliary"):
            build(options(*rgb_only, f"--model.combine.{key}={value}"), frames)


def test_folder_spec_comes_from_its_meta(tmp_path: Path) -> None:
    make_folder(tmp_path, ("lidar", "thermal"))
    frames = open_frames("folder", tmp_path, "train", ("lidar", "thermal"))
    config = load_config(["--config=folder_rgb_lidar_thermal", *NANO])
    model, spec = build(config, frames)
    assert spec.classes == frames.classes
    assert spec.encodings == {s: m.encoding for s, m in frames.modalities.items()}
    assert model.config.auxiliaries == ("lidar", "thermal")
    lidar, thermal = (spec.inputs[name] for name in model.config.auxiliaries)
    assert lidar.fields == ("range", "intensity", "height")
    assert thermal.fields == ("value",) * 3
    assert (lidar.limits, thermal.limits) == (None, (26000.0, 31500.0))


@pytest.mark.parametrize(
    ("image", "size", "point_size"),
    [
        ((64, 96), "[64, 96]", 2),
        ((64, 96), "[128, 192]", 4),
        ((64, 96), "[32, 48]", 1),
        ((64, 96), "[192, 192]", 4),  # twice as wide, whatever the height allows
        ((96, 64), "[128, 192]", 4),  # long side along long side
    ],
)
def test_projected_points_keep_their_size_in_the_node(
    tmp_path: Path, image: tuple[int, int], size: str, point_size: int
) -> None:
    """Points of 2 pixels in the data set are as much larger as the augmentation's plain resize."""
    make_folder(tmp_path, ("lidar", "thermal"), size=image, calibrated=True)
    frames = open_frames("folder", tmp_path, "train", ("lidar", "thermal"))
    config = load_config([
        "--dataset=folder", "--sensors=[lidar, thermal]", "--model.preset=nano",
        "--model.combine.absent=masked", "--start.sam=scratch", "--start.convnext=scratch",
        f"--augment.base_size={size}", "--augment.crop=[128, 192]",
    ])  # fmt: skip
    assert build(config, frames)[1].inputs["lidar"].point_size == point_size


def test_start_from_weights(root: Path, tmp_path: Path) -> None:
    frames = open_frames("deliver", root, "train", ("lidar",))
    first, spec = build(options(), frames)
    path = tmp_path / "w.safetensors"
    save_model(path, first, spec)
    second, _ = build(options(f"--start.weights={path}"), frames)
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())
    swapped = (dataclasses.replace(spec.classes[0], name="Roof"), *spec.classes[1:])
    save_model(tmp_path / "x.safetensors", first, dataclasses.replace(spec, classes=swapped))
    with pytest.raises(TrainingError, match=r"its classes are \['Roof'"):
        build(options(f"--start.weights={tmp_path / 'x.safetensors'}"), frames)
    lidar = dataclasses.replace(spec.inputs["lidar"], scale=(2.0, 1.0, 1.0))
    other = dataclasses.replace(spec, inputs={**spec.inputs, "lidar": lidar})
    save_model(tmp_path / "x.safetensors", first, other)
    with pytest.raises(TrainingError, match=r"its input lidar is .*scale=\(2.0"):
        build(options(f"--start.weights={tmp_path / 'x.safetensors'}"), frames)
    with pytest.raises(TrainingError, match="differs from the run's in fusion"):
        build(options(f"--start.weights={path}", "--model.fusion.kind=add"), frames)


def test_frozen_parts(root: Path) -> None:
    frames = open_frames("deliver", root, "train", ("lidar",))
    model, _ = build(options("--start.freeze=[encoder]", "--model.encoder.lora_rank=4"), frames)
    counted = components(model)
    assert counted["encoder"][1] == 0
    assert counted["encoder"][0] > 0
    assert counted["LoRA"][0] == counted["LoRA"][1] > 0
    assert all(total == trained for part, (total, trained) in counted.items() if part != "encoder")
    assert sum(total for total, _ in counted.values()) == sum(p.numel() for p in model.parameters())
    model.requires_grad_()
    freeze(model, ("encoder.blocks.*.norm?", "prior.trunks"))
    still = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert {n for n in still if n.startswith("encoder.")} == {
        f"encoder.blocks.{i}.norm{k}.{p}"
        for i in range(4)
        for k in "12"
        for p in ("weight", "bias")
    }
    with pytest.raises(TrainingError, match="'encodr'; did you mean 'encoder'"):
        build(options("--start.freeze=[encodr]"), frames)
    with pytest.raises(TrainingError, match=r"'enc'"):  # a prefix ends where a name does
        build(options("--start.freeze=[enc]"), frames)


def test_a_crop_that_the_network_cannot_take_is_refused(root: Path) -> None:
    frames = open_frames("deliver", root, "train", ("lidar",))
    with pytest.raises(TrainingError, match=r"augment\.crop: found \(64, 64\)"):
        build(options("--augment.crop=[64, 64]"), frames)


def test_the_spec_says_what_the_sensors_look_like(tmp_path: Path) -> None:
    """As the node makes planes of them: at the canvas, without augmentation."""
    make_folder(tmp_path, ("lidar", "thermal"))
    frames = open_frames("folder", tmp_path, "train", ("lidar", "thermal"))
    _, spec = build(load_config(["--config=folder_rgb_lidar_thermal", *NANO]), frames)
    for sensor in ("lidar", "thermal"):
        planes = []
        for index in range(len(frames)):
            frame = frames[index].frame
            canvas = Plan.of(spec.geometry, frame.size).canvas
            planes.append(frame_planes(frame, spec.modalities, canvas).auxiliaries[sensor])
        pixels = np.concatenate([p.reshape(-1, p.shape[-1]) for p in planes])
        filled = pixels[pixels.any(axis=1)]
        fields = FIELDS[spec.encodings[sensor]]
        assert list(spec.seen[sensor]) == list(fields)
        for i, name in enumerate(fields):
            found, spread = spec.seen[sensor][name], float(np.ptp(filled[:, i])) + 1e-6
            low, high = np.percentile(filled[:, i], (1, 99))
            assert found.low == pytest.approx(low, abs=0.1 * spread)
            assert found.high == pytest.approx(high, abs=0.1 * spread)
            assert found.mean == pytest.approx(filled[:, i].mean(), abs=0.1 * spread)
            assert found.empty == pytest.approx(1 - len(filled) / len(pixels), abs=0.02)


def test_limits_of_another_camera_end_the_training_at_its_start(tmp_path: Path) -> None:
    make_folder(tmp_path, ("thermal",))
    meta = json.loads((tmp_path / "meta.json").read_text())
    meta["encodings"]["thermal"], meta["limits"] = "mono16", [100, 200]
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    frames = open_frames("folder", tmp_path, "train", ("thermal",))
    config = load_config(["--dataset=folder", "--sensors=[thermal]", *NANO])
    with pytest.raises(TrainingError, match=r"4 of 4 frames .*limits 100 and 200.*frame_gain"):
        build(config, frames)
