# SPDX-License-Identifier: Apache-2.0
"""Augmentation: sizes, windows and blur against OpenCV, their chances; all images move together."""

from __future__ import annotations

from collections import Counter
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.augmentation import augment, hwc, make_sample
from torchvision import tv_tensors

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import Sample
from mmsam_ros.data.transforms import (
    Augment,
    AugmentConfig,
    PhotometricConfig,
    RandomCrop,
    RandomResize,
)


def test_blur_touches_rgb_alone() -> None:
    sample = make_sample(33, 47)
    out = augment((33, 47), blur=1.0)(sample)
    assert not torch.equal(out["rgb"], sample["rgb"].float())
    assert torch.equal(out["planes"]["lidar"], sample["planes"]["lidar"])
    assert torch.equal(out["label"], sample["label"])


def test_the_blur_is_a_quarter_a_half_and_a_quarter() -> None:
    sample = make_sample(5, 6)
    sample["rgb"] = tv_tensors.Image(torch.zeros(3, 5, 6, dtype=torch.uint8))
    sample["rgb"][:, 2, 3] = 160
    out = augment((5, 6), blur=1.0, photometric="published")(sample)["rgb"]
    expected = torch.zeros(5, 6)
    expected[1:4, 2:5] = torch.tensor([[10.0, 20, 10], [20, 40, 20], [10, 20, 10]])
    assert torch.equal(out.as_subclass(torch.Tensor), expected.expand(3, -1, -1))


@pytest.mark.parametrize("size", [(60, 80), (37, 53), (96, 41)])
@pytest.mark.parametrize("ratio", [0.5, 0.7, 1.0, 1.37, 2.0])
def test_blur_and_resize_are_opencv_s(size: tuple[int, int], ratio: float) -> None:
    sample = make_sample(*size)
    out = augment(size, scale=(ratio, ratio), blur=1.0)(sample)
    height, width = out["label"].shape

    def resized(image: NDArray[np.float32]) -> NDArray[np.float32]:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)

    rgb = resized(cv2.GaussianBlur(hwc(sample["rgb"]).astype(np.float32), (3, 3), 0))
    assert np.abs(hwc(out["rgb"]) - rgb).max() <= 0.51
    lidar = resized(hwc(sample["planes"]["lidar"]))
    assert np.abs(hwc(out["planes"]["lidar"]) - lidar).max() <= 1e-3
    label = sample["label"].numpy()
    nearest = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
    assert np.array_equal(out["label"].numpy(), nearest)


