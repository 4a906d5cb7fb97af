# SPDX-License-Identifier: Apache-2.0
"""The transforms of a recording, looked up as tf2 does. Needs no ROS."""

from bisect import bisect_left, insort
from collections import defaultdict
from operator import itemgetter
from typing import Any

import numpy as np

from mmsam_ros.ros.bags import Transforms, transform_chain
from mmsam_ros.ros.calibration import (
    LATE,
    WAY,
    Matrix,
    links_frames,
    nanoseconds,
    transform_matrix,
    twist_end,
)
from mmsam_ros.ros.errors import RosError
from mmsam_ros.sensors import SensorError, pose_matrix, pose_values
from mmsam_ros.sensors.motion import Vector, twist_between

_KEPT = 10 * 10**9  # nanoseconds of a moving transform, as in tf2
_stamp = itemgetter(0)


class RecordedTransforms:
    """Static ones are known from the beginning, moving ones once they are added."""

    def __init__(self, static: Transforms) -> None:
        self._static = static
        # child -> (stamp in ns, parent, matrix parent <- child), by stamp
        self._moving: dict[str, list[tuple[int, str, Matrix]]] = defaultdict(list)

    def add(self, message: Any) -> None:
        """Take a TFMessage of /tf; an invalid transform is left out, as in tf2."""
        for stamped in message.transforms:
            child, parent = stamped.child_frame_id.lstrip("/"), stamped.header.frame_id.lstrip("/")
            if not links_frames(parent, child):
                continue
            stamp = nanoseconds(stamped.header.stamp)
            known = self._moving[child]
            if known and stamp < known[-1][0] - _KEPT:
                known.clear()  # time has jumped back
            try:
                insort(known, (stamp, parent, transform_matrix(stamped.transform)), key=_stamp)
            except SensorError:
                continue
            del known[: bisect_left(known, known[-1][0] - _KEPT, key=_stamp)]

    def find(self, target: str, source: str, time_ns: int) -> tuple[Matrix, bool]:
        """See `calibration.Transforms`; the newest will do if it is `LATE` or less older."""
        try:
            return transform_chain(self._static, target, source), True
        except RosError:
            moving = self._between(target, source)
            if not moving:
                raise
        wanted, newest = time_ns, self._newest(moving)
        if newest < wanted <= newest + LATE:
            wanted = newest
        return self._pose(target, source, moving, wanted), False

    def twist(self, target: str, source: str, time_ns: int, stale: int) -> tuple[Vector, Vector]:
        """See `calibration.Transforms`."""
        if not (moving := self._between(target, source)):
            raise RosError(f"frame {source!r} does not move in {target!r} by TF")
        end = twist_end(self._newest(moving), time_ns, stale, f"from {source!r} to {target!r}")
        first, last = (self._pose(target, source, moving, at) for at in (end - WAY, end))
        return twist_between(np.linalg.inv(first) @ last, WAY / 1e9)

    def _newest(self, moving: set[str]) -> int:
        return min(self._moving[child][-1][0] for child in moving)

    def _pose(self, target: str, source: str, moving: set[str], at: int) -> Matrix:
        links = {child: _at(self._moving[child], at, child) for child in moving}
        return transform_chain({**self._static, **links}, target, source)

    def _between(self, target: str, source: str) -> set[str]:
        """The moving children on the way from one frame to the other."""

        def above(frame: str) -> set[str]:
            found: set[str] = set()
            while frame not in found:
                known = self._moving.get(frame)
                found.add(frame)
                frame = self._static[frame][0] if frame in self._static else frame
                frame = known[-1][1] if known else frame
            return found

        return {frame for frame in above(target) ^ above(source) if self._moving.get(frame)}


def _at(known: list[tuple[int, str, Matrix]], stamp: int, child: str) -> tuple[str, Matrix]:
    """(parent, matrix) at a time, interpolated between two transforms; RosError outside them."""
    after = bisect_left(known, stamp, key=_stamp)
    if after < len(known) and known[after][0] == stamp:
        return known[after][1:]
    if not 0 < after < len(known):
        first, last = known[0][0] / 1e9, known[-1][0] / 1e9
        raise RosError(f"frame {child!r} is known from {first:.3f} to {last:.3f} s, asked for is "
                       f"{stamp / 1e9:.3f} s")  # fmt: skip
    (begin, _, first_pose), (end, parent, last_pose) = known[after - 1], known[after]
    return parent, _interpolated(first_pose, last_pose, (stamp - begin) / (end - begin))


def _interpolated(first: Matrix, last: Matrix, share: float) -> Matrix:
    """The pose at a share of the way: a line, and a turn of constant speed."""
    a, b = np.array(pose_values(first)), np.array(pose_values(last))
    p, q = a[3:], b[3:] if a[3:] @ b[3:] >= 0 else -b[3:]  # the shorter way
    angle = float(np.arccos(min(1.0, p @ q)))
    if angle > 1e-6:
        weights = np.sin([(1 - share) * angle, share * angle]) / np.sin(angle)
    else:
        weights = np.array([1 - share, share])
    place, turn = (1 - share) * a[:3] + share * b[:3], weights[0] * p + weights[1] * q
    return pose_matrix(place.tolist(), turn.tolist())
