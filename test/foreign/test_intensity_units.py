# SPDX-License-Identifier: Apache-2.0
"""The unit of the LiDAR's intensity: factors, the automatic scale, and weights without a unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.plausible import Checked, frames_of, intensity

from mmsam_ros.inference.geometry import Plan
from mmsam_ros.sensors import (
    FIELDS,
    Frame,
    SensorImage,
    channel_statistics,
    frame_planes,
    sample_planes,
)
from mmsam_ros.weights import Spec


@pytest.mark.parametrize("factor", [1 / 255, 1 / 100, 1.0, 16.0, 257.0])
def test_the_intensity_is_brought_back_to_its_unit(
    spec: Spec, drive: list[Frame], factor: float
) -> None:
    right = Checked(spec)
    assert right(drive) == {}
    assert right.planes is not None
    expected = right.planes.auxiliaries["lidar"]
    for scale, tolerance in ((1 / factor, 1e-4), ("auto", 0.5)):
        scaled = Checked(spec, scale=scale)
        assert scaled(drive, intensity(lambda i: i * factor)) == {}
        assert scaled.planes is not None
        found = scaled.planes.auxiliaries["lidar"]
        np.testing.assert_array_equal(found[..., ::2], expected[..., ::2])
        hit = expected[..., 1] > 0
        ratio = found[..., 1][hit] / expected[..., 1][hit]
        assert ratio.max() - ratio.min() < 1e-3
        assert abs(np.log(ratio.mean())) < tolerance


def test_the_automatic_scale_settles(spec: Spec, drive: list[Frame]) -> None:
    """One frame with bright signs does not change it by much."""
    scaled = Checked(spec, scale="auto")
    scaled(drive * 5, intensity(lambda i: i / 255))
    assert scaled.planes is not None
    before = scaled.planes.auxiliaries["lidar"][..., 1].max()
    scaled(drive[-1:], intensity(lambda i: i * 10 / 255))
    after = scaled.planes.auxiliaries["lidar"][..., 1].max() / 10
    assert 0.8 < after / before < 1


def saturated(values: NDArray[Any]) -> NDArray[Any]:
    """Every fiftieth point at the end of the signal's range, as reflectors are."""
    return np.where(np.arange(len(values)) % 50, values, 60000)


def test_reflectors_change_nothing(spec: Spec, drive: list[Frame]) -> None:
    assert Checked(spec)(drive, intensity(saturated)) == {}
    planes = []
    for change in (None, intensity(saturated)):
        scaled = Checked(spec, scale="auto")
        assert scaled(drive, change) == {}
        assert scaled.planes is not None
        planes.append(scaled.planes.auxiliaries["lidar"][..., 1])
    kept = (planes[0] > 0) & (planes[1] < 10_000)
    assert 0.8 < np.median(planes[1][kept] / planes[0][kept]) < 1.2


def test_the_named_factor_is_the_one_to_set(spec: Spec, drive: list[Frame]) -> None:
    """Whatever is set already: with it, nothing is found."""
    for scale in (1.0, 1000.0, 10.0):
        change = intensity(lambda i: i / 255)
        text = Checked(spec, scale=scale)(drive, change)["lidar.intensity"]
        factor = float(text.partition("(about ")[2].partition(")")[0])
        assert 150 < factor < 450
        assert Checked(spec, scale=factor)(drive, change) == {}


def test_what_no_factor_mends_is_said_with_auto_too(spec: Spec, drive: list[Frame]) -> None:
    for change in (intensity(lambda i: 255 - i), intensity(lambda i: i + 100)):
        text = Checked(spec, scale="auto")(drive, change)["lidar.intensity"]
        assert "auto" not in text


@pytest.fixture(scope="module")
def gain_spec(spec: Spec) -> Spec:
    """Weights that read intensity free of its unit, trained on other drives."""
    lidar = replace(spec.inputs["lidar"], encoding="lidar_gain")
    given = replace(spec, inputs={**spec.inputs, "lidar": lidar})
    samples = []
    for weather in ("sun", "cloud", "fog"):
        for frame in frames_of(weather, "ordinary", 905):
            canvas = Plan.of(given.geometry, frame.size).canvas
            planes = frame_planes(frame, given.modalities, canvas).auxiliaries["lidar"]
            samples.append(sample_planes(planes))
    seen = channel_statistics(samples, FIELDS["lidar_gain"])
    return replace(given, seen={**given.seen, "lidar": seen})


@pytest.mark.parametrize(
    "change",
    [lambda i: i, lambda i: i / 255, lambda i: i / 100, lambda i: i * 257, lambda i: i**1.6 / 30,
     lambda i: i * 0, lambda i: i * 0 + 17],
)  # fmt: skip
def test_intensity_of_any_unit_or_none_is_no_fault_of_weights_without_a_unit(
    gain_spec: Spec, drive: list[Frame], change: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    assert Checked(gain_spec)(drive, intensity(change)) == {}

    def raster(given: Frame) -> Frame:
        raw = replace(gain_spec.modalities["lidar"], encoding="muses_raw")
        found = frame_planes(intensity(change)(given), {"lidar": raw}, given.size)
        image = SensorImage(found.auxiliaries["lidar"])
        return replace(given, sensors={**given.sensors, "lidar": image})

    assert Checked(gain_spec)(drive, raster) == {}


def test_negative_intensity_is_a_fault_of_them_too(gain_spec: Spec, drive: list[Frame]) -> None:
    """It would become 0, and the mask look valid."""
    for change in (lambda i: i - 128, lambda i: i.astype(np.uint8).astype(np.int8)):
        found = Checked(gain_spec, "refuse")
        assert "below 0" in found(drive, intensity(change))["lidar.intensity"]
        assert found.planes is not None
        assert "lidar" in found.planes.refused


@pytest.mark.parametrize("scale", ["auto", 20.0])
def test_a_scale_has_no_effect_without_a_unit(
    gain_spec: Spec, drive: list[Frame], scale: float | str
) -> None:
    plain, scaled = Checked(gain_spec), Checked(gain_spec, scale=scale)
    assert plain(drive) == scaled(drive) == {}
    assert plain.planes is not None
    assert scaled.planes is not None
    np.testing.assert_array_equal(
        scaled.planes.auxiliaries["lidar"], plain.planes.auxiliaries["lidar"]
    )
    (line,) = scaled.logged
    assert line.startswith(f"parameter lidar.intensity_scale: found {scale}, which has no effect")
    assert plain.logged == []
