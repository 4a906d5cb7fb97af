# SPDX-License-Identifier: Apache-2.0
"""Times of points as drivers give them, twists, and points brought to one time."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mmsam_ros.sensors import SensorError, pose_matrix
from mmsam_ros.sensors.motion import point_seconds, twist_at, twist_between, undistort

STAMP = 1_700_000_000_123_456_789
SWEEP = np.linspace(0.0, 0.1, 1001)
ALL = np.ones(len(SWEEP), bool)


def after_epoch(seconds: np.ndarray, unit: int) -> np.ndarray:
    """Units from the epoch, exact integers."""
    return (STAMP + np.round(seconds * 1e9).astype(np.int64)) // (10**9 // unit)


DRIVERS = {
    "Ouster t": (np.round(SWEEP * 1e9).astype(np.uint32), SWEEP),
    "Velodyne time, to its last point": ((SWEEP - 0.1).astype(np.float32), SWEEP - 0.1),
    "Hesai timestamp": (after_epoch(SWEEP, 10**9) / 1e9, SWEEP),
    "RoboSense timestamp, to its last point": (after_epoch(SWEEP - 0.1, 10**9) / 1e9, SWEEP - 0.1),
    "Livox timestamp": (after_epoch(SWEEP, 10**9).astype(np.float64), SWEEP),
    "Livox offset_time": (np.round(SWEEP * 1e9).astype(np.uint32), SWEEP),
    "absolute ns": (after_epoch(SWEEP, 10**9).astype(np.uint64), SWEEP),
    "absolute us": (after_epoch(SWEEP, 10**6).astype(np.int64), SWEEP),
    "float us": ((SWEEP * 1e6).astype(np.float32), SWEEP),
    "float ms": ((SWEEP * 1e3).astype(np.float32), SWEEP),
    "integer us": (np.round(SWEEP * 1e6).astype(np.int32), SWEEP),
    "5 Hz": ((2 * SWEEP).astype(np.float32), 2 * SWEEP),
    "20 Hz, in ns": (np.round(SWEEP * 5e8).astype(np.uint32), SWEEP / 2),
}


@pytest.mark.parametrize("driver", DRIVERS)
def test_times_of_drivers(driver: str) -> None:
    values, expected = DRIVERS[driver]
    order = np.random.default_rng(1).permutation(len(values))  # of firing or of rows
    found = point_seconds(values[order], ALL, STAMP)
    assert np.abs(found - expected[order]).max() < 2e-6


def test_points_that_are_not_used_do_not_count() -> None:
    """Drivers leave the time of points without return at 0."""
    values = after_epoch(SWEEP, 10**9) / 1e9
    values[::2], used = 0.0, ALL.copy()
    used[::2] = False
    found = point_seconds(values, used, STAMP)
    assert np.isnan(found[::2]).all()
    assert np.abs(found[1::2] - SWEEP[1::2]).max() < 2e-6


def test_single_points_may_have_any_time() -> None:
    values = SWEEP.astype(np.float32)
    values[[3, 900]] = 1e9, np.nan
    found = point_seconds(values, ALL, STAMP)
    assert np.flatnonzero(np.isnan(found)).tolist() == [3, 900]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.zeros(1001, np.float32), "0 to 0, which is no sweep"),
        (np.full(1001, 7, np.uint32), "no sweep"),
        (SWEEP * 20, "no sweep"),  # twenty sweeps
        (np.linspace(0, 1e-4, 1001), "no sweep"),
        (np.full(1001, np.nan), "no point has a time"),
        (after_epoch(SWEEP + 37, 10**9) / 1e9, "37.0 s from the stamp"),  # TAI
        (SWEEP + 5000, "5000.1 s from the stamp"),  # since the device was turned on
    ],
)
def test_implausible_times_are_refused(values: np.ndarray, text: str) -> None:
    with pytest.raises(SensorError, match=text):
        point_seconds(values, ALL, STAMP)


def test_straight_and_turning() -> None:
    """At 15 m/s a point that is measured after 0.1 s is 1.5 m nearer than from the beginning; a
    turn of 90 degrees to the left brings what is ahead to what was left."""
    points = np.array([[10, 2, 1], [10, 2, 1], [0, 0, 0]], np.float32)
    moved = undistort(points, np.array([0.0, 0.1, 0.1]), (15, 0, 0), (0, 0, 0))
    assert np.allclose(moved, [[10, 2, 1], [11.5, 2, 1], [0, 0, 0]], atol=1e-5)
    quarter = undistort(points[:1], np.array([0.5]), (0, 0, 0), (0, 0, np.pi))
    assert np.allclose(quarter, [[-2, 10, 1]], atol=1e-5)
    before = undistort(points[:1], np.array([-0.1]), (15, 0, 0), (0, 0, 0))
    assert np.allclose(before, [[8.5, 2, 1]], atol=1e-5)
    assert np.isnan(undistort(points[:1], np.array([np.nan]), (1, 0, 0), (0, 0, 0))).all()


@pytest.mark.parametrize("angular", [(0.3, -0.8, 1.2), (0.0, 0.0, 1e-9), (0.0, 0.0, 0.0)])
def test_a_motion_is_many_small_ones(angular: tuple[float, float, float]) -> None:
    """Integrated in ten thousand steps of a body that moves by its own velocity."""
    linear, steps, pose = (12.0, -1.0, 0.5), 10_000, np.eye(4)
    step = np.eye(4)
    step[:3, :3] = cv2.Rodrigues(np.multiply(angular, 0.2 / steps))[0]
    step[:3, 3] = np.multiply(linear, 0.2 / steps)
    for _ in range(steps):
        pose = pose @ step
    point = np.array([[20.0, -3.0, 1.0]], np.float32)
    expected = point @ pose[:3, :3].T + pose[:3, 3]
    assert np.allclose(undistort(point, np.array([0.2]), linear, angular), expected, atol=1e-3)
    found = twist_between(pose, 0.2)
    assert np.allclose(found, (linear, angular), atol=1e-3)


def test_the_velocity_of_the_vehicle_at_the_sensor() -> None:
    """2 m ahead of the axle, facing left: turning left moves it to its own front."""
    place = pose_matrix([2.0, 0.0, 1.0], [0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)])
    linear, angular = twist_at((10, 0, 0), (0, 0, 0.5), place)
    assert np.allclose(linear, [1, -10, 0])
    assert np.allclose(angular, [0, 0, 0.5])
    with pytest.raises(SensorError, match="expected at most 100 and 10"):
        twist_at((500, 0, 0), (0, 0, 0), place)
    with pytest.raises(SensorError, match="expected at most"):
        twist_at((np.nan, 0, 0), (0, 0, 0), place)
