# SPDX-License-Identifier: Apache-2.0
"""Modalities: what they refuse, and what they are where nothing is known of a sensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmsam_ros._util import from_mapping
from mmsam_ros.sensors import (
    AUXILIARY_SENSORS,
    ENCODINGS,
    FIELDS,
    Modality,
    SensorError,
    made_of_points,
    plain_modality,
)

RASTER = ("range", "intensity", "height")
LIDAR: dict[str, Any] = {"fields": RASTER, "encoding": "muses_raw"}
THERMAL: dict[str, Any] = {"fields": ("value",) * 3, "encoding": "mono16", "limits": (0.0, 9.0)}


def test_the_auxiliaries_are_all_but_the_camera() -> None:
    assert AUXILIARY_SENSORS == ("lidar", "thermal", "event", "depth")


@pytest.mark.parametrize(
    ("fields", "encoding", "channels"),
    [
        (RASTER, "muses_raw", [0, 1, 2]),
        (RASTER[::-1], "muses_png16", [2, 1, 0]),
        (("height", "range", "range"), "muses_raw", [2, 0, 0]),
        (("value",) * 3, "mono8", [0, 0, 0]),
        (("negative", "zero", "positive"), "event_counts", [1, 2, 0]),
    ],
)
def test_channels_are_the_planes_of_the_encoding(
    fields: tuple[str, str, str], encoding: str, channels: list[int]
) -> None:
    assert Modality(fields, encoding).channels == channels


def test_empty_is_raw_zero_normalised() -> None:
    modality = Modality(RASTER, "muses_raw", mean=(1.0, -2.0, 0.0), std=(2.0, 4.0, 5.0))
    assert modality.empty == (-0.5, 0.5, 0.0)
    assert Modality(RASTER, "muses_raw", scale=(9.0, 9.0, 9.0)).empty == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (LIDAR | {"encoding": "muses"}, "encoding: found 'muses', expected one of .*muses_raw"),
        (LIDAR | {"fields": ("range", "x", "y")}, r"fields: found \('range', 'x', 'y'\), .*height"),
        (LIDAR | {"encoding": "png8"}, r"fields: found .*expected some of \('red', 'green', 'blue"),
        (LIDAR | {"scale": (1.0, 0.0, 1.0)}, r"scale: found .*, expected factors other than 0"),
        (LIDAR | {"scale": (1.0, np.inf, 1.0)}, "scale: found .*, expected finite values"),
        (LIDAR | {"mean": (0.0, np.nan, 0.0)}, "mean: found .*, expected finite values"),
        (LIDAR | {"std": (1.0, 0.0, 1.0)}, "std: found .*, expected at least 1e-06"),
        (LIDAR | {"std": (1.0, -1.0, 1.0)}, "std: found .*, expected at least 1e-06"),
        (LIDAR | {"std": (1.0, np.nan, 1.0)}, "std: found .*, expected at least 1e-06"),
        (LIDAR | {"std": (1.0, np.inf, 1.0)}, "std: found .* expected at least 1e-06 and finite"),
        (LIDAR | {"point_size": 0}, "point_size: found 0, expected 1 to 31"),
        (LIDAR | {"point_size": 32}, "point_size: found 32, expected 1 to 31"),
        (
            LIDAR | {"limits": (0.0, 1.0)},
            r"limits: found \(0.0, 1.0\) for muses_raw, expected none",
        ),
        (THERMAL | {"encoding": "mono8"}, "limits: found .* for mono8, expected none"),
        (THERMAL | {"limits": None}, "limits: found None, expected finite counts"),
        (THERMAL | {"limits": (9.0, 0.0)}, r"limits: found \(9.0, 0.0\), .* low < high"),
        (THERMAL | {"limits": (5.0, 5.0)}, "limits: found .* low < high"),
        (THERMAL | {"limits": (np.nan, 5.0)}, "limits: found .* finite"),
        (THERMAL | {"limits": (0.0, np.inf)}, "limits: found .* finite"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SensorError, match=rf"modality\.{message}"):
        Modality(**given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feilds": RASTER}, "inputs.lidar: unknown key 'feilds'; did you mean 'fields'"),
        ({"fields": ["range"]}, "inputs.lidar.fields: found 1 values, expected 3"),
        ({"mean": [0, "1", 0]}, r"inputs.lidar.mean\[1\]: found '1', expected float"),
        ({"point_size": 1.5}, "inputs.lidar.point_size: found 1.5, expected int"),
    ],
)
def test_plain_values_are_checked_as_well(change: dict[str, Any], message: str) -> None:
    given = {"fields": list(RASTER), "encoding": "muses_raw", "mean": [0, 1, 0], "point_size": 3}
    expected = Modality(RASTER, "muses_raw", mean=(0.0, 1.0, 0.0), point_size=3)
    assert from_mapping(Modality, given) == expected
    with pytest.raises(SensorError, match=message):
        from_mapping(Modality, given | change, "inputs.lidar")


def test_a_plain_modality_has_the_encoding_s_fields() -> None:
    lidar = plain_modality("muses_raw", point_size=3)
    assert (lidar.fields, lidar.std, lidar.point_size) == (RASTER, (20.0, 50.0, 1.0), 3)
    thermal = plain_modality("mono16", limits=(1.0, 2.0), point_size=3)
    assert (thermal.fields, thermal.limits) == (("value",) * 3, (1.0, 2.0))
    assert (thermal.std, thermal.point_size) == ((255.0,) * 3, 1)
    events = plain_modality("event_counts")
    assert (events.std, events.point_size) == ((1.0, 1.0, 1.0), 1)
    depth = plain_modality("png8")
    assert (depth.fields, depth.std) == (("red", "green", "blue"), (255.0,) * 3)
    with pytest.raises(SensorError, match="limits"):
        plain_modality("mono16")


@pytest.mark.parametrize("encoding", [e for s in AUXILIARY_SENSORS for e in ENCODINGS[s]])
def test_every_encoding_has_a_plain_modality(encoding: str) -> None:
    modality = plain_modality(encoding, (0.0, 1.0) if encoding == "mono16" else None)
    assert set(modality.fields) == set(FIELDS[encoding])
    assert modality.empty == (0.0, 0.0, 0.0)
    assert made_of_points(encoding) == (encoding in ("muses_raw", "lidar_gain", "muses_png16"))
    assert modality.point_size == (2 if made_of_points(encoding) else 1)
