# SPDX-License-Identifier: Apache-2.0
"""Geometries of the data sets against plain computations, the node's way, and missing sensors."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluations import prepared
from numpy.typing import NDArray
from support.trees import make_folder, make_muses, stored
from torch import Tensor

from mmsam_ros.data.corrupt import corrupt
from mmsam_ros.data.errors import DataError
from mmsam_ros.inference.geometry import Plan
from mmsam_ros.sensors import ChannelStatistics, Frame, LidarPoints, Registration, SensorImage
from mmsam_ros.training.config import DataConfig, DeviceConfig, TrainConfig, TrainingError
from mmsam_ros.training.evaluate import (
    EvalConfig,
    Evaluation,
    Predictor,
    evaluate_frames,
    evaluate_weights,
)

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
SIZE = (128, 192)  # of nano's input


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


def rgb_of(raw: Tensor) -> Tensor:
    return (raw / 255 - MEAN[:, None, None]) / STD[:, None, None]


def up(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)


def logits_of(evaluation: Evaluation, **inputs: Tensor) -> Tensor:
    """Logits at the input's size, of images (3, h, w)."""
    batch = {name: image[None] for name, image in inputs.items()}
    return up(evaluation.segmenter.engine(batch), tuple(inputs["rgb"].shape[-2:]))


def images(data: NDArray[Any] | SensorImage | LidarPoints) -> Tensor:
    """A picture as float (1, C, h, w)."""
    assert not isinstance(data, LidarPoints)
    array = data.data if isinstance(data, SensorImage) else data
    planes = array if array.ndim == 3 else array[..., None]
    return torch.from_numpy(planes.astype(np.float32)).permute(2, 0, 1)[None]


def assert_same(prediction: Tensor, logits: Tensor) -> None:
    """All but ties that rounding decides."""
    assert prediction.shape == logits.shape[-2:]
    assert len(prediction.unique()) > 1
    assert (prediction == logits.argmax(1)[0]).float().mean() > 0.999


def test_deliver_is_resized_with_its_labels(folder: Path) -> None:
    evaluation = Evaluation(prepared(folder, "deliver"))
    item = evaluation.frames[0]
    raw, lidar = images(item.frame.rgb), images(item.frame.sensors["lidar"])
    logits = logits_of(evaluation, rgb=rgb_of(up(raw, SIZE)[0]), lidar=up(lidar, SIZE)[0] / 255)
    prediction, target = evaluation.predict(item)
    assert_same(prediction, logits)
    nearest = cv2.resize(item.label, SIZE[::-1], interpolation=cv2.INTER_NEAREST)
    assert target is not None
    assert np.array_equal(target.numpy(), nearest)


def test_fmb_is_padded_before_it_is_normalised(folder: Path) -> None:
    evaluation = Evaluation(prepared(folder, "fmb"))
    item = evaluation.frames[0]
    assert item.frame.size == (60, 80)
    fitted = (128, 171)  # 80 * 128 / 60 = 170.67
    pad = (0, SIZE[1] - fitted[1], 0, 0)
    raw = F.pad(up(images(item.frame.rgb), fitted)[0], pad)
    thermal = F.pad(up(images(item.frame.sensors["thermal"]), fitted)[0], pad) / 255
    logits = logits_of(evaluation, rgb=rgb_of(raw), thermal=thermal.expand(3, -1, -1))
    prediction, target = evaluation.predict(item)
    assert_same(prediction, up(logits[..., : fitted[1]], (60, 80)))
    assert np.array_equal(target, item.label)


def test_fmb_padding_is_not_zero_for_the_network(folder: Path) -> None:
    evaluation = Evaluation(prepared(folder, "fmb"))
    seen: dict[str, Tensor] = {}

    class Zeros:
        device = torch.device("cpu")

        def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
            seen.update(inputs)
            return torch.zeros(1, 14, 32, 48)

    Predictor.of(Zeros(), evaluation.spec, "fmb")(evaluation.frames[0])
    torch.testing.assert_close(seen["rgb"][0, :, :, 180], (-MEAN / STD)[:, None].expand(3, 128))
    assert not seen["thermal"][0, :, :, 180].any()


