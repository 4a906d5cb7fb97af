# SPDX-License-Identifier: Apache-2.0
"""CameraInfos of several cameras on one topic: which of them an image has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmsam_ros.ros.calibration import CameraInfos
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.notes import Notes


def of_frame(frame: str, focal: float, **changes: Any) -> SimpleNamespace:
    k = np.array([[focal, 0, 320.0], [0, focal, 240.0], [0, 0, 1]])
    values = {
        "width": 640, "height": 480, "k": k.ravel(), "d": [], "distortion_model": "plumb_bob",
        "r": np.eye(3).ravel(), "p": np.column_stack([k, np.zeros(3)]).ravel(), "binning_x": 0,
        "binning_y": 0, "roi": SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0),
        "header": SimpleNamespace(frame_id=frame),
    }  # fmt: skip
    return SimpleNamespace(**values | changes)


@pytest.mark.parametrize(
    ("sent", "frame", "expected"),
    [
        ("a", "a", 300.0),
        ("ab", "a", 300.0),
        ("ababab", "a", 300.0),
        ("ababab", "b", 400.0),
        ("ababab", "/a", 300.0),  # as drivers of ROS 1 times write it
        ("a" + "cdefgh" + "b", "a", 300.0),
        ("ab", "c", "several cameras send CameraInfo, of frames 'a', 'b', and none is for"),
        ("ab", "", "none is for frame ''"),
        # of a frame that counts up, the last eight
        ("abcdefghi", "a", "several cameras"),
        ("abcdefghi", "b", 400.0),
    ],
)  # fmt: skip
def test_of_cameras_on_one_topic_the_image_s_own_is_taken(
    sent: str, frame: str, expected: float | str
) -> None:
    said: list[str] = []
    infos = CameraInfos(notes=Notes(log_warning=said.append))
    focals = {name: 300.0 + 100 * k for k, name in enumerate("abcdefghi")}
    for name in sent:
        infos.update("camera", of_frame(name, focals[name]))
    if isinstance(expected, str):
        with pytest.raises(RosError, match=expected) as caught:
            infos.model("camera", 480, 640, frame)
        assert caught.value.reason == "camera_info"
        assert "give each camera a topic of its own" in str(caught.value)
    else:
        assert infos.model("camera", 480, 640, frame).K[0, 0] == expected
    assert said == []


def test_a_camera_info_of_another_frame_is_used_and_said_once() -> None:
    said: list[str] = []
    infos = CameraInfos(notes=Notes(log_warning=said.append))
    for focal in (300.0, 400.0):
        infos.update("camera", of_frame("a", focal))
        for frame in ("b", ""):  # an empty one says nothing
            assert infos.model("camera", 480, 640, frame).K[0, 0] == focal
    assert len(said) == 1
    assert "is of frame 'a', the image of frame 'b': it is used" in said[0]
    infos.update("thermal", of_frame("", 500.0))
    assert infos.model("thermal", 480, 640, "b").K[0, 0] == 500.0
    assert len(said) == 1


def test_the_own_camera_info_must_have_the_image_s_size() -> None:
    infos = CameraInfos()
    infos.update("camera", of_frame("a", 300.0, width=1280, height=960))
    infos.update("camera", of_frame("b", 300.0))
    with pytest.raises(RosError, match="1280x960 pixels, the image has 640x480"):
        infos.model("camera", 480, 640, "a")
