# SPDX-License-Identifier: Apache-2.0
"""Augmentation: every step against OpenCV, its chances, and that all images move together."""

from __future__ import annotations

from collections import Counter
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import Sample
from mmsam_ros.data.transforms import (
    Augment,
    AugmentConfig,
    PhotometricConfig,
    PhotometricDistortion,
    RandomCrop,
    RandomResize,
)

STILL = PhotometricConfig(probability=0.0)


def make_sample(height: int, width: int, seed: int = 0) -> Sample:
    draw = torch.Generator().manual_seed(seed)
    return {
        "rgb": tv_tensors.Image(
            torch.randint(0, 256, (3, height, width), generator=draw, dtype=torch.uint8)
        ),
        "planes": {
            "lidar": tv_tensors.Image(80 * torch.rand((3, height, width), generator=draw) - 5),
            "thermal": tv_tensors.Image(255 * torch.rand((1, height, width), generator=draw)),
        },
        "label": tv_tensors.Mask(
            torch.randint(0, 19, (height, width), generator=draw, dtype=torch.uint8)
        ),
    }


def hwc(image: torch.Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def augment(size: tuple[int, int], **changes: Any) -> Augment:
    """An augmentation that does nothing but what is asked for."""
    nothing: dict[str, Any] = {
        "base_size": size, "crop": (999, 999), "scale": (1.0, 1.0), "blur": 0.0, "flip": 0.0,
        "distortion": STILL,
    }  # fmt: skip
    return Augment(AugmentConfig(**(nothing | changes)))


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


def plain_step(image: NDArray[np.uint8], name: str, value: float) -> NDArray[np.uint8]:
    """One step as one would write it with OpenCV, in 8 bits."""
    if name == "brightness":
        return cv2.add(image, np.full(image.shape, value, np.float32), dtype=cv2.CV_8U)
    if name == "contrast":
        return cv2.convertScaleAbs(image, alpha=value)
    hue, saturation, level = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    if name == "saturation":
        saturation = cv2.convertScaleAbs(saturation, alpha=value)
    else:
        hue = ((hue.astype(int) + int(np.floor(value))) % 180).astype(np.uint8)
    return cv2.cvtColor(cv2.merge([hue, saturation, level]), cv2.COLOR_HSV2RGB)


STEPS = [
    ("brightness", 31.4), ("brightness", -31.4), ("contrast", 0.53), ("contrast", 1.47),
    ("saturation", 0.5), ("saturation", 1.5), ("hue", 17.3), ("hue", -18.0),
]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_photometric_steps_are_opencv_s(step: tuple[str, float]) -> None:
    rgb = make_sample(64, 64)["rgb"]
    out = PhotometricDistortion(PhotometricConfig()).transform(rgb, {"steps": [step]})
    assert out.dtype == torch.uint8
    assert np.abs(hwc(out).astype(int) - plain_step(hwc(rgb), *step)).max() <= 1
    assert not torch.equal(out, rgb)


def test_photometric_steps_follow_each_other() -> None:
    distortion = PhotometricDistortion(PhotometricConfig())
    rgb = make_sample(16, 16)["rgb"]
    one_by_one = rgb
    for step in STEPS[::2]:
        one_by_one = distortion.transform(one_by_one, {"steps": [step]})
    assert torch.equal(distortion.transform(rgb, {"steps": STEPS[::2]}), one_by_one)


def released(image: NDArray[Any], steps: list[tuple[str, float]]) -> NDArray[Any]:
    """The written rule of the published code, step by step: float32 until something casts."""
    for name, value in steps:
        if name == "brightness":
            image = np.clip(image.astype(np.float32) + np.float32(value), 0, 255).astype(np.uint8)
        elif name == "contrast":
            image = np.clip(image.astype(np.float32) * np.float32(value), 0, 255).astype(np.uint8)
        else:
            hue, saturation, level = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
            kind = image.dtype
            if name == "hue":
                hue = np.mod(np.trunc(hue).astype(int) + int(np.floor(value)), 180).astype(kind)
            else:
                scaled = np.clip(saturation.astype(np.float32) * np.float32(value), 0, 255)
                saturation = scaled.astype(np.uint8).astype(kind)
            image = cv2.cvtColor(cv2.merge([hue, saturation, level]), cv2.COLOR_HSV2RGB)
    return image


def test_published_distortion_is_the_written_rule() -> None:
    torch.manual_seed(0)
    distortion = PhotometricDistortion(PhotometricConfig(), "published")
    image = 255 * torch.rand((3, 24, 32))
    for _ in range(400):
        steps = distortion.make_params([])["steps"]
        out = hwc(distortion.transform(tv_tensors.Image(image), {"steps": steps}))
        expected = released(hwc(image), steps)
        assert out.dtype == expected.dtype
        assert np.array_equal(out, expected), steps
    drawn = [distortion.make_params([])["steps"] for _ in range(4000)]
    ruined = sum(steps[0][0] in ("saturation", "hue") for steps in drawn if steps)
    assert 0.25 < ruined / 4000 < 0.31  # 0.28125: neither brightness nor an early contrast


@pytest.mark.parametrize(
    ("pixel", "steps", "expected"),
    [
        # H 20, S 0.75, V 200: a saturation of 0.975 is cut to 0, of 1.05 to 1
        ((200, 100, 50), [("saturation", 1.3)], (200, 200, 200)),
        ((200, 100, 50), [("saturation", 1.4)], (200, 200 / 3, 0)),
        ((200, 100, 50), [("hue", 5.9)], (200, 112.5, 50)),
        # H 240 becomes (240 + 3) mod 180 = 63
        ((50, 50, 200), [("hue", 3.0)], (192.5, 200, 50)),
        # cut, not rounded
        ((100.6, 250, 3), [("brightness", 10.3)], (110, 255, 13)),
        ((100.6, 250, 3), [("brightness", -10.3)], (90, 239, 0)),
        ((100.6, 250, 3), [("contrast", 0.75)], (75, 187, 2)),
        # 8 bits from there on: H 10, S 191, V 200; hue 15 is 30 degrees
        ((200.4, 100.4, 50.4), [("brightness", 0.1), ("hue", 5.0)], (200, 125, 50)),
        # 191 * 0.6 = 114.6 is cut to 114, of which OpenCV makes 140.4 and 110.6
        ((200, 100, 50), [("contrast", 1.0), ("saturation", 0.6)], (200, 140, 111)),
        # late contrast comes after the damage
        ((200, 100, 50), [("saturation", 1.3), ("contrast", 1.1)], (220, 220, 220)),
        ((0.3, 0.6, 0.9), [], (0.3, 0.6, 0.9)),
    ],
)
def test_published_distortion_by_hand(
    pixel: tuple[float, ...], steps: list[tuple[str, float]], expected: tuple[float, ...]
) -> None:
    rgb = tv_tensors.Image(torch.tensor(pixel, dtype=torch.float32)[:, None, None].expand(3, 2, 2))
    out = PhotometricDistortion(PhotometricConfig(), "published").transform(rgb, {"steps": steps})
    assert out[:, 0, 0].tolist() == pytest.approx(expected, abs=0.01)


def test_published_distortion_begins_before_rounding() -> None:
    """And the intended one after it; both leave float32."""
    for kind, whole in (("published", False), ("intended", True)):
        out = augment((60, 80), scale=(0.7, 0.7), photometric=kind)(make_sample(60, 80))["rgb"]
        assert out.dtype == torch.float32
        assert bool((out.frac() == 0).all()) == whole


def test_photometric_chances_ranges_and_order() -> None:
    torch.manual_seed(0)
    distortion = PhotometricDistortion(PhotometricConfig())
    drawn = [distortion.make_params([])["steps"] for _ in range(2000)]
    ranges = {"brightness": (-32, 32), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5),
              "hue": (-18, 18)}  # fmt: skip
    for name, (low, high) in ranges.items():
        values = [value for steps in drawn for step, value in steps if step == name]
        assert 0.46 < len(values) / 2000 < 0.54, name
        assert low <= min(values) < low + 0.02 * (high - low), name
        assert high - 0.02 * (high - low) < max(values) <= high, name
    orders = Counter(tuple(name for name, _ in steps) for steps in drawn)
    early = orders["brightness", "contrast", "saturation", "hue"]
    late = orders["brightness", "saturation", "hue", "contrast"]
    assert 0.35 < early / (early + late) < 0.65
    assert early + late == sum(n for order, n in orders.items() if len(order) == 4)


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