def test_muses_is_read_in_windows(folder: Path) -> None:
    """A frame of 136x200 under windows of 128x192 with a step of 80x120: the last ends at the
    border.
    """
    evaluation = Evaluation(prepared(folder, "muses"))
    assert evaluation.predict.geometry.stride == (80, 120)
    rng = np.random.default_rng(0)
    frame = Frame(
        rng.integers(0, 256, (136, 200, 3), np.uint8),
        {"lidar": SensorImage(rng.uniform(0, 30, (136, 200, 3)).astype(np.float32))},
    )
    label = np.zeros((136, 200), np.uint8)
    item = dataclasses.replace(evaluation.frames[0], frame=frame, label=label)
    given = evaluation.spec.inputs["lidar"]
    mean, std = (torch.tensor(values)[:, None, None] for values in (given.mean, given.std))
    rgb = rgb_of(images(frame.rgb)[0])
    lidar = (images(frame.sensors["lidar"])[0] - mean) / std
    total, count = torch.zeros(1, 19, 136, 200), torch.zeros(136, 200)
    for top in (0, 8):
        for left in (0, 8):
            window = (..., slice(top, top + 128), slice(left, left + 192))
            total[window] += logits_of(evaluation, rgb=rgb[window], lidar=lidar[window])
            count[window[1:]] += 1
    prediction, target = evaluation.predict(item)
    assert_same(prediction, total / count)
    assert target is not None
    assert target.shape == (136, 200)


@pytest.mark.parametrize("kind", ["deliver", "fmb", "muses", "folder"])
def test_native_is_what_the_node_publishes(folder: Path, kind: str) -> None:
    evaluation = Evaluation(prepared(folder, kind, split="val", geometry="native"))
    item = evaluation.frames[1]
    assert item.frame.sensors
    prediction, target = evaluation.predict(item)
    assert np.array_equal(prediction, evaluation.segmenter(item.frame).labels)
    assert np.array_equal(target, item.label)


def test_a_folder_is_read_in_one_way(folder: Path) -> None:
    published, native = (
        Evaluation(prepared(folder, "folder", geometry=g)).run() for g in ("published", "native")
    )
    assert published.matrix().sum() > 0
    assert torch.equal(published.matrix(), native.matrix())


def test_a_dropped_sensor_is_absent_to_the_network(folder: Path) -> None:
    evaluation = Evaluation(prepared(folder, "deliver", drop=("lidar",)))
    item = evaluation.frames[0]
    assert not item.frame.sensors
    prediction, _ = evaluation.predict(item)
    rgb = rgb_of(up(images(item.frame.rgb), SIZE)[0])
    assert_same(prediction, logits_of(evaluation, rgb=rgb))
    full, _ = (whole := Evaluation(prepared(folder, "deliver"))).predict(whole.frames[0])
    assert (prediction != full).float().mean() > 0.001
    native = Evaluation(prepared(folder, "deliver", drop=("lidar",), geometry="native"))
    alone = native.segmenter(Frame(item.frame.rgb, {})).labels
    assert np.array_equal(native.predict(item)[0], alone)


def test_one_of_two_sensors_may_be_dropped(folder: Path) -> None:
    evaluation = Evaluation(prepared(folder, "folder", drop=("thermal",)))
    assert list(evaluation.frames[0].frame.sensors) == ["lidar"]
    assert evaluation.run().matrix().sum() > 0
    both = Evaluation(prepared(folder, "folder", drop=("thermal", "lidar")))
    assert list(both.frames[0].frame.sensors) == []


