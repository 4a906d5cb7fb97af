# SPDX-License-Identifier: Apache-2.0
"""PointCloud2 to arrays: by name, datatype, offset, byte order; padding; refusals."""

from __future__ import annotations

import array
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsam_ros.ros.clouds import cloud_points
from mmsam_ros.ros.errors import RosError

CODES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}


def message(points: np.ndarray, *, height: int = 1, row_padding: int = 0, big: bool = False) -> Any:
    """A PointCloud2-like object of structured points (N,)."""
    names = points.dtype.names or ()
    order = ">" if big else "<"
    swapped = points.astype(points.dtype.newbyteorder(order))
    fields = [
        SimpleNamespace(
            name=n,
            offset=points.dtype.fields[n][1],
            datatype=CODES[points.dtype.fields[n][0].str[1:]],
            count=1,
        )
        for n in names
    ]
    rows = swapped.view(np.uint8).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, row_padding)), constant_values=7)
    return SimpleNamespace(
        height=height,
        width=len(points) // height,
        fields=fields,
        is_bigendian=big,
        point_step=points.dtype.itemsize,
        row_step=rows.shape[1],
        data=array.array("B", rows.tobytes()),
    )


def points_of(kind: Any, count: int = 12) -> np.ndarray:
    rng = np.random.default_rng(1)
    points = np.zeros(count, kind)
    for name in points.dtype.names or ():
        points[name] = rng.integers(0, 100, count)
    return points


LAYOUTS = {
    "packed": np.dtype([("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "f4")]),
    "velodyne": np.dtype(
        {
            "names": ["x", "y", "z", "intensity", "ring", "time"],
            "formats": ["f4", "f4", "f4", "f4", "u2", "f4"],
            "offsets": [0, 4, 8, 16, 20, 24],
            "itemsize": 32,
        }
    ),
    "ouster": np.dtype(
        [("t", "u4"), ("reflectivity", "u2"), ("z", "f8"), ("y", "f8"), ("x", "f8")]
    ),
    "byte intensity": np.dtype([("x", "f4"), ("y", "f4"), ("z", "f4"), ("i", "u1")]),
}


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("height", "row_padding"), [(1, 0), (3, 0), (3, 8)])
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_layouts(layout: str, height: int, row_padding: int, big: bool) -> None:
    points = points_of(LAYOUTS[layout])
    given = message(points, height=height, row_padding=row_padding, big=big)
    xyz, intensity = cloud_points(given, needs_intensity=True)
    assert xyz.dtype == intensity.dtype == np.float32
    assert np.array_equal(xyz, np.stack([points[n] for n in "xyz"], -1).astype(np.float32))
    name = next(n for n in ("intensity", "i", "reflectivity") if n in points.dtype.names)
    assert np.array_equal(intensity, points[name].astype(np.float32))


def test_an_empty_cloud_is_valid() -> None:
    xyz, intensity = cloud_points(message(points_of(LAYOUTS["packed"], 0)), needs_intensity=True)
    assert xyz.shape == (0, 3)
    assert intensity.shape == (0,)


def test_an_intensity_that_nobody_reads_costs_no_point() -> None:
    points = points_of(np.dtype([("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "f4")]))
    points["intensity"][::2] = np.nan
    points["intensity"][1] = np.inf
    xyz, values = cloud_points(message(points), needs_intensity=False)
    assert len(xyz) == len(points)
    assert not values[::2].any()
    assert values[1] == 0
    assert np.array_equal(values[3::2], points["intensity"][3::2])


def test_intensity_is_needed_only_where_the_weights_read_it() -> None:
    given = message(points_of(np.dtype([("x", "f4"), ("y", "f4"), ("z", "f4")])))
    xyz, intensity = cloud_points(given, needs_intensity=False)
    assert len(xyz) == 12
    assert not intensity.any()
    with pytest.raises(RosError, match="which these weights read") as caught:
        cloud_points(given, needs_intensity=True)
    assert caught.value.reason == "intensity"
    _, intensity = cloud_points(given, needs_intensity=True, may_lack=True)
    assert not intensity.any()
    with pytest.raises(RosError, match="expected one of ring among them"):  # it was asked for
        cloud_points(given, needs_intensity=True, may_lack=True, intensity_field="ring")


@settings(max_examples=300)
@given(
    *(st.integers(0, 50) for _ in range(5)),
    st.integers(0, 600),
    st.lists(st.integers(0, 9), min_size=4, max_size=4),
)
def test_any_header_is_read_or_refused(
    height: int,
    width: int,
    point_step: int,
    row_step: int,
    offset: int,
    size: int,
    datatypes: list[int],
) -> None:
    fields = [
        SimpleNamespace(name=n, offset=offset + 4 * k, datatype=d, count=1)
        for k, (n, d) in enumerate(zip(("x", "y", "z", "intensity"), datatypes, strict=True))
    ]
    given = SimpleNamespace(
        height=height,
        width=width,
        fields=fields,
        is_bigendian=False,
        point_step=point_step,
        row_step=row_step,
        data=array.array("B", bytes(size)),
    )
    try:
        xyz, intensity = cloud_points(given, needs_intensity=True)
    except RosError as error:
        assert error.reason in {"fields", "step", "data_length"}
    else:
        assert len(xyz) == len(intensity) == height * width
