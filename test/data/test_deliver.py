# SPDX-License-Identifier: Apache-2.0
"""DeLiVER: both layouts give the same samples, and every trap of the files is known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.trees import DELIVER_CASES, PICTURED, make_deliver, sample, samples, stored
from torchvision import tv_tensors

from mmsam_ros.data.check import check_dataset
from mmsam_ros.data.corrupt import corrupt
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import FrameSet
from mmsam_ros.data.open import open_frames

SENSORS = ("depth", "event", "lidar")
COUNTS = {"train": 6, "val": 2, "test": 2}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # the official code looks for weather words anywhere in the path
    return make_deliver(tmp_path_factory.mktemp("rain_sun") / "foggy_night", per_split=COUNTS)


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_deliver(tmp_path_factory.mktemp("flat"), "flat", per_split=COUNTS)


def image_of(frames: FrameSet, case: str) -> Path:
    return next(r.image for r in frames.records if r.subsets["case"] == case)


def beside(image: Path, top: str, kind: str) -> Path:
    """The raw file of another kind."""
    return Path(str(image).replace("/img/", f"/{top}/").replace("_rgb_", f"_{kind}_"))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_both_layouts_give_the_same_samples(raw: Path, flat: Path, split: str) -> None:
    one, two = (open_frames("deliver", root, split, SENSORS) for root in (raw, flat))
    assert len(one) == len(two) == COUNTS[split]
    for a, b, r, f in zip(samples(one), samples(two), one.records, two.records, strict=True):
        assert (r.name, r.subsets) == (f.name, f.subsets)
        assert torch.equal(a["rgb"], b["rgb"])
        assert torch.equal(a["label"], b["label"])
        assert list(a["planes"]) == list(b["planes"]) == list(SENSORS)
        for sensor in SENSORS:
            assert torch.equal(a["planes"][sensor], b["planes"][sensor]), sensor


def test_names_and_groups_come_from_tokens(raw: Path) -> None:
    records = open_frames("deliver", raw, "train", ()).records
    groups = {record.name: record.subsets for record in records}
    assert groups["cloud_MAP_1_point100_000000"] == {
        "weather": "cloud", "case": "ordinary", "product": "cloud/ordinary", "difficulty": "easy",
    }  # fmt: skip
    assert groups["fog_MAP_1_point101_underexposure_0000001"] == {
        "weather": "fog", "case": "underexposure", "product": "fog/underexposure",
        "difficulty": "hard",
    }  # fmt: skip
    assert {g["case"] for g in groups.values()} == {"ordinary", *filter(None, DELIVER_CASES)}


def test_a_sample_s_types(raw: Path) -> None:
    frames = open_frames("deliver", raw, "val", SENSORS)
    found = sample(frames)
    assert (found["rgb"].dtype, found["rgb"].shape) == (torch.uint8, (3, 64, 64))
    for planes in found["planes"].values():
        assert (planes.dtype, planes.shape) == (torch.float32, (3, 64, 64))
        assert isinstance(planes, tv_tensors.Image)  # or augmentation would leave it alone
    assert (found["label"].dtype, found["label"].shape) == (torch.uint8, (64, 64))
    assert isinstance(found["rgb"], tv_tensors.Image)
    assert isinstance(found["label"], tv_tensors.Mask)
    assert set(found["label"].unique().tolist()) == {*PICTURED["deliver"], 255}
    assert {s: modality.encoding for s, modality in frames.modalities.items()} == dict.fromkeys(
        SENSORS, "png8"
    )


def test_channels_are_in_the_file_s_rgb_order(raw: Path) -> None:
    found = sample(open_frames("deliver", raw, "val", ("lidar",)))
    sky = found["label"] == PICTURED["deliver"][0]
    assert found["planes"]["lidar"][:, sky].unique(dim=1).flatten().tolist() == [0, 200, 60]
    assert found["rgb"][:, sky].float().mean(1).tolist() == pytest.approx([70, 130, 180], abs=3)


def test_depth_is_hha_and_coloured_lidar_is_left_alone(raw: Path) -> None:
    record = open_frames("deliver", raw, "val", ("depth", "lidar")).records[0]
    assert record.sensors["depth"].relative_to(raw).parts[0] == "hha"
    assert record.sensors["lidar"].name.endswith("_lidar_front.png")


def test_low_resolution_events_are_enlarged_by_the_nearest(raw: Path) -> None:
    frames = open_frames("deliver", raw, "train", ("event",))
    index = next(i for i, r in enumerate(frames.records) if "eventlowres" in r.name)
    small = stored(frames.records[index].sensors["event"])
    assert small.shape == (32, 32)
    expected = torch.from_numpy(small.repeat(2, 0).repeat(2, 1)).float().expand(3, -1, -1)
    assert torch.equal(sample(frames, index)["planes"]["event"], expected)
    again = frames.sample(corrupt(frames[index], "eventlowres", frames))
    assert torch.equal(again["planes"]["event"], expected), "it was made coarse twice"


def test_labels_are_the_red_channel_less_one(tmp_path: Path) -> None:
    root = make_deliver(tmp_path, per_split={"val": 1}, cases=("",))
    frames = open_frames("deliver", root, "val", ())
    path = beside(frames.records[0].image, "semantic", "semantic")
    bgra = np.full((64, 64, 4), 7, np.uint8)
    bgra[..., 2] = 1
    bgra[0, :4, 2] = (0, 1, 25, 255)
    cv2.imwrite(str(path), bgra)
    assert sample(frames)["label"][0, :5].tolist() == [255, 0, 24, 255, 0]
    bgra[5, 5, 2] = 26
    cv2.imwrite(str(path), bgra)
    with pytest.raises(DataError, match=rf"{path.name}: label values 26, expected 0..25 and 255"):
        frames[0]


def test_flat_labels_are_training_ids(flat: Path, tmp_path: Path) -> None:
    root = make_deliver(tmp_path, "flat", per_split={"val": 1})
    frames = open_frames("deliver", root, "val", ())
    (path,) = root.glob("samples/annotations/validation/*.png")
    label = np.zeros((64, 64), np.uint8)
    label[0, :3] = (0, 24, 255)
    cv2.imwrite(str(path), label)
    assert sample(frames)["label"][0, :3].tolist() == [0, 24, 255]
    cv2.imwrite(str(path), label + 1)  # a raw label among flattened images
    with pytest.raises(DataError, match=r"label values 25, expected 0..24 and 255"):
        frames[0]


def test_a_missing_partner_is_named(tmp_path: Path) -> None:
    root = make_deliver(tmp_path, per_split={"val": 2})
    image = image_of(open_frames("deliver", root, "val", SENSORS), "ordinary")
    gone = beside(image, "hha", "depth")
    gone.unlink()
    with pytest.raises(DataError, match=r"hha/cloud/val/\w+/000000_depth_front.png: is missing"):
        open_frames("deliver", root, "val", SENSORS)
    assert len(open_frames("deliver", root, "val", ("lidar",))) == 2


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("img/foggy/val/MAP_1_point1/000001_rgb_front.png", "unknown 'foggy'; did you mean 'fog'"),
        ("img/fog/val/MAP_1_point1/00000x_rgb_front.png", "<weather>_<sequence>_<digits>"),
    ],
)
def test_unknown_words_are_errors(tmp_path: Path, place: str, message: str) -> None:
    root = make_deliver(tmp_path, per_split={"val": 1})
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).touch()
    with pytest.raises(DataError, match=message) as caught:
        open_frames("deliver", root, "val", ())
    assert place in str(caught.value)


def test_an_unknown_case_is_ordinary_as_published_and_noted(tmp_path: Path) -> None:
    root = make_deliver(tmp_path, per_split={"val": 2}, cases=("", "darkness"))
    frames = open_frames("deliver", root, "val", ())
    assert {record.subsets["case"] for record in frames.records} == {"ordinary"}
    notes = check_dataset("deliver", root, ()).notes
    (odd,) = [record.name for record in frames.records if "darkness" in record.name]
    assert f"1 frames of unknown cases count as ordinary, such as {odd}" in notes


@pytest.mark.parametrize("layout", ["raw", "flat"])
def test_a_missing_image_is_named_by_what_is_left_of_its_frame(tmp_path: Path, layout: str) -> None:
    root = make_deliver(tmp_path, layout, per_split={"val": 2})
    gone = min(root.rglob("*_rgb_front.png"))
    gone.unlink()
    with pytest.raises(DataError, match=f"{gone.name}: is missing"):
        open_frames("deliver", root, "val", ("lidar",))
    faults = check_dataset("deliver", root, ("lidar",)).faults
    assert f"{gone}: is missing" in faults


def test_broken_files_and_other_sizes_are_named_at_read(tmp_path: Path) -> None:
    root = make_deliver(tmp_path, per_split={"val": 1}, cases=("",))
    frames = open_frames("deliver", root, "val", ("event", "lidar"))
    image = frames.records[0].image
    lidar, event = beside(image, "lidar", "lidar"), beside(image, "event", "event")
    whole = lidar.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no picture"):
        lidar.write_bytes(content)
        with pytest.raises(DataError, match=f"{lidar.name}: is broken"):
            frames[0]
    lidar.write_bytes(whole)
    cv2.imwrite(str(event), np.zeros((32, 32), np.uint8))  # small, but not of the case eventlowres
    with pytest.raises(DataError, match=rf"{event.name}: is 32x32, but .*{image.name} is 64x64"):
        frames[0]


@pytest.mark.parametrize(
    ("dataset", "split", "sensors", "message"),
    [
        ("delivr", "val", (), "dataset: unknown 'delivr'; did you mean 'deliver'?"),
        ("deliver", "valid", (), "split: unknown 'valid'; did you mean 'val'?"),
        ("deliver", "val", ("thermal",), "sensors of deliver: unknown 'thermal'; known: depth"),
        ("deliver", "test", (), "no frames of the split 'test'"),
    ],
)
def test_what_cannot_be_opened(
    tmp_path: Path, dataset: str, split: str, sensors: tuple[str, ...], message: str
) -> None:
    root = make_deliver(tmp_path, per_split={"val": 1})
    with pytest.raises(DataError, match=message):
        open_frames(dataset, root, split, sensors)


def test_another_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither img/ nor samples/images/"):
        open_frames("deliver", tmp_path, "val", ())
    with pytest.raises(DataError, match="nowhere: is not a folder"):
        open_frames("deliver", tmp_path / "nowhere", "val", ())