def test_what_was_measured_goes_the_nodes_way(tmp_path: Path) -> None:
    """Points fall on the network's raster, which is not the image's; thermal is registered once."""
    root = make_folder(tmp_path / "large", size=(256, 384), calibrated=True)
    config = prepared(tmp_path, "folder", root=str(root), geometry="native")
    evaluation = Evaluation(config)
    item = evaluation.frames[0]
    name, calib = item.record.name, json.loads((root / "calib.json").read_text())
    cloud = np.load(root / "lidar" / f"{name}.npy").astype(np.float32)
    T = np.array(calib["lidar"]["T_camera_lidar"], float)
    heat = stored(root / "thermal" / f"{name}.png")
    homography = Registration.from_homography(calib["thermal"]["homography"])
    sensors = {
        "lidar": LidarPoints(cloud[:, :3], cloud[:, 3], T),
        "thermal": SensorImage(heat, homography),
    }
    node = evaluation.segmenter(Frame(item.frame.rgb, sensors, item.frame.camera))
    assert node.present == ("lidar", "thermal")
    assert np.array_equal(evaluation.predict(item)[0], node.labels)

    # a degraded cloud is a raster, and another picture than the points
    worse = Evaluation(dataclasses.replace(config, corrupt=("lidarjitter",))).frames[0].frame
    assert isinstance(worse.sensors["lidar"], SensorImage)
    assert worse.sensors["thermal"].registration.homography is not None
    assert (evaluation.segmenter(worse).labels != node.labels).mean() > 0.001


