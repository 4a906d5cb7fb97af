# SPDX-License-Identifier: Apache-2.0
"""Geometries of the data sets against plain computations, the node's way, and missing sensors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluations import prepared
from support.trees import make_folder, stored
from torch import Tensor

from mmsam_ros.data.corrupt import corrupt
from mmsam_ros.data.errors import DataError
from mmsam_ros.sensors import Frame, LidarPoints, Registration, SensorImage
from mmsam_ros.training.config import DataConfig, DeviceConfig, TrainConfig
from mmsam_ros.training.errors import TrainingError
from mmsam_ros.training.evaluate import (
    Evaluation,
    as_frame,
    evaluate_frames,
    evaluate_weights,
    published_geometry,
    published_prediction,
)
from mmsam_ros.training.metrics import SubsetMatrices
from mmsam_ros.weights import make_spec, setting_config

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
SIZE = (128, 192)  # of nano's input


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


def rgb_of(raw: Tensor) -> Tensor:
    return (raw / 255 - MEAN[:, None, None]) / STD[:, None, None]


def up(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def logits_of(evaluation: Evaluation, **inputs: Tensor) -> Tensor:
    """Logits at the input's size, of images (3, h, w)."""
    batch = {name: image[None] for name, image in inputs.items()}
    return up(evaluation.segmenter.model(batch), tuple(inputs["rgb"].shape[-2:]))


def assert_same(prediction: Tensor, logits: Tensor) -> None:
    """All but ties that rounding decides."""
    assert prediction.shape == logits.shape[-2:]
    assert len(prediction.unique()) > 1
    assert (prediction == logits.argmax(1)[0]).float().mean() > 0.999


def test_deliver_is_resized_with_its_labels(folder: Path) -> None:
    evaluation = Evaluation(prepared(folder, "deliver"))
    sample = evaluation.frames[0]
    raw, lidar = sample["rgb"].float()[None], sample["sources"]["lidar"][None]
    logits = logits_of(evaluation, rgb=rgb_of(up(raw, SIZE)[0]), lidar=up(lidar, SIZE)[0] / 255)
    prediction, target = evaluation.predict(sample)
    assert_same(prediction, logits)
    nearest = cv2.resize(sample["label"].numpy(), SIZE[::-1], interpolation=cv2.INTER_NEAREST)
    assert target is not None
    assert np.array_equal(target.numpy(), nearest)


def test_fmb_is_padded_before_it_is_normalised(folder: Path) -> None:
    evaluation = Evaluation(prepared(folder, "fmb"))
    sample = evaluation.frames[0]
    assert sample["rgb"].shape[-2:] == (60, 80)
    fitted = (128, 171)  # 80 * 128 / 60 = 170.67
    pad = (0, SIZE[1] - fitted[1], 0, 0)
    raw = F.pad(up(sample["rgb"].float()[None], fitted)[0], pad)
    thermal = F.pad(up(sample["sources"]["thermal"][None], fitted)[0], pad) / 255
    logits = logits_of(evaluation, rgb=rgb_of(raw), thermal=thermal.expand(3, -1, -1))
    prediction, target = evaluation.predict(sample)
    assert_same(prediction, up(logits[..., : fitted[1]], (60, 80)))
    assert torch.equal(target, sample["label"])


def test_fmb_padding_is_not_zero_for_the_network(folder: Path) -> None:
    evaluation = Evaluation(prepared(folder, "fmb"))
    seen: dict[str, Tensor] = {}

    def network(inputs: dict[str, Tensor]) -> Tensor:
        seen.update(inputs)
        return torch.zeros(1, 14, 32, 48)

    published_prediction(network, evaluation.frames[0], evaluation.spec, "fmb")
    torch.testing.assert_close(seen["rgb"][0, :, :, 180], (-MEAN / STD)[:, None].expand(3, 128))
    assert not seen["thermal"][0, :, :, 180].any()


def test_muses_is_read_in_windows(folder: Path) -> None:
    """A frame of 136x200 under windows of 128x192 with a step of 80x120: the last ends at the
    border.
    """
    evaluation = Evaluation(prepared(folder, "muses"))
    config = setting_config("muses_rgb_lidar", "nano")
    assert published_geometry(evaluation.spec, "muses").stride == (80, 120)
    rng = np.random.default_rng(0)
    sample = dict(evaluation.frames[0])
    sample["rgb"] = torch.from_numpy(rng.integers(0, 256, (3, 136, 200), np.uint8))
    sample["sources"] = {"lidar": torch.from_numpy(rng.uniform(0, 30, (3, 136, 200))).float()}
    sample["label"] = torch.zeros(136, 200, dtype=torch.uint8)
    given = make_spec("muses_rgb_lidar", config, data="none", recipe="test").inputs["lidar"]
    mean, std = (torch.tensor(values)[:, None, None] for values in (given.mean, given.std))
    rgb, lidar = rgb_of(sample["rgb"].float()), (sample["sources"]["lidar"] - mean) / std
    total, count = torch.zeros(1, 19, 136, 200), torch.zeros(136, 200)
    for top in (0, 8):
        for left in (0, 8):
            window = (..., slice(top, top + 128), slice(left, left + 192))
            total[window] += logits_of(evaluation, rgb=rgb[window], lidar=lidar[window])
            count[window[1:]] += 1
    prediction, target = evaluation.predict(sample)
    assert_same(prediction, total / count)
    assert target is not None
    assert target.shape == (136, 200)