@pytest.mark.parametrize(
    "values",
    [{"probability": 2.0}, {"brightness": -1.0}, {"contrast": (1.5, 0.5)},
     {"saturation": (-1.0, 1.0)}, {"hue": 91}],
)  # fmt: skip
def test_photometric_config_names_the_bad_field(values: dict[str, Any]) -> None:
    (field,) = values
    with pytest.raises(DataError, match=rf"^{field}: found .* expected"):
        PhotometricConfig(**values)


def test_gamma_bends_the_levels_of_every_image() -> None:
    image = tv_tensors.Image(torch.arange(256, dtype=torch.uint8).repeat(3, 2, 1))
    config = PhotometricConfig(probability=0.0, gamma=(0.5, 2.0))
    torch.manual_seed(0)
    exponents = []
    for _ in range(200):
        out = PhotometricDistortion(config)(image).double()
        assert (out[:, :, 0].max(), out[:, :, 255].min()) == (0, 255)
        exponents.append(np.log(out[0, 0, 128].item() / 255) / np.log(128 / 255))
    assert min(exponents) > 0.48
    assert max(exponents) < 2.05
    assert np.mean(np.array(exponents) < 1) == pytest.approx(0.5, abs=0.12)  # as often below 1


def test_frames_with_another_sensor_are_darkened() -> None:
    sample = make_sample(33, 47)
    torch.manual_seed(0)
    levels = sample["rgb"].double().mean()
    shares = []
    for _ in range(40):
        out = augment((33, 47), darken=1.0)(sample)
        assert torch.equal(out["planes"]["thermal"], sample["planes"]["thermal"])
        assert torch.equal(out["rgb"], out["rgb"].round().clamp(0, 255))
        shares.append(float(out["rgb"].double().mean() / levels))
    # of 1 to 6 stops: 0.73 to 0.15; noise that is clipped at 0 adds a little
    assert 0.14 < min(shares) < 0.3
    assert 0.6 < max(shares) < 0.75
    alone = augment((33, 47), darken=1.0)({**sample, "planes": {}})
    assert torch.equal(alone["rgb"], sample["rgb"].float())


