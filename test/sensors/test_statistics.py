# SPDX-License-Identifier: Apache-2.0
"""Statistics of planes, against numpy on all pixels."""

from __future__ import annotations

import numpy as np
import pytest

from mmsam_ros.sensors import (
    ChannelStatistics,
    SensorError,
    channel_statistics,
    percentiles,
    sample_planes,
)

FIELDS = ("range", "intensity", "height")
RNG = np.random.default_rng(7)


def ramp(height: int, width: int) -> np.ndarray:
    """Range falls and height grows down the image, intensity is noise; every 4th row is empty."""
    rows = np.repeat(np.arange(height, dtype=np.float32)[:, None], width, axis=1)
    noise = RNG.uniform(10, 20, (height, width)).astype(np.float32)
    planes = np.stack([height - rows, noise, rows - height / 2 + 0.25], axis=-1)
    planes[::4] = 0
    return planes


@pytest.mark.parametrize("size", [(48, 64), (192, 256)])
def test_all_pixels_of_a_small_frame_count(size: tuple[int, int]) -> None:
    planes = ramp(*size)
    found = channel_statistics([sample_planes(planes)], FIELDS)
    filled = planes[planes.any(axis=2)]
    for i, name in enumerate(FIELDS):
        low, high = np.percentile(filled[:, i], (1, 99))
        spread = high - low
        assert found[name].low == pytest.approx(low, abs=0.02 * spread)
        assert found[name].high == pytest.approx(high, abs=0.02 * spread)
        assert found[name].mean == pytest.approx(filled[:, i].mean(), abs=0.02 * spread)
        assert found[name].empty == 0.25
    assert found["range"].slope == pytest.approx(-1, abs=1e-6)
    assert found["height"].slope == pytest.approx(1, abs=1e-6)
    assert abs(found["intensity"].slope) < 0.06


def test_large_frames_are_sampled_evenly() -> None:
    planes = ramp(1024, 1024)
    sample = sample_planes(planes)
    assert len(sample.values) < 10_000
    assert sample.filled == pytest.approx(0.75, abs=0.01)
    found = channel_statistics([sample], FIELDS)["range"]
    assert (found.low, found.high) == (pytest.approx(11, abs=6), pytest.approx(1013, abs=6))
    assert found.slope == pytest.approx(-1, abs=1e-3)
    stripes = np.zeros((1024, 1024, 1), np.float32)
    stripes[:, ::2] = 1  # every second column, which a step of two columns would see alone
    assert sample_planes(stripes).filled == pytest.approx(0.5, abs=0.01)


def test_frames_are_pooled_and_empty_ones_count_as_empty() -> None:
    one, two = np.full((4, 4, 1), 3, np.float32), np.full((4, 4, 1), 5, np.float32)
    nothing = np.zeros((4, 4, 1), np.float32)
    found = channel_statistics([sample_planes(p) for p in (one, two, nothing)], ("value",))
    assert found["value"].mean == pytest.approx(4)
    assert found["value"].empty == pytest.approx(1 / 3)
    assert found["value"].slope == 0
    assert channel_statistics([sample_planes(nothing)], ("value",)) == {}


def test_few_extreme_values_do_not_move_the_mean() -> None:
    planes = np.full((10, 100, 1), 7, np.float32)
    planes[::5, ::5] = 60000  # 4 %
    found = channel_statistics([sample_planes(planes)], ("value",))["value"]
    assert (found.mean, found.high) == (7, 60000)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"low": 2.0, "high": 1.0, "mean": 1.0}, "high"),
        ({"low": float("nan"), "high": 1.0, "mean": 1.0}, "low"),
        ({"low": 0.0, "high": 1.0, "mean": float("inf")}, "mean"),
        ({"low": 0.0, "high": 1.0, "mean": 1.0, "empty": 1.5}, "empty"),
        ({"low": 0.0, "high": 1.0, "mean": 1.0, "slope": -2.0}, "slope"),
    ],
)
def test_impossible_statistics_are_refused(values: dict[str, float], name: str) -> None:
    with pytest.raises(SensorError, match=rf"statistics\.{name}: found"):
        ChannelStatistics(**values)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "f4"])
@pytest.mark.parametrize("count", [1, 2, 3, 99, 100, 101, 12345])
def test_percentiles_are_numpys_to_the_last_bit(dtype: str, count: int) -> None:
    rng = np.random.default_rng(count)
    high = np.iinfo(dtype).max if dtype != "f4" else 400
    shares = (0.0, 0.1, 1.0, 50.0, 99.0, 99.9, 100.0)
    for values in (rng.integers(0, high, count, endpoint=True), np.full(count, 7)):
        image = values.astype(dtype)
        expected = np.percentile(image.astype(np.float32), shares)
        assert percentiles(image, shares).tolist() == expected.tolist()