@pytest.mark.parametrize("kind", ["deliver", "fmb", "muses", "folder"])
def test_native_is_what_the_node_publishes(folder: Path, kind: str) -> None:
    evaluation = Evaluation(prepared(folder, kind, split="val", geometry="native"))
    sample = evaluation.frames[1]
    sensors = {}
    for source, planes in sample["sources"].items():
        stored = planes.permute(1, 2, 0).numpy()
        dtype = {"muses_raw": np.float32, "mono16": np.uint16}
        stored = stored.astype(dtype.get(evaluation.frames.encodings[source], np.uint8))
        sensors[source] = SensorImage(stored if stored.shape[2] == 3 else stored[..., 0])
    rgb = np.ascontiguousarray(sample["rgb"].permute(1, 2, 0).numpy())
    result = evaluation.segmenter(Frame(rgb, sensors))
    prediction, target = evaluation.predict(sample)
    assert np.array_equal(prediction.numpy(), result.labels)
    assert torch.equal(target, sample["label"])


def test_a_folder_is_read_in_one_way(folder: Path) -> None:
    published, native = (
        Evaluation(prepared(folder, "folder", geometry=g)).run() for g in ("published", "native")
    )
    assert published.matrix().sum() > 0
    assert torch.equal(published.matrix(), native.matrix())


@pytest.mark.parametrize("encoding", ["muses_png16", "frame_gain", "mono16"])
def test_sources_go_back_to_what_was_stored(tmp_path: Path, encoding: str) -> None:
    """Through the sample and the node's frame to the values that the reader gave."""
    from mmsam_ros.data.open import open_frames
    from mmsam_ros.inference.geometry import Plan
    from mmsam_ros.inference.prepare import prepare
    from mmsam_ros.training.inputs import network_inputs
    from mmsam_ros.weights import folder_setting

    source = "lidar" if encoding == "muses_png16" else "thermal"
    make_folder(tmp_path, (source,), encodings={source: encoding})
    frames = open_frames("folder", tmp_path, "val", (source,))
    setting = folder_setting(frames.classes, frames.encodings, frames.limits)
    spec = make_spec(setting, setting_config(setting, "nano"), data="none", recipe="test")
    sample = frames[0]
    size = (sample["rgb"].shape[-2], sample["rgb"].shape[-1])
    inputs, _ = prepare(as_frame(sample, spec), spec, Plan(size, size, size), torch.device("cpu"))
    for name, expected in network_inputs(sample, spec).items():
        torch.testing.assert_close(inputs[name][0], expected, atol=1e-2, rtol=0)


def test_a_dropped_source_is_absent_to_the_network(folder: Path) -> None:
    evaluation = Evaluation(prepared(folder, "deliver", drop=("lidar",)))
    sample = evaluation.frames[0]
    assert not sample["sources"]
    raw = up(sample["rgb"].float()[None], SIZE)[0]
    prediction, _ = evaluation.predict(sample)
    assert_same(prediction, logits_of(evaluation, rgb=rgb_of(raw)))
    full, _ = (whole := Evaluation(prepared(folder, "deliver"))).predict(whole.frames[0])
    assert (prediction != full).float().mean() > 0.001
    native = Evaluation(prepared(folder, "deliver", drop=("lidar",), geometry="native"))
    rgb = np.ascontiguousarray(sample["rgb"].permute(1, 2, 0).numpy())
    alone = native.segmenter(Frame(rgb, {})).labels
    assert np.array_equal(native.predict(sample)[0].numpy(), alone)


def test_one_of_two_sources_may_be_dropped(folder: Path) -> None:
    evaluation = Evaluation(prepared(folder, "folder", drop=("thermal",)))
    assert list(evaluation.frames[0]["sources"]) == ["lidar"]
    assert evaluation.run().matrix().sum() > 0
    both = Evaluation(prepared(folder, "folder", drop=("thermal", "lidar")))
    assert list(both.frames[0]["sources"]) == []