@pytest.mark.parametrize("length", [600, 801, 1080, 1920])
def test_labels_take_opencv_s_nearest_pixel_at_any_size(length: int) -> None:
    """Where a border falls between two pixels, single precision would take the other one."""
    label = (torch.arange(length) % 251).to(torch.uint8)[None].expand(2, -1)
    resize = RandomResize((1, 1), (1.0, 1.0))
    for new in range(length // 2, 2 * length, 7):
        out = resize.transform(tv_tensors.Mask(label), {"size": [2, new]})
        expected = cv2.resize(label.numpy(), (new, 2), interpolation=cv2.INTER_NEAREST)
        assert np.array_equal(out.numpy(), expected), new


@pytest.mark.parametrize(
    ("size", "base", "ratio", "expected"),
    [
        ((1042, 1042), (1042, 1042), 0.5, (521, 521)),
        ((600, 800), (600, 800), 2.0, (1200, 1600)),
        ((800, 600), (600, 800), 2.0, (1600, 1200)),  # long side to long side
        ((1080, 1920), (1042, 1042), 1.0, (586, 1042)),  # the long side decides
        ((100, 100), (99, 201), 0.507, (50, 50)),  # target (50, 101)
    ],
)
def test_resized_size(
    size: tuple[int, int], base: tuple[int, int], ratio: float, expected: tuple[int, int]
) -> None:
    label = tv_tensors.Mask(torch.zeros(size, dtype=torch.uint8))
    params = RandomResize(base, (ratio, ratio)).make_params([label])
    assert tuple(params["size"]) == expected


def test_resize_factor_is_uniform() -> None:
    torch.manual_seed(0)
    label = tv_tensors.Mask(torch.zeros((1000, 1000), dtype=torch.uint8))
    resize = RandomResize((1000, 1000), (0.5, 2.0))
    ratios = np.array([resize.make_params([label])["size"][0] / 1000 for _ in range(2000)])
    assert ratios.min() >= 0.5
    assert ratios.max() <= 2.0
    assert np.allclose(np.quantile(ratios, [0.25, 0.5, 0.75]), [0.875, 1.25, 1.625], atol=0.06)


@pytest.mark.parametrize("seed", range(8))
def test_everything_moves_together(seed: int) -> None:
    """The images hold their own coordinates; they must still agree after all steps."""
    torch.manual_seed(seed)
    rows = torch.arange(90.0)[:, None].expand(90, 120)
    columns = torch.arange(120.0)[None].expand(90, 120)
    grid = torch.stack([rows, columns, torch.zeros(90, 120)])
    sample: Sample = {
        "rgb": tv_tensors.Image(grid.to(torch.uint8)),
        "planes": {"lidar": tv_tensors.Image(grid), "thermal": tv_tensors.Image(columns[None])},
        "label": tv_tensors.Mask(rows.to(torch.uint8)),
    }
    out = augment((90, 120), scale=(0.5, 2.0), crop=(40, 50), flip=0.5)(sample)
    assert out["rgb"].shape == (3, 40, 50)
    assert (out["rgb"] - out["planes"]["lidar"]).abs().max() <= 0.51
    assert torch.allclose(out["planes"]["thermal"][0], out["planes"]["lidar"][1], atol=1e-3)
    # OpenCV's nearest pixel is the one under a pixel's corner, bilinear goes by the centres
    assert (out["label"] - out["planes"]["lidar"][0]).abs().max() < 1.5
    assert out["rgb"].dtype == torch.float32
    assert torch.equal(sample["rgb"].float(), grid), "the input was changed"


def test_flip_and_blur_happen_as_often_as_asked() -> None:
    torch.manual_seed(1)
    sample = make_sample(8, 9)
    plain = sample["rgb"].float()
    run = augment((8, 9), flip=0.5, blur=0.2)
    outs = [run(sample)["rgb"] for _ in range(600)]
    sharp = [out for out in outs if torch.equal(out, plain) or torch.equal(out.flip(-1), plain)]
    assert 0.75 < len(sharp) / 600 < 0.85
    assert 0.44 < sum(torch.equal(out.flip(-1), plain) for out in sharp) / len(sharp) < 0.56


def test_an_axis_that_is_too_short_is_taken_whole() -> None:
    torch.manual_seed(0)
    out = RandomCrop((20, 16), 0.75, False)(make_sample(12, 40))
    assert out["rgb"].shape == (3, 12, 16)
    assert out["label"].shape == (12, 16)


def test_windows_cover_the_whole_image() -> None:
    torch.manual_seed(0)
    label = make_sample(7, 9)["label"]
    crop = RandomCrop((5, 6), 1.0, False)
    drawn = Counter((p["top"], p["left"]) for p in (crop.make_params([label]) for _ in range(600)))
    assert set(drawn) == {(top, left) for top in range(3) for left in range(4)}
    assert min(drawn.values()) > 25


def shares(crop: RandomCrop, label: torch.Tensor, runs: int) -> list[list[float]]:
    """Per run the classes' shares of the labelled pixels in the window, largest first."""
    result = []
    for seed in range(runs):
        torch.manual_seed(seed)
        window = crop(tv_tensors.Mask(label))
        _, counts = np.unique(window[window != 255].numpy(), return_counts=True)
        result.append(sorted((float(c) / counts.sum() for c in counts), reverse=True))
    return result


def test_windows_of_mostly_one_class_are_redrawn() -> None:
    # left: one class beside unlabelled pixels; right: two classes in stripes
    label = torch.full((20, 80), 255, dtype=torch.uint8)
    label[::2] = 3
    label[1::2, 40:] = 4
    top = [share[0] for share in shares(RandomCrop((10, 10), 0.75, False), label, 200)]
    assert sum(share < 0.75 for share in top) >= 198
    single = [share[0] for share in shares(RandomCrop((10, 10), 1.0, False), label, 200)]
    assert sum(share >= 0.75 for share in single) > 10, "the rule above had nothing to do"


def test_two_classes_goes_on_for_longer() -> None:
    label = torch.zeros((10, 400), dtype=torch.uint8)
    label[:, 380:] = 1
    plain = shares(RandomCrop((10, 20), 0.75, False), label, 100)
    strict = shares(RandomCrop((10, 20), 0.75, True), label, 100)
    assert sum(len(s) > 1 for s in plain) < 50
    assert sum(len(s) > 1 for s in strict) > 85


@pytest.mark.parametrize("value", [255, 4])
@pytest.mark.parametrize(("two_classes", "draws"), [(False, 11), (True, 101)])
def test_a_hopeless_label_ends_with_the_last_redraw(
    value: int, two_classes: bool, draws: int
) -> None:
    label = tv_tensors.Mask(torch.full((500, 500), value, dtype=torch.uint8))
    crop = RandomCrop((10, 10), 0.75, two_classes)
    torch.manual_seed(3)
    crop.make_params([label])
    after = torch.rand(())
    torch.manual_seed(3)
    for _ in range(2 * draws):
        torch.randint(491, ())
    assert torch.equal(after, torch.rand(()))


# windows of 4 x 5 pixels; a class's share of the labelled ones decides
WINDOWS = {
    "mixed": [3] * 10 + [4] * 10,
    "one": [3] * 20,  # one class
    "none": [255] * 20,
    "void": [3] * 5 + [255] * 15,  # one class, two values
    "most": [3] * 15 + [4] * 5,  # two classes, one with a share of 0.75
}


@pytest.mark.parametrize(
    ("two_classes", "drawn", "chosen"),
    [
        (False, "mixed", 0),
        (False, "one void most none mixed one", 4),
        (False, "one " * 10 + "none", 10),  # the tenth redraw is kept unchecked
        (False, "most " * 10 + "mixed", 10),
        (True, "one most mixed", 2),
        (True, "one " * 9 + "void", 9),  # 255 counts as a value
        (True, "one " * 9 + "most", 9),
        (True, "one void most " + "one " * 7 + "mixed", 10),  # the last one of a round is asked
        (True, "none " * 10 + "one " * 9 + "void", 19),
        (True, "one " * 100, 99),  # the bound: the last one that was looked at
    ],
)
def test_the_window_of_the_written_rule(two_classes: bool, drawn: str, chosen: int) -> None:
    kinds = drawn.split()
    values = np.array([WINDOWS[kind] for kind in kinds] + [WINDOWS["none"]], np.uint8)
    label = np.concatenate(list(values.reshape(-1, 4, 5)), axis=1)
    windows = iter(range(len(values)))

    class Scripted(RandomCrop):
        def _draw(self, size: tuple[int, int]) -> dict[str, int]:
            return {"top": 0, "left": 5 * next(windows), "height": 4, "width": 5}

    crop = Scripted((4, 5), 0.75, two_classes)
    found = crop.make_params([tv_tensors.Mask(torch.from_numpy(label))])
    assert found["left"] == 5 * chosen


def test_a_sample_without_label_is_cropped_once() -> None:
    sample = make_sample(30, 30)
    del sample["label"]
    assert RandomCrop((10, 12), 0.75, True)(sample)["rgb"].shape == (3, 10, 12)


def test_the_seed_repeats_everything() -> None:
    run = Augment(AugmentConfig(base_size=(60, 80), crop=(40, 40)))
    outs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        outs.append([run(make_sample(60, 80)) for _ in range(3)])
    for first, again in zip(outs[0], outs[1], strict=True):
        assert torch.equal(first["rgb"], again["rgb"])
        assert torch.equal(first["planes"]["lidar"], again["planes"]["lidar"])
        assert torch.equal(first["label"], again["label"])
    assert not torch.equal(outs[0][0]["rgb"], outs[2][0]["rgb"])
    whole = torch.stack([o["rgb"].frac().abs().max() for o in outs[0]])
    assert not whole.any(), "grey levels are whole"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"base_size": (0, 10)}, "base_size"),
        ({"crop": (10, -1)}, "crop"),
        ({"scale": (2.0, 0.5)}, "scale"),
        ({"scale": (0.0, 0.5)}, "scale"),
        ({"blur": 1.5}, "blur"),
        ({"flip": float("nan")}, "flip"),
        ({"max_class_share": -0.1}, "max_class_share"),
        # the released code has no gamma
        (
            {"photometric": "published", "distortion": PhotometricConfig(gamma=(0.5, 2.0))},
            "photometric",
        ),
    ],
)
def test_augment_config_names_the_bad_field(values: dict[str, Any], field: str) -> None:
    with pytest.raises(DataError, match=rf"^{field}: found .* expected"):
        AugmentConfig(**values)
