# SPDX-License-Identifier: Apache-2.0
"""The transforms of a recording, looked up as tf2 looks them up."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.transforms import RecordedTransforms
from mmsam_ros.sensors import pose_matrix

MOUNT = pose_matrix((0.0, 0.0, 2.0), (0.0, 0.0, 0.0, 1.0))
STATIC = {"lidar": ("base", MOUNT), "camera": ("turret", np.eye(4))}


def stamp(nanoseconds: int) -> Any:
    return SimpleNamespace(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def moving(seconds: float, degrees: float, x: float, parent: str = "base") -> Any:
    """`turret` at an angle about z."""
    half = math.radians(degrees) / 2
    transform = SimpleNamespace(
        translation=SimpleNamespace(x=x, y=0.0, z=0.0),
        rotation=SimpleNamespace(x=0.0, y=0.0, z=math.sin(half), w=math.cos(half)),
    )
    header = SimpleNamespace(frame_id=parent, stamp=stamp(round(seconds * 1e9)))
    stamped = SimpleNamespace(header=header, child_frame_id="/turret", transform=transform)
    return SimpleNamespace(transforms=[stamped])


@pytest.fixture
def turret() -> RecordedTransforms:
    """Turns by 90 degrees and moves by 2 m in a second."""
    transforms = RecordedTransforms(STATIC)
    for message in (moving(100.0, 10.0, 1.0), moving(101.0, 100.0, 3.0)):
        transforms.add(message)
    return transforms


def test_static_ones_do_not_change() -> None:
    matrix, static = RecordedTransforms(STATIC).find("base", "lidar", 5)
    assert static
    assert (matrix == MOUNT).all()


@pytest.mark.parametrize(
    ("seconds", "degrees", "x"),
    [(100.0, 10, 1.0), (100.25, 32.5, 1.5), (101.0, 100, 3.0), (101.1, 100, 3.0)],
)
def test_moving_ones_are_interpolated(
    turret: RecordedTransforms, seconds: float, degrees: float, x: float
) -> None:
    matrix, static = turret.find("base", "camera", round(seconds * 1e9))
    assert not static
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    expected = [[cos, -sin, 0, x], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert np.allclose(matrix, expected, atol=1e-9)
    inverse, _ = turret.find("camera", "base", round(seconds * 1e9))
    assert np.allclose(matrix @ inverse, np.eye(4), atol=1e-12)


@pytest.mark.parametrize("seconds", [99.9, 101.2])
def test_none_is_made_up(turret: RecordedTransforms, seconds: float) -> None:
    with pytest.raises(RosError, match=r"known from 100.000 to 101.000 s"):
        turret.find("base", "camera", round(seconds * 1e9))


@pytest.mark.parametrize("child", ["turret", ""])
def test_a_frame_in_itself_takes_no_place(turret: RecordedTransforms, child: str) -> None:
    """Some drivers send the identity of their own frame, and tf2 leaves it out."""
    message = moving(101.05, 0.0, 0.0, parent=child)
    message.transforms[0].child_frame_id = child
    turret.add(message)
    assert turret.find("base", "camera", 101_000_000_000)[0][0, 3] == pytest.approx(3.0)


def test_a_rotation_of_another_length_is_left_out(turret: RecordedTransforms) -> None:
    message = moving(100.5, 0.0, 9.0)
    message.transforms[0].transform.rotation.w = 1.1
    turret.add(message)
    assert turret.find("base", "camera", 100_500_000_000)[0][0, 3] == pytest.approx(2.0)


def test_old_ones_and_those_before_a_jump_are_forgotten(turret: RecordedTransforms) -> None:
    turret.add(moving(111.5, 0.0, 0.0))
    with pytest.raises(RosError, match=r"known from 111\.500"):
        turret.find("base", "camera", 100_500_000_000)
    turret.add(moving(50.0, 0.0, 7.0))  # the recording begins again
    assert turret.find("base", "camera", 50_000_000_000)[0][0, 3] == 7.0


def test_frames_that_nothing_connects(turret: RecordedTransforms) -> None:
    with pytest.raises(RosError, match="no path from frame 'nowhere'"):
        turret.find("base", "nowhere", 0)
