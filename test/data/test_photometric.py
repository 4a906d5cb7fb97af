# SPDX-License-Identifier: Apache-2.0
"""Photometric augmentation: the distortion against OpenCV and the published rule, gamma, darkening,
and the LiDAR's intensity."""

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
from mmsam_ros.data.transforms import (
    AugmentConfig,
    PhotometricConfig,
    PhotometricDistortion,
)


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
