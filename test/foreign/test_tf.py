# SPDX-License-Identifier: Apache-2.0
"""Poses in TF as drivers publish them. tf2_ros is not on pip: a module in its place answers as its
documentation says, so that only what we ask and make of the answers is tested here.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from harness import camera_info, cloud, image
from rclpy.time import Time
from support.networks import spec_of

from mmsam_ros.ros.calibration import LATE, WAY, CameraInfos, Extrinsics
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.frames import FrameBuilder
from mmsam_ros.ros.sets import Entry, SyncedSet
from mmsam_ros.sensors import LidarPoints, Registration

POSE = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]  # a parameter; TF has other values of x


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(f"info {text}")

    def warning(self, text: str) -> None:
        self.lines.append(f"warning {text}")


class RefusedError(Exception):
    pass


class TooEarlyError(RefusedError):
    pass


class Tree:
    """What TF knows: static frames, and a moving one whose x is its stamp in seconds."""

    def __init__(self, **_: Any) -> None:
        self.static = {"lidar": 2.0}
        self.newest = 0  # nanoseconds, of the frame "arm"
        self.asked = 0

    def lookup_transform(self, target: str, source: str, time: Time) -> Any:
        self.asked += 1
        if target != "camera" or source not in (*self.static, "arm"):
            raise RefusedError(f'"{source}" passed to lookupTransform does not exist.')
        stamp, x = 0, self.static.get(source, 0.0)
        if source == "arm":
            stamp = time.nanoseconds or self.newest
            if stamp > self.newest:
                raise TooEarlyError("would require extrapolation into the future")
            x = stamp / 1e9
        sent = Time(nanoseconds=stamp).to_msg()
        vector = SimpleNamespace(x=x, y=0.0, z=0.0)
        turn = SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0)
        transform = SimpleNamespace(translation=vector, rotation=turn)
        return SimpleNamespace(header=SimpleNamespace(stamp=sent), transform=transform)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    tree, log = Tree(), Log()
    module = ModuleType("tf2_ros")
    module.Buffer = lambda node: tree  # type: ignore[attr-defined]
    module.TransformListener = lambda buffer, node: None  # type: ignore[attr-defined]
    module.TransformException = RefusedError  # type: ignore[attr-defined]
    module.ExtrapolationException = TooEarlyError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tf2_ros", module)
    return SimpleNamespace(tree=tree, log=log, node=SimpleNamespace(get_logger=lambda: log))


def x_of(matrix: np.ndarray) -> float:
    return float(matrix[0, 3])


@pytest.mark.parametrize("camera", ["camera", "/camera", "//camera"])
@pytest.mark.parametrize("lidar", ["lidar", "/lidar"])
def test_leading_slashes(world: SimpleNamespace, camera: str, lidar: str) -> None:
    poses = Extrinsics(world.node, {})
    assert x_of(poses.lookup("lidar", camera, lidar, 5)) == 2.0


def test_a_static_pose_is_asked_for_once_in_a_while(world: SimpleNamespace) -> None:
    poses = Extrinsics(world.node, {})
    for _ in range(50):
        poses.lookup("lidar", "camera", "lidar", 5)
    assert world.tree.asked < 50
    assert world.log.lines == ["info lidar: pose found from frame 'lidar' to frame 'camera'"]


def test_a_moving_sensor_has_the_pose_of_its_message(world: SimpleNamespace) -> None:
    poses, second = Extrinsics(world.node, {}), 10**9
    world.tree.newest = 10 * second
    assert x_of(poses.lookup("lidar", "camera", "arm", 7 * second)) == 7.0
    # TF comes a little later than the message: the newest will do
    late = 10 * second + LATE
    assert x_of(poses.lookup("lidar", "camera", "arm", late)) == 10.0
    with pytest.raises(RosError, match="extrapolation into the future") as caught:
        poses.lookup("lidar", "camera", "arm", late + 1)
    assert caught.value.reason == "no_extrinsics"


def test_the_parameter_until_tf_has_the_pose(world: SimpleNamespace) -> None:
    poses, static = Extrinsics(world.node, {"lidar": POSE}), world.tree.static
    del static["lidar"]
    for _ in range(3):
        assert x_of(poses.lookup("lidar", "camera", "lidar", 5)) == 1.0
    static["lidar"] = 2.0
    for _ in range(3):
        assert x_of(poses.lookup("lidar", "camera", "lidar", 5)) == 2.0
    first, second = world.log.lines
    assert first.startswith(
        "warning lidar: no pose from frame 'lidar' to frame 'camera' in TF: parameter "
        "lidar.extrinsics is used (TF says:"
    )
    assert second == "info lidar: pose found from frame 'lidar' to frame 'camera'"


def test_pose_found_when_it_comes(world: SimpleNamespace) -> None:
    poses, static = Extrinsics(world.node, {}), world.tree.static
    del static["lidar"]
    for _ in range(3):
        with pytest.raises(RosError, match=r"no transform from frame 'lidar' .* \(TF says: "):
            poses.lookup("lidar", "camera", "lidar", 5)
    assert world.log.lines == []
    static["lidar"] = 2.0
    poses.lookup("lidar", "camera", "lidar", 5)
    assert world.log.lines == ["info lidar: pose found from frame 'lidar' to frame 'camera'"]


@pytest.mark.parametrize(("camera", "lidar"), [("", "lidar"), ("camera", ""), ("/", "/")])
def test_empty_frames(world: SimpleNamespace, camera: str, lidar: str) -> None:
    with pytest.raises(RosError, match=r"header\.frame_id is empty"):
        Extrinsics(world.node, {}).lookup("lidar", camera, lidar, 5)
    poses = Extrinsics(world.node, {"lidar": POSE})
    assert x_of(poses.lookup("lidar", camera, lidar, 5)) == 1.0


def test_one_frame_for_all(world: SimpleNamespace) -> None:
    """A cloud in the camera's frame needs no pose; but a parameter that is set is meant."""
    same = Extrinsics(world.node, {}).lookup("lidar", "camera", "/camera", 5)
    assert np.array_equal(same, np.eye(4))
    poses = Extrinsics(world.node, {"lidar": POSE})
    assert x_of(poses.lookup("lidar", "base", "base", 5)) == 1.0


