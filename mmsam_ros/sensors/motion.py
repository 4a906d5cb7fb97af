# SPDX-License-Identifier: Apache-2.0
"""Motion of a LiDAR while it measures: times of points, twists, and points brought to one time."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmsam_ros.sensors.errors import SensorError
from mmsam_ros.sensors.projection import MIN_RANGE

# Names of the field with a point's time: Ouster, Velodyne and RoboSense, Hesai and Livox.
TIME_FIELDS = ("t", "time", "timestamp", "offset_time", "time_offset", "time_stamp")
SWEEP = (5e-3, 0.5)  # seconds that a sweep takes at least and at most; less is not worth moving
FARTHEST = 1.0  # seconds between a point and the stamp of its cloud
SPEED, TURN = 100.0, 10.0  # m/s and rad/s that no vehicle exceeds
# Seconds in a unit, by the kind of the field. Each is 1000 times the next one and `SWEEP` spans
# less, so that at most one unit makes a sweep of the values.
_UNITS = {"f": (1.0, 1e-3, 1e-6, 1e-9), "u": (1e-6, 1e-9), "i": (1e-6, 1e-9)}
_EDGE = 1.0  # percent of the points on either side that may have any time

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]


def point_seconds(values: NDArray[np.generic], used: NDArray[np.bool_], stamp_ns: int) -> Vector:
    """Seconds after the stamp of its cloud at which each point was measured, (N,) float64, NaN for
    single points without a sensible time.

    The unit is the one with which the values span a sweep; they count from the stamp, or from the
    epoch of the stamp. SensorError where neither is so. Points that are not `used` do not count.
    """
    numbers = values.astype(np.float64)
    known = numbers[used & np.isfinite(numbers)]
    if not len(known):
        raise SensorError("no point has a time")
    low, high = np.percentile(known, (_EDGE, 100 - _EDGE))
    units = [u for u in _UNITS[values.dtype.kind] if SWEEP[0] <= (high - low) * u <= SWEEP[1]]
    if not units:
        raise SensorError(
            f"its values are {low:.9g} to {high:.9g}, which is no sweep of {SWEEP[0]:g} to "
            f"{SWEEP[1]:g} s in any unit"
        )
    epoch = stamp_ns * 1e-9 / units[0]
    nearest = min((0.0, epoch), key=lambda origin: abs((low + high) / 2 - origin))
    seconds = (numbers - nearest) * units[0]
    middle = ((low + high) / 2 - nearest) * units[0]
    if abs(middle) > FARTHEST:
        raise SensorError(
            f"its values are {middle:.1f} s from the stamp of the cloud: one of the two has "
            "another clock"
        )
    seconds[~(np.abs(seconds) <= FARTHEST)] = np.nan
    return seconds


def undistort(
    xyz: NDArray[np.float32], seconds: Vector, linear: ArrayLike, angular: ArrayLike
) -> NDArray[np.float32]:
    """Points (N, 3), each in the sensor's frame at its own time, in the sensor's frame at time 0.

    `linear` (m/s) and `angular` (rad/s) are the sensor's velocity in its own frame, taken as
    constant. Points that are too near to be used (0, 0, 0 for no return) stay where they are.
    """
    p, v = xyz.astype(np.float64), np.asarray(linear, np.float64) * seconds[:, None]
    turn = np.asarray(angular, np.float64) * seconds[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.linalg.norm(p, axis=1) < MIN_RANGE
        sine, cosine, rest = _series(np.linalg.norm(turn, axis=1)[:, None])
        once, twice = np.cross(turn, p), np.cross(turn, np.cross(turn, p))
        turned = p + sine * once + cosine * twice
        once, twice = np.cross(turn, v), np.cross(turn, np.cross(turn, v))
        moved = (turned + v + cosine * once + rest * twice).astype(np.float32)
    return np.where(near[:, None], xyz, moved)


def twist_between(motion: Matrix, seconds: float) -> tuple[Vector, Vector]:
    """The constant linear and angular velocity, in the moving frame, that makes the motion (4, 4),
    frame at the beginning <- frame at the end, in that time.
    """
    R = motion[:3, :3]
    axis = np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]]) / 2
    angle = float(np.arctan2(np.linalg.norm(axis), (np.trace(R) - 1) / 2))
    sine, cosine, rest = _series(np.array(angle))
    turn = axis / sine
    skew = np.cross(turn, np.eye(3)).T
    mean = np.eye(3) + cosine * skew + rest * skew @ skew  # of the rotation on the way
    along = np.asarray(np.linalg.solve(mean, motion[:3, 3]), np.float64)
    return along / seconds, turn / seconds


def twist_at(linear: ArrayLike, angular: ArrayLike, place: Matrix) -> tuple[Vector, Vector]:
    """The twist of a body, taken at a sensor and in its frame; `place` (4, 4): body <- sensor.

    SensorError unless it is one that a vehicle can have.
    """
    v, w = np.asarray(linear, np.float64), np.asarray(angular, np.float64)
    if not (np.linalg.norm(v) <= SPEED and np.linalg.norm(w) <= TURN):
        raise SensorError(
            f"velocity is {v.tolist()} m/s and {w.tolist()} rad/s, expected at most {SPEED:g} and "
            f"{TURN:g}"
        )
    R, at = place[:3, :3], place[:3, 3]
    along: Vector = R.T @ (v + np.cross(w, at))
    return along, R.T @ w


def _series(angle: Vector) -> tuple[Vector, Vector, Vector]:
    """sin(a) / a, (1 - cos(a)) / a^2 and (a - sin(a)) / a^3."""
    small = np.abs(angle) < 1e-3
    a = np.where(small, 1.0, angle)
    square = angle**2
    return (
        np.where(small, 1 - square / 6, np.sin(a) / a),
        np.where(small, 0.5 - square / 24, (1 - np.cos(a)) / a**2),
        np.where(small, 1 / 6 - square / 120, (a - np.sin(a)) / a**3),
    )
