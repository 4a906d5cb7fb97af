# SPDX-License-Identifier: Apache-2.0
"""Each data set is read as its published numbers were made, or as the node reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from trees import make_deliver, make_fmb, make_folder, make_muses

from mmsam_ros.data.frames import FrameSet
from mmsam_ros.data.open import open_frames
from mmsam_ros.inference import Segmenter
from mmsam_ros.inference.published import slide_windows
from mmsam_ros.model import build_model, randomise
from mmsam_ros.training.errors import TrainingError
from mmsam_ros.training.evaluate import EvalConfig, Evaluation, as_frame
from mmsam_ros.training.published import published_rows
from mmsam_ros.weights import Setting, find_setting, folder_setting, make_spec, save_model
from mmsam_ros.weights import setting_config as network_of

Size = tuple[int, int]


def weights(folder: Path, setting: str | Setting, size: Size, seed: int = 0) -> str:
    """A nano network with random weights for a setting."""
    config = network_of(setting, "nano", size)
    model = build_model(config)
    randomise(model, seed)
    path = folder / "w.safetensors"
    save_model(path, model, make_spec(setting, config, trained=True, data="random", recipe="none"))
    return str(path)


def folder_weights(folder: Path, frames: FrameSet, size: Size = (64, 96)) -> str:
    return weights(folder, folder_setting(frames.classes, frames.encodings, frames.limits), size)


def evaluation(path: str, root: Path, kind: str, **options: Any) -> Evaluation:
    options = {"split": "val", "device": "cpu"} | options
    return Evaluation(EvalConfig(path, str(root), dataset=kind, **options))


def normalised(raw: Tensor, setting: str, modality: str) -> Tensor:
    """(3, h, w) by the setting's constants."""
    given = make_spec(find_setting(setting), network_of(setting, "nano"), data="", recipe="").inputs
    scale, mean, std = (
        torch.tensor(v)[:, None, None]
        for v in (given[modality].scale, given[modality].mean, given[modality].std)
    )
    return (raw * scale - mean) / std


def agree(ours: Tensor, logits: Tensor) -> None:
    """Labels agree but for pixels where rounding decides between two classes."""
    best = logits.topk(2, dim=1).values[0]
    clear = best[0] - best[1] > 1e-3
    assert clear.float().mean() > 0.99
    assert torch.equal(ours[clear].long(), logits.argmax(dim=1)[0][clear])


