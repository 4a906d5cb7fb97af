# SPDX-License-Identifier: Apache-2.0
"""Synchronised messages to frames: calibration, registration, rasters, held messages."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from harness import camera_info, cloud, image
from numpy.typing import NDArray
from support.networks import spec_of

from mmsam_ros.ros.calibration import CameraInfos
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.frames import Adjustments, FrameBuilder
from mmsam_ros.ros.notes import Notes
from mmsam_ros.ros.parameters import opencv_homography
from mmsam_ros.ros.sets import Entry, SyncedSet
from mmsam_ros.sensors import LidarPoints, Refusal, Registration, SensorImage, pose_matrix
from mmsam_ros.sensors.limits import MAX_TEXT
from mmsam_ros.weights import Spec

ALIGNED = Registration()
BY_ROTATION = None
RGB = np.full((48, 64, 3), 80, np.uint8)
BOTH = "synthetic_rgb_lidar_thermal"
POINTS = np.array([[5, 0, 0, 0.5], [8, 1, 0, 0.1]], np.float32)


class Poses:
    """A fixed pose for every frame but "lost"."""

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        self.matrix = matrix

    def lookup(
        self, sensor: str, camera_frame: str, sensor_frame: str, time_ns: int
    ) -> NDArray[np.float64]:
        if sensor_frame == "lost":
            raise RosError("no pose", "no_extrinsics")
        return self.matrix


def builder(
    alignment: Registration | None = ALIGNED,
    *,
    pose: NDArray[np.float64] | None = None,
    spec: Spec | None = None,
) -> FrameBuilder:
    infos = CameraInfos()
    infos.update("camera", camera_info(0, 64, 48))
    infos.update("thermal", camera_info(0, 32, 24))
    poses = Poses(np.eye(4) if pose is None else pose)
    return FrameBuilder(spec or spec_of(BOTH), infos, poses, alignment)


def synced(**messages: Any) -> SyncedSet:
    entries = {n: Entry(n, 0, m, 0) for n, m in messages.items()}
    camera = Entry("camera", 0, image(0, RGB, "rgb8"), 0)
    return SyncedSet(camera, entries, frozenset())


def reasons(refused: dict[str, Refusal]) -> dict[str, str]:
    assert all(name == refusal.sensor for name, refusal in refused.items())
    return {name: refusal.reason for name, refusal in refused.items()}


def test_points_come_with_their_pose() -> None:
    pose = np.eye(4)
    pose[0, 3] = 0.25
    frame, refused = builder(pose=pose).build(synced(lidar=cloud(0, POINTS)))
    points = frame.sensors["lidar"]
    assert isinstance(points, LidarPoints)
    assert np.array_equal(points.xyz, POINTS[:, :3])
    assert np.array_equal(points.T_camera_lidar, pose)
    assert refused == {}
    assert frame.camera is not None


def test_refusals_name_their_stream_and_leave_the_rest() -> None:
    lost = cloud(0, POINTS)
    lost.header.frame_id = "lost"
    warm = image(0, np.zeros((24, 32), np.uint16), "mono16", "thermal")
    frame, refused = builder().build(synced(lidar=lost, thermal=warm))
    assert refused == {"lidar": Refusal("lidar", "no_extrinsics", "no pose")}
    assert set(frame.sensors) == {"thermal"}
    assert frame.camera is None, "nothing needs it"


def test_a_missing_camera_info_is_refused_for_each_sensor_that_needs_it() -> None:
    bare = FrameBuilder(spec_of(BOTH), CameraInfos(), Poses(np.eye(4)), BY_ROTATION)
    warm = image(0, np.zeros((24, 32), np.uint16), "mono16", "thermal")
    frame, refused = bare.build(synced(lidar=cloud(0, POINTS), thermal=warm))
    assert frame.sensors == {}
    assert reasons(refused) == {"lidar": "no_camera_info", "thermal": "no_camera_info"}
    assert "no CameraInfo received on camera/camera_info" in refused["lidar"].text


def test_a_projected_raster_needs_no_calibration() -> None:
    metres = np.random.default_rng(0).normal(size=(48, 64, 3)).astype(np.float32)
    frame, _ = builder(spec=spec_of("muses_rgb_lidar")).build(
        synced(lidar=image(0, metres, "32FC3"))
    )
    data = frame.sensors["lidar"]
    assert isinstance(data, SensorImage)
    assert np.array_equal(data.data, metres)


def test_a_held_message_is_decoded_once() -> None:
    build = builder()
    first = synced(lidar=cloud(0, POINTS))
    frame, _ = build.build(first)
    again = SyncedSet(first.camera, first.auxiliaries, frozenset({"lidar"}))
    held, _ = build.build(again)
    ours, theirs = frame.sensors["lidar"], held.sensors["lidar"]
    assert isinstance(ours, LidarPoints)
    assert isinstance(theirs, LidarPoints)
    assert ours.xyz is theirs.xyz


def homography(alignment: Registration | None, pose: NDArray[np.float64] | None = None) -> Any:
    warm = image(0, np.zeros((24, 32), np.uint16), "mono16", "thermal")
    frame, _ = builder(alignment, pose=pose).build(synced(thermal=warm))
    data = frame.sensors["thermal"]
    assert isinstance(data, SensorImage)
    return data.registration.homography


def test_registration_modes() -> None:
    assert homography(ALIGNED) is None
    for sign in (1.0, -1.0):  # the scale of a homography means nothing
        matrix = [sign * v for v in (2.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 1.0)]
        given = homography(opencv_homography(matrix))
        # OpenCV maps pixel 0 to pixel 0: centre 0.5 to centre 0.5
        np.testing.assert_allclose(given @ [0.5, 0.5, 1], [0.5, 0.5, 1])
    angle = 0.02
    turn = np.eye(4)
    turn[:3, :3] = [
        [np.cos(angle), 0, np.sin(angle)],
        [0, 1, 0],
        [-np.sin(angle), 0, np.cos(angle)],
    ]
    rotated = homography(BY_ROTATION, turn)
    centre = rotated @ [16, 12, 1]  # straight ahead of the thermal camera
    f = 0.7 * 64
    np.testing.assert_allclose(centre[:2] / centre[2], [32 + f * np.tan(angle), 24], atol=1e-9)


@pytest.mark.parametrize("values", [[1.0] * 8, [float("nan")] * 9, [1.0] * 9])
def test_wrong_homographies_are_refused(values: list[float]) -> None:
    with pytest.raises(RosError, match=r"thermal\.homography"):
        opencv_homography(values)


def test_calibrations_of_another_size_are_refused() -> None:
    """Warping by a model of another image size would be wrong without a word."""
    small = image(0, np.zeros((12, 16), np.uint16), "mono16", "thermal")
    frame, refused = builder(BY_ROTATION).build(synced(thermal=small))
    assert reasons(refused) == {"thermal": "camera_info"}
    assert "for an image of 32x24 pixels, the image has 16x12" in refused["thermal"].text
    assert frame.sensors == {}


def test_points_are_projected_with_the_camera_info_of_the_image_s_frame() -> None:
    """Two cameras send on one topic; the other one's message is the newest."""
    build = builder()
    other = camera_info(0, 64, 48)
    other.header.frame_id, other.k[0], other.p[0] = "other", 90.0, 90.0
    build.infos.update("camera", other)
    message = synced(lidar=cloud(0, POINTS))
    frame, _ = build.build(message)
    assert frame.camera is not None
    assert frame.camera.K[0, 0] == pytest.approx(0.7 * 64)
    message.camera.message.header.frame_id = "other"
    frame, _ = build.build(message)
    assert frame.camera is not None
    assert frame.camera.K[0, 0] == 90.0
    message.camera.message.header.frame_id = "third"
    frame, refused = build.build(message)
    assert frame.camera is None
    assert reasons(refused) == {"lidar": "camera_info"}


