# SPDX-License-Identifier: Apache-2.0
"""Rigs: drawn ones cover the ranges and are consistent; impossible ones are refused."""

from __future__ import annotations

import numpy as np
import pytest

from mmsam_ros.data.errors import DataError
from mmsam_ros.sensors import project
from mmsam_ros.world import (
    Vehicle,
    build_street,
    draw_rig,
    make_rig,
)


def test_rigs_differ_and_eight_of_them_cover_the_ranges() -> None:
    rigs = [draw_rig(number) for number in range(1, 9)]
    fields = [rig.camera.fov for rig in rigs]
    assert min(fields) < 58 < 102 < max(fields)
    heights = [rig.camera.T_base[2, 3] for rig in rigs]
    assert 1.2 <= min(heights) < 1.35 < 2.05 < max(heights) <= 2.2
    assert {len(rig.lidar.elevations) for rig in rigs} == {16, 32, 64, 128}
    assert {round(rig.camera.width / rig.camera.height, 2) for rig in rigs} == {
        1.33, 1.5, 1.78, 3.3,
    }  # fmt: skip
    mounts = [rig.lidar.T_base[2, 3] for rig in rigs]
    assert 1.5 <= min(mounts) < 1.7 < 2.4 < max(mounts) <= 2.6
    thermal = [rig.thermal.fov for rig in rigs]
    assert 30 <= min(thermal) < 40 < 80 < max(thermal) <= 90
    again = draw_rig(5)
    np.testing.assert_array_equal(again.T_camera_lidar, rigs[4].T_camera_lidar)
    standard, own = draw_rig(0, 320, 240), make_rig(320, 240)
    np.testing.assert_array_equal(standard.T_camera_lidar, own.T_camera_lidar)
    assert (draw_rig(7, 640).camera.width, draw_rig(3, 320, 200).camera.height) == (640, 200)
    with pytest.raises(DataError, match="rig is -1, expected 0 or more"):
        draw_rig(-1)


@pytest.mark.parametrize("number", [2, 7, 8])
def test_all_sensors_of_a_drawn_rig_see_the_same_street(number: int) -> None:
    rig = draw_rig(number, 256)
    sample = next(Vehicle(build_street(3), rig).samples(1, 1.0))
    index, u, v, _ = project(sample.cloud.xyz, rig.camera_model, rig.T_camera_lidar)
    labels = sample.picture.labels[v.astype(int), u.astype(int)]
    assert len(index) > 800
    assert np.mean(labels == sample.cloud.label[index]) > 0.8
    assert sample.thermal.shape == (rig.thermal.height, rig.thermal.width)


@pytest.mark.parametrize("size", [(16, 240), (320, 31)])
def test_sizes_that_make_no_picture_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=f"{size[0]}x{size[1]}"):
        make_rig(*size)


def test_a_rate_that_is_not_positive_is_refused() -> None:
    with pytest.raises(DataError, match="rate"):
        make_rig(camera_rate=0.0)