@torch.no_grad()
def test_deliver_is_scored_at_the_networks_size(tmp_path: Path) -> None:
    root = make_deliver(tmp_path / "data", size=(80, 80))
    run = evaluation(weights(tmp_path, "deliver_rgb_lidar", (64, 64)), root, "deliver")
    sample = run.frames[0]
    inputs = {}
    for name, image in (("rgb", sample["rgb"]), ("lidar", sample["sources"]["lidar"])):
        resized = F.interpolate(image.as_subclass(Tensor).float()[None], (64, 64), mode="bilinear")
        inputs[name] = normalised(resized[0], "deliver_rgb_lidar", name)[None]
    logits = F.interpolate(run.segmenter.model(inputs), (64, 64), mode="bilinear")
    prediction, target = run.predict(sample)
    assert prediction.shape == (64, 64)
    agree(prediction, logits)
    truth = sample["label"].as_subclass(Tensor)
    rows = (torch.arange(64) * 80 // 64)[:, None]
    assert target is not None
    assert torch.equal(target, truth[rows, rows.T])


@torch.no_grad()
def test_fmb_is_padded_with_black_before_normalising(tmp_path: Path) -> None:
    root = make_fmb(tmp_path / "data", size=(64, 96))
    path = weights(tmp_path, "fmb_rgb_thermal", (96, 96))
    run = evaluation(path, root, "fmb", lists=str(root / "lists"))
    sample = run.frames[0]
    thermal = sample["sources"]["thermal"].as_subclass(Tensor).expand(3, -1, -1)
    raw = {"rgb": sample["rgb"].as_subclass(Tensor).float(), "thermal": thermal}
    inputs = {
        name: normalised(F.pad(image, (0, 0, 0, 32)), "fmb_rgb_thermal", name)[None]
        for name, image in raw.items()
    }
    assert bool((inputs["rgb"][0, :, 64:] != 0).all())
    logits = F.interpolate(run.segmenter.model(inputs), (96, 96), mode="bilinear")
    prediction, target = run.predict(sample)
    agree(prediction, logits[..., :64, :])
    assert target is not None
    assert torch.equal(target, sample["label"].as_subclass(Tensor))


@torch.no_grad()
def test_muses_is_read_in_windows(tmp_path: Path) -> None:
    root = make_muses(tmp_path / "data", size=(64, 160))
    run = evaluation(weights(tmp_path, "muses_rgb_lidar", (64, 96)), root, "muses")
    assert run.spec.geometry.stride == (40, 60)
    sample = run.frames[0]
    raw = {"rgb": sample["rgb"].as_subclass(Tensor).float(), **sample["sources"]}
    inputs = {
        n: normalised(x.as_subclass(Tensor), "muses_rgb_lidar", n)[None] for n, x in raw.items()
    }
    total, count = torch.zeros(1, 19, 64, 160), torch.zeros(64, 160)
    windows = [(0, 64, 0, 96), (0, 64, 60, 156), (0, 64, 64, 160)]
    assert slide_windows((64, 160), (64, 96), (40, 60)) == windows
    for top, bottom, left, right in windows:
        part = {n: x[..., top:bottom, left:right] for n, x in inputs.items()}
        logits = F.interpolate(run.segmenter.model(part), (64, 96), mode="bilinear")
        total[..., top:bottom, left:right] += logits
        count[top:bottom, left:right] += 1
    assert count.min() == 1
    agree(run.predict(sample)[0], total / count)


@pytest.mark.parametrize("geometry", ["published", "native"])
def test_a_folder_is_read_as_the_node_reads_it(tmp_path: Path, geometry: str) -> None:
    root = make_folder(tmp_path / "data", size=(48, 80))
    frames = open_frames("folder", root, "val", ("lidar", "thermal"))
    path = folder_weights(tmp_path, frames)
    run = evaluation(path, root, "folder", geometry=geometry)
    segmenter = Segmenter.load(path, "cpu")
    for i in range(len(frames)):
        expected = segmenter(as_frame(frames[i], segmenter.spec)).labels
        prediction, target = run.predict(run.frames[i])
        assert (prediction.numpy() == expected).all()
        assert target is not None
        assert target.shape == prediction.shape == (48, 80)


def labels_of(run: Evaluation) -> list[Tensor]:
    return [run.predict(run.frames[i])[0] for i in range(len(run.frames))]


@pytest.mark.parametrize("geometry", ["published", "native"])
def test_dropped_sensors_are_absent(tmp_path: Path, geometry: str) -> None:
    root = make_folder(tmp_path / "data")
    frames = open_frames("folder", root, "val", ("lidar", "thermal"))
    path = folder_weights(tmp_path, frames)
    dropped = evaluation(path, root, "folder", geometry=geometry, drop=("lidar", "thermal"))
    ours = labels_of(dropped)
    model, size = dropped.segmenter.model, frames[0]["rgb"].shape[-2:]
    for sample, labels in zip(frames, ours, strict=True):
        rgb = normalised(sample["rgb"].as_subclass(Tensor).float(), "deliver_rgb_lidar", "rgb")
        with torch.no_grad():
            agree(labels, F.interpolate(model({"rgb": rgb[None]}), size, mode="bilinear"))
    # the files of a dropped sensor are not even opened
    for file in (root / "lidar").iterdir():
        file.unlink()
    part = evaluation(path, root, "folder", geometry=geometry, drop=("lidar",))
    assert any(not torch.equal(a, b) for a, b in zip(labels_of(part), ours, strict=True))


def test_degraded_input_reaches_the_network(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data")
    frames = open_frames("folder", root, "val", ("lidar", "thermal"))
    path = folder_weights(tmp_path, frames)
    plain = evaluation(path, root, "folder")
    dark = evaluation(path, root, "folder", corrupt=("underexposure",))
    assert dark.frames[0]["rgb"].float().mean() < 0.2 * plain.frames[0]["rgb"].float().mean()
    assert any(
        not torch.equal(a, b) for a, b in zip(labels_of(plain), labels_of(dark), strict=True)
    )


def test_subsets_of_each_data_set(tmp_path: Path) -> None:
    root = make_deliver(tmp_path / "deliver", size=(64, 64), per_split={"test": 6})
    run = evaluation(
        weights(tmp_path, "deliver_rgb_event", (64, 64)), root, "deliver", split="test"
    )
    matrices = run.run()
    names = [info.name for info in run.spec.classes]
    scores = matrices.scores(names)
    keys = {key.split("=")[0] for key in scores}
    assert keys == {"all", "weather", "case", "product", "difficulty"}
    assert scores["difficulty=hard"].frames == 1
    assert scores["difficulty=hard"].miou == scores["case=underexposure"].miou
    assert scores["all"].frames == 6
    products = [key for key in scores if key.startswith("product=")]
    assert sum(int(matrices.matrix(key).sum()) for key in products) == int(matrices.matrix().sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": ("lidr",)}, "did you mean 'lidar'"),
        ({"geometry": "nativ"}, "did you mean 'native'"),
        ({"dataset": "muses"}, "class 0 is"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    root = make_folder(tmp_path / "data")
    make_muses(root)
    frames = open_frames("folder", root, "val", ("lidar", "thermal"))
    setting = folder_setting(frames.classes, {"lidar": "muses_raw"})
    path = weights(tmp_path, setting, (64, 96))
    kind = options.pop("dataset", "folder")
    with pytest.raises(TrainingError, match=message):
        evaluation(path, root, kind, **options)


def test_published_numbers_never_cross_splits_or_sensors() -> None:
    best = {
        (kind, split, sources): published_rows(kind, split, sources)[-1].miou["all"]
        for kind, split, sources in (
            ("deliver", "test", ("lidar",)), ("deliver", "val", ("lidar",)),
            ("deliver", "test", ("depth",)), ("muses", "test", ("event",)),
        )
    }  # fmt: skip
    assert list(best.values()) == [57.14, 61.89, 57.35, 79.92]
    fmb = {row.method: row for row in published_rows("fmb", "test", ("thermal",))}
    assert dict(fmb["MM SAM-adapter"].miou) == {
        "all": 66.10, "difficulty=easy": 68.45, "difficulty=hard": 62.59,
    }  # fmt: skip
    assert "test" in fmb["SHIFNet"].table  # chosen on the test set, and it says so
    assert not published_rows("fmb", "val", ("thermal",))
    assert not published_rows("folder", "test", ("lidar",))