def test_each_sensor_is_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation reads every file of a frame a single time."""
    evaluation = Evaluation(prepared(folder, "folder", geometry="native"))
    read: Counter[str] = Counter()
    right = Path.read_bytes

    def counted(path: Path) -> bytes:
        read[str(path)] += 1
        return right(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    evaluation.run()
    record = evaluation.frames.records[0]
    assert read[str(record.image)] == read[str(record.sensors["thermal"])] == 1
    assert set(read.values()) == {1}


def test_data_that_does_not_fit_is_an_error_with_its_file(folder: Path, tmp_path: Path) -> None:
    config = prepared(folder, "muses", split="val")
    root = make_muses(tmp_path, per_split={"val": 1, "train": 1, "test": 1})
    (path,) = root.glob("projected_to_rgb/lidar/val/**/*.npz")
    raster = dict(np.load(path))["arr_0"]
    raster[3, 4, 1] = np.nan
    np.savez_compressed(path, raster)
    for geometry in ("published", "native"):
        evaluation = Evaluation(dataclasses.replace(config, root=str(root), geometry=geometry))
        with pytest.raises(DataError, match=rf"{path.name}: .*NaN"):
            evaluation.run()


def test_labels_that_are_withheld_give_no_score(folder: Path, tmp_path: Path) -> None:
    config = prepared(folder, "folder", split="val")
    root = make_folder(tmp_path, ("lidar", "thermal"))
    for path in (root / "labels").glob("test_*"):
        cv2.imwrite(str(path), np.full_like(cv2.imread(str(path), 0), 255))
    with pytest.raises(DataError, match="no pixel of the split 'test' has a label"):
        Evaluation(dataclasses.replace(config, root=str(root), split="test"))


def test_degraded_frames_are_what_the_network_sees(folder: Path) -> None:
    names = ("motionblur", "lidarjitter")
    evaluation = Evaluation(prepared(folder, "deliver", corrupt=names))
    plain = Evaluation(prepared(folder, "deliver"))
    expected = plain.frames[0]
    for name in names:
        expected = corrupt(expected, name, plain.frames)
    frame = evaluation.frames[0].frame
    assert np.array_equal(frame.rgb, expected.frame.rgb)
    assert np.array_equal(frame.sensors["lidar"].data, expected.frame.sensors["lidar"].data)
    with pytest.raises(TrainingError, match="did you mean 'motionblur'"):
        Evaluation(prepared(folder, "deliver", corrupt=("motionblurr",)))


def test_frames_are_counted_in_their_subsets_and_shares_add_up(folder: Path) -> None:
    evaluation = Evaluation(prepared(folder, "deliver", split="train"))
    parts = [
        evaluate_frames(evaluation.predict, evaluation.frames, range(rank, 4, 2)) for rank in (0, 1)
    ]
    whole = evaluation.run()
    assert torch.equal(parts[0].matrix() + parts[1].matrix(), whole.matrix())
    scores = whole.scores([info.name for info in evaluation.spec.classes])
    assert scores["all"].frames == 4
    assert scores["difficulty=hard"].frames == 1
    assert {"weather=fog", "case=underexposure", "product=fog/underexposure"} <= set(scores)


def test_limit_and_default_dataset(folder: Path) -> None:
    for kind in ("deliver", "fmb", "muses", "folder"):
        evaluation = Evaluation(prepared(folder, kind, split="val", limit=1))
        assert (evaluation.frames.dataset, len(evaluation.frames)) == (kind, 1)


def test_bf16_is_close(folder: Path) -> None:
    plain, half = (Evaluation(prepared(folder, "fmb", precision=p)) for p in ("fp32", "bf16"))
    labels, other = (e.predict(e.frames[0])[0] for e in (plain, half))
    assert (labels == other).float().mean() > 0.9


def test_what_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    deliver, data = prepared(folder, "deliver"), prepared(folder, "folder")
    make_folder(tmp_path, encodings={"lidar": "muses_png16", "thermal": "mono16"})
    make_folder(tmp_path / "thermal", ("thermal",))
    cases: list[tuple[EvalConfig, dict[str, Any], str]] = [
        (deliver, {"root": data.root, "dataset": "folder"},
         "folder test .*class 0 'sky' means 'sky', which the network does not have"),
        (deliver, {"geometry": "nativ"}, "geometry: found 'nativ'; did you mean 'native'"),
        (deliver, {"drop": ("lidr",)}, "drop: unknown 'lidr'; did you mean 'lidar'"),
        (deliver, {"dataset": "delivr"}, "dataset: unknown 'delivr'; did you mean 'deliver'"),
        (deliver, {"limit": 0}, "limit: found 0"),
        (data, {"root": str(tmp_path)},
         "lidar: the weights read muses_raw, the data set has muses_png16"),
        (data, {"root": str(tmp_path / "thermal")},
         "thermal: the weights read lidar, the data set has thermal; give --drop lidar"),
    ]  # fmt: skip
    for config, changes, message in cases:
        with pytest.raises((TrainingError, DataError), match=message):
            Evaluation(dataclasses.replace(config, **changes))


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
    assert scores == {name: vars(score) for name, score in expected.items()}
    muses = prepared(folder, "muses")
    config = dataclasses.replace(config, dataset="muses", data=DataConfig(root=muses.root))
    with pytest.raises(TrainingError, match="withheld"):
        evaluate_weights(Path(muses.weights), config, "test")


def test_data_that_the_weights_do_not_know_is_named(folder: Path) -> None:
    evaluation = Evaluation(prepared(folder, "folder"))
    assert evaluation.doubts() == [], "weights without statistics"
    known = {"lidar": {"intensity": ChannelStatistics(5e3, 6e4, 2e4, 0.9)}}
    evaluation.spec = dataclasses.replace(evaluation.spec, seen=known)
    (doubt,) = evaluation.doubts()
    assert doubt.startswith("lidar intensity is ")
    assert "5e+03 to 6e+04 in training" in doubt


def test_limits_that_clip_the_data_are_an_error(folder: Path) -> None:
    """Else the thermal images would be left out without a word."""
    evaluation = Evaluation(prepared(folder, "folder"))
    modalities = dict(evaluation.frames.modalities)
    modalities["thermal"] = dataclasses.replace(modalities["thermal"], limits=(1.0, 2.0))
    evaluation.frames = dataclasses.replace(evaluation.frames, modalities=modalities)
    with pytest.raises(TrainingError, match=r"limits 1 and 2 "):
        evaluation.doubts()


def test_limits_of_thermal_images_are_those_of_the_data_set(folder: Path, tmp_path: Path) -> None:
    """Another camera, whose counts are 3000 lower, and a meta.json that says so."""
    config = prepared(folder, "folder")
    shutil.copytree(config.root, tmp_path / "other")
    for path in (tmp_path / "other/thermal").glob("*.png"):
        cv2.imwrite(str(path), stored(path) - np.uint16(3000))
    path = tmp_path / "other/meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"limits": [23000, 28500]}))
    ours = Evaluation(config)
    other = Evaluation(dataclasses.replace(config, root=str(tmp_path / "other")))
    assert ours.doubts() == other.doubts()
    for mine, theirs in zip(ours.frames, other.frames, strict=True):
        assert torch.equal(ours.predict(mine)[0], other.predict(theirs)[0])
        plan = Plan.of(ours.predict.geometry, mine.frame.size)
        a, b = (x.predict._prepared(y, plan) for x, y in ((ours, mine), (other, theirs)))
        torch.testing.assert_close(a.inputs["thermal"], b.inputs["thermal"])