def test_what_was_measured_goes_the_nodes_way(tmp_path: Path) -> None:
    """Points fall on the network's raster, which is not the image's; thermal is registered once."""
    root = make_folder(tmp_path / "large", size=(256, 384), calibrated=True)
    config = prepared(tmp_path, "folder", root=str(root), geometry="native")
    evaluation = Evaluation(config)
    sample = evaluation.frames[0]
    calib = json.loads((root / "calib.json").read_text())
    cloud = np.load(root / "lidar" / f"{sample['name']}.npy").astype(np.float32)
    T = np.array(calib["lidar"]["T_camera_lidar"], float)
    heat = stored(root / "thermal" / f"{sample['name']}.png")
    homography = Registration.from_homography(calib["thermal"]["homography"])
    rgb = sample["rgb"].permute(1, 2, 0).numpy()
    sensors = {
        "lidar": LidarPoints(cloud[:, :3], cloud[:, 3], T),
        "thermal": SensorImage(heat, homography),
    }
    node = evaluation.segmenter(Frame(rgb, sensors, sample["camera"]))
    assert node.present == ("lidar", "thermal")
    assert np.array_equal(evaluation.predict(sample)[0].numpy(), node.labels)

    # a degraded cloud is a raster, and another picture than the points
    worse = Evaluation(dataclasses.replace(config, corrupt=("lidarjitter",))).frames[0]
    assert list(worse["measured"]) == ["thermal"]
    assert isinstance(as_frame(worse, evaluation.spec).sensors["lidar"], SensorImage)


def test_degraded_frames_are_what_the_network_sees(folder: Path) -> None:
    names = ("motionblur", "lidarjitter")
    evaluation = Evaluation(prepared(folder, "deliver", corrupt=names))
    expected = Evaluation(prepared(folder, "deliver")).frames[0]
    for name in names:
        expected = corrupt(expected, name)
    sample = evaluation.frames[0]
    assert torch.equal(sample["rgb"], expected["rgb"])
    assert torch.equal(sample["sources"]["lidar"], expected["sources"]["lidar"])
    with pytest.raises(TrainingError, match="did you mean 'motionblur'"):
        Evaluation(prepared(folder, "deliver", corrupt=("motionblurr",)))


def test_frames_are_counted_in_their_subsets_and_shares_add_up(folder: Path) -> None:
    evaluation = Evaluation(prepared(folder, "deliver", split="train"))
    parts = [SubsetMatrices(25), SubsetMatrices(25)]
    for rank, part in enumerate(parts):
        evaluate_frames(evaluation.predict, evaluation.frames, part, range(rank, 4, 2))
    whole = evaluation.run()
    assert torch.equal(parts[0].matrix() + parts[1].matrix(), whole.matrix())
    scores = whole.scores([info.name for info in evaluation.spec.classes])
    assert scores["all"].frames == 4
    assert scores["difficulty=hard"].frames == 1
    assert {"weather=fog", "case=underexposure", "product=fog/underexposure"} <= set(scores)


def test_limit_and_default_kind(folder: Path) -> None:
    for kind in ("deliver", "fmb", "muses", "folder"):
        evaluation = Evaluation(prepared(folder, kind, split="val", limit=1))
        assert (evaluation.frames.kind, len(evaluation.frames)) == (kind, 1)


def test_bf16_is_close(folder: Path) -> None:
    plain, half = (Evaluation(prepared(folder, "fmb", precision=p)) for p in ("fp32", "bf16"))
    labels, other = (e.predict(e.frames[0])[0] for e in (plain, half))
    assert (labels == other).float().mean() > 0.9


def test_what_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    deliver, data = prepared(folder, "deliver"), prepared(folder, "folder")
    cases = {
        "class 0 is 'Building' in the weights, but 'sky' in the data set": dataclasses.replace(
            deliver, root=data.root, dataset="folder"
        ),
        "geometry: unknown 'nativ'; did you mean 'native'": dataclasses.replace(
            deliver, geometry="nativ"
        ),
        "drop: unknown 'lidr'; did you mean 'lidar'": dataclasses.replace(deliver, drop=("lidr",)),
        "limit: found 0": dataclasses.replace(deliver, limit=0),
    }
    make_folder(tmp_path, encodings={"lidar": "muses_png16", "thermal": "mono16"})
    cases["lidar: the weights read muses_raw, the data set has muses_png16"] = dataclasses.replace(
        data, root=str(tmp_path)
    )
    for message, config in cases.items():
        with pytest.raises((TrainingError, DataError), match=message):
            Evaluation(config)


def test_scores_of_a_training_run(folder: Path) -> None:
    given = prepared(folder, "deliver")
    config = TrainConfig(
        "deliver",
        ("lidar",),
        data=DataConfig(root=given.root),
        device=DeviceConfig(accelerator="cpu"),
    )
    scores = evaluate_weights(Path(given.weights), config, "test")
    names = [info.name for info in Evaluation(given).spec.classes]
    expected = Evaluation(given).run().scores(names)
    assert scores == {name: score.to_dict() for name, score in expected.items()}
    muses = prepared(folder, "muses")
    config = dataclasses.replace(
        config, dataset="muses", sensors=("lidar",), data=DataConfig(root=muses.root)
    )
    with pytest.raises(TrainingError, match="withheld"):
        evaluate_weights(Path(muses.weights), config, "test")