def test_a_probability_of_zero_draws_nothing_more() -> None:
    """Published augmentation: the generator stands where it stood before."""
    torch.manual_seed(0)
    augment((33, 47), darken=0.0)(make_sample(33, 47))
    state = torch.get_rng_state()
    torch.manual_seed(0)
    augment((33, 47))(make_sample(33, 47))
    assert torch.equal(torch.get_rng_state(), state)


def test_intensity_is_changed_by_gamma_or_absent_and_all_else_stays() -> None:
    sample = make_sample(30, 40)
    before = sample["planes"]["lidar"].clone()
    for gamma in (0.5, 2.0):
        out = augment((30, 40), intensity_gamma=(gamma, gamma))(sample)
        lidar, expected = out["planes"]["lidar"], hwc(before)
        level = np.clip(expected[..., 1], 0, None) / 100
        np.testing.assert_allclose(lidar[1], 100 * level**gamma, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(lidar[[0, 2]], before[[0, 2]])
        np.testing.assert_array_equal(out["planes"]["thermal"], sample["planes"]["thermal"])
    absent = augment((30, 40), no_intensity=1.0)(sample)["planes"]["lidar"]
    assert not absent[1].any()
    np.testing.assert_array_equal(absent[[0, 2]], before[[0, 2]])
    np.testing.assert_array_equal(sample["planes"]["lidar"], before)
    torch.manual_seed(0)
    often = augment((30, 40), no_intensity=0.3)
    gone = sum(not often(sample)["planes"]["lidar"][1].any() for _ in range(200))
    assert 35 < gone < 90
    del sample["planes"]["lidar"]
    assert set(often(sample)["planes"]) == {"thermal"}


def test_a_range_of_gamma_is_ordered() -> None:
    with pytest.raises(DataError, match="intensity_gamma"):
        AugmentConfig(intensity_gamma=(2.0, 1.0))