def test_without_tf2(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    poses = Extrinsics(world.node, {"lidar": POSE})
    assert x_of(poses.lookup("lidar", "camera", "lidar", 5)) == 1.0
    assert poses.source == "parameters"
    assert len(world.log.lines) == 1
    with pytest.raises(RosError, match="tf2_ros is not installed"):
        poses.lookup("thermal", "camera", "ir", 5)


def test_a_corrected_stamp_is_that_of_the_pose(world: SimpleNamespace) -> None:
    """The LiDAR's clock is 3 s ahead, and `lidar.offset` says so."""
    second, infos = 10**9, CameraInfos()
    world.tree.newest = 20 * second
    infos.update("camera", camera_info(0, 64, 48))
    spec = spec_of("synthetic_rgb_lidar_thermal")
    build = FrameBuilder(spec, infos, Extrinsics(world.node, {}), Registration()).build
    picture = image(10 * second, np.full((48, 64, 3), 80, np.uint8), "rgb8", "camera")
    points = cloud(13 * second, np.array([[5, 0, 0, 0.5]], np.float32))
    points.header.frame_id = "arm"
    camera = Entry("camera", 10 * second, picture, 10 * second)
    lidar = Entry("lidar", 13 * second, points, 10 * second)
    frame, refused = build(SyncedSet(camera, {"lidar": lidar}, frozenset()))
    assert refused == {}
    seen = frame.sensors["lidar"]
    assert isinstance(seen, LidarPoints)
    assert x_of(seen.T_camera_lidar) == 10.0


def test_a_velocity_at_the_beginning_of_a_simulation(world: SimpleNamespace) -> None:
    """There is no time before 0."""
    poses = Extrinsics(world.node, {})
    world.tree.newest = WAY // 2
    with pytest.raises(RosError, match="begins later"):
        poses.twist("camera", "arm", WAY // 2, 1.0)
    world.tree.newest = 2 * WAY
    speed, _ = poses.twist("camera", "arm", 2 * WAY, 1.0)
    assert speed[0] == pytest.approx(1.0)