def test_intensity_is_refused_where_the_weights_read_it_and_it_is_missing() -> None:
    bare = cloud(0, POINTS, {"x": 0, "y": 4, "z": 8})
    _, refused = builder(spec=spec_of("muses_rgb_lidar")).build(synced(lidar=bare))
    assert reasons(refused) == {"lidar": "intensity"}
    spec = spec_of("muses_rgb_lidar")
    free = dataclasses.replace(spec.inputs["lidar"], encoding="lidar_gain")  # or of any unit
    free_spec = dataclasses.replace(spec, inputs={**spec.inputs, "lidar": free})
    frame, refused = builder(spec=free_spec).build(synced(lidar=bare))
    assert (refused, set(frame.sensors)) == ({}, {"lidar"})
    lidar = dataclasses.replace(
        spec.inputs["lidar"], fields=("range",) * 3, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    spec = dataclasses.replace(
        spec,
        inputs={**spec.inputs, "lidar": lidar},
        config=dataclasses.replace(spec.config, empty=lidar.empty),
    )
    frame, refused = builder(spec=spec).build(synced(lidar=bare))
    assert (refused, set(frame.sensors)) == ({}, {"lidar"})


MOUNT = pose_matrix([1.5, 0.1, 1.7], [0.0, 0.0, 0.38268343, 0.92387953])  # base_link <- lidar


class Tree:
    """TF of a vehicle: poses by target and source frame."""

    def __init__(self, **poses: NDArray[np.float64]) -> None:
        self.poses = poses

    def lookup(self, sensor: str, target: str, source: str, time_ns: int) -> NDArray[np.float64]:
        if f"{target}_{source}" not in self.poses:
            raise RosError("no pose", "no_extrinsics")
        return self.poses[f"{target}_{source}"]


@pytest.mark.parametrize("by", ["TF", "parameter"])
def test_points_are_brought_into_the_frame_of_the_sensor(by: str) -> None:
    """A driver that publishes in base_link; range and height must be those of the LiDAR."""
    to_camera = pose_matrix([0.0, 0.2, 0.1], [0.5, -0.5, 0.5, 0.5])  # camera <- lidar
    poses = {"camera_lidar": to_camera @ np.linalg.inv(MOUNT)}  # camera <- the cloud's frame
    if by == "TF":
        poses["velodyne_lidar"] = np.linalg.inv(MOUNT)
    given = None if by == "TF" else np.linalg.inv(MOUNT)
    made = builder()
    made = dataclasses.replace(
        made,
        poses=Tree(**poses),
        adjust=Adjustments("velodyne", given),  # type: ignore[arg-type]
    )
    base = POINTS.copy()
    base[:, :3] = POINTS[:, :3] @ MOUNT[:3, :3].T + MOUNT[:3, 3]
    messages = synced(lidar=cloud(0, base))
    frame, refused = made.build(messages)
    assert refused == {}
    points = frame.sensors["lidar"]
    assert isinstance(points, LidarPoints)
    np.testing.assert_allclose(points.xyz, POINTS[:, :3], atol=1e-5)
    np.testing.assert_allclose(points.T_camera_lidar, to_camera, atol=1e-9)
    assert made.frame_ids(messages) == {"camera": "camera", "lidar": "velodyne"}


def test_a_frame_of_the_sensor_that_is_not_known_is_named() -> None:
    made = dataclasses.replace(
        builder(),
        poses=Tree(camera_lidar=np.eye(4)),
        adjust=Adjustments("velodyne"),  # type: ignore[arg-type]
    )
    frame, refused = made.build(synced(lidar=cloud(0, POINTS)))
    assert frame.sensors == {}
    assert refused["lidar"].reason == "no_extrinsics"
    text = refused["lidar"].text
    assert all(word in text for word in ("'lidar'", "lidar.frame 'velodyne'", "lidar.frame_pose"))


@pytest.mark.parametrize("alignment", [ALIGNED, BY_ROTATION])
def test_limits_and_polarity_go_with_the_thermal_image(alignment: Registration | None) -> None:
    adjust = Adjustments(thermal_limits=(27000.0, 31000.0), thermal_inverted=True)
    made = dataclasses.replace(builder(alignment), adjust=adjust)
    warm = image(0, np.zeros((24, 32), np.uint16), "mono16", "thermal")
    data = made.build(synced(thermal=warm))[0].sensors["thermal"]
    assert isinstance(data, SensorImage)
    assert (data.limits, data.inverted) == ((27000.0, 31000.0), True)


def test_no_returns_and_the_vehicle_stay_out_in_another_frame() -> None:
    """Points within 1 m of the sensor, 0, 0, 0 among them, would be farther from lidar.frame."""
    near = [[0, 0, 0, 9], [0.6, -0.4, 0.1, 9], [0.3, 0.9, 0.2, 9]]
    given = cloud(0, np.array([*near, *POINTS], np.float32))
    build = dataclasses.replace(
        builder(pose=pose_matrix((1.5, 0, 2), (0, 0, 0, 1))), adjust=Adjustments(lidar_frame="base")
    )
    frame, _ = build.build(synced(lidar=given))
    points = frame.sensors["lidar"]
    assert isinstance(points, LidarPoints)
    distance = np.linalg.norm(points.xyz, axis=1)
    assert np.array_equal(distance < 1, [True] * 3 + [False] * 2)
    np.testing.assert_allclose(points.xyz[3:], POINTS[:, :3] + (1.5, 0, 2), atol=1e-6)


def confirmed(
    width: int, height: int, *, info: Any = None, frames: int = 5, stream: str = "thermal"
) -> tuple[list[str], dict[str, str]]:
    """What is logged of an image without registration, and said in diagnostics."""
    said: list[str] = []
    notes = Notes(said.append, lambda text: said.append(f"warning {text}"))
    spec = spec_of("muses_rgb_lidar") if stream == "lidar" else None
    build = dataclasses.replace(builder(spec=spec), notes=notes)
    build.infos._received.pop("thermal")
    if info is not None:
        build.infos.update("thermal", info)
    pixels: Any = np.ones((height, width), np.uint16)
    if stream == "lidar":
        pixels = np.ones((height, width, 3), np.float32)
    given = image(0, pixels, "32FC3" if stream == "lidar" else "mono16", stream)
    for _ in range(frames):
        build.build(synced(**{stream: given}))
    return said, build.views


UNCALIBRATED = camera_info(0, 32, 24)
UNCALIBRATED.k = UNCALIBRATED.p[:9] = np.zeros(9)


@pytest.mark.parametrize(
    ("size", "info", "text"),
    [
        ((32, 24), None, "warning thermal: its image of 32x24 pixels beside 64x48 is taken to show "
         "exactly the camera's view by thermal.registration 'none', and nothing confirms it (no"),
        ((32, 24), camera_info(0, 64, 48), "warning thermal: its image of 32x24"),
        ((32, 24), UNCALIBRATED, "warning thermal: its"),
        ((64, 48), None, "thermal: its image of 64x48 pixels beside 64x48 is taken"),
    ],
)  # fmt: skip
def test_a_view_that_nothing_confirms_is_said_once(
    size: tuple[int, int], info: Any, text: str
) -> None:
    said, views = confirmed(*size, info=info)
    assert len(said) == 1
    assert said[0].startswith(text)
    assert said[0].endswith("set thermal.registration to 'rotation' or 'homography'")
    assert views["thermal"].startswith("taken to show exactly the camera's view")
    assert confirmed(*size, info=info, frames=2)[0] == [], "a CameraInfo may come later"


def test_a_view_that_is_known_or_refused_needs_no_word() -> None:
    assert confirmed(32, 24, info=camera_info(0, 32, 24)) == ([], {})
    assert confirmed(24, 32) == ([], {}), "another shape"


def test_long_texts_of_a_sender_are_shortened() -> None:
    """In refusals, which are kept for a while, and in diagnostics."""
    odd = camera_info(0, 32, 24)
    odd.distortion_model = "d" * 10**6
    _, views = confirmed(32, 24, info=odd)
    assert len(views["thermal"]) <= MAX_TEXT

    def lookup(sensor: str, target: str, source: str, time_ns: int) -> NDArray[np.float64]:
        raise RosError(f"no way to {source}", "no_extrinsics")

    build = builder()
    build.poses.lookup = lookup  # type: ignore[method-assign]
    lost = cloud(0, POINTS)
    lost.header.frame_id = "f" * 10**6
    _, refused = build.build(synced(lidar=lost))
    assert reasons(refused) == {"lidar": "no_extrinsics"}
    assert len(refused["lidar"].text) <= MAX_TEXT


def test_the_view_of_a_raster_is_said_as_well() -> None:
    said, views = confirmed(32, 24, stream="lidar")
    assert said == [
        "lidar: its image of 32x24 pixels beside 64x48 is taken to show exactly the camera's view. "
        "If it does not, publish it in that view"
    ]
    assert views == {"lidar": "taken to show exactly the camera's view"}
