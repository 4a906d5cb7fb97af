# SPDX-License-Identifier: Apache-2.0
"""The LiDAR of a car at 15 m/s, which moves 1.5 m within a sweep: synthetic, with known poses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from domains import free_domain
from geometry_msgs.msg import TwistStamped
from harness import camera_info, header, image, running
from sensor_msgs.msg import PointCloud2, PointField
from support.networks import spec_of

from mmsam_ros.ros.calibration import CameraInfos
from mmsam_ros.ros.clouds import Points
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.frames import FrameBuilder
from mmsam_ros.ros.motion import STALE, CloudMotion
from mmsam_ros.ros.notes import Notes
from mmsam_ros.ros.sets import Entry, SyncedSet
from mmsam_ros.sensors import LidarPoints, Registration, project
from mmsam_ros.sensors.limits import MAX_TEXT
from mmsam_ros.sensors.motion import twist_at
from mmsam_ros.world import Vehicle, build_street, make_rig
from mmsam_ros.world.bag import POINT
from mmsam_ros.world.lidar import Cloud

SPEED, TIME, STAMP = 15.0, 2.0, 1_700_000_000_000_000_000
EXACT, PIXELS = 0.02, 1.0  # metres and pixels that compensated points may be off
SPEC = spec_of("synthetic_rgb_lidar_thermal")


@pytest.fixture(scope="module")
def car() -> Vehicle:
    world = build_street(3, seconds=6.0)
    ego = replace(world.ego, speed=SPEED, sway=0.3)
    return Vehicle(replace(world, ego=ego), make_rig(320, 240, steps=256, compensated=False))


@pytest.fixture(scope="module")
def sweep(car: Vehicle) -> Cloud:
    return car.lidar(TIME)


def place(car: Vehicle, time: float) -> np.ndarray:
    return np.asarray(car.world.ego.at(time) @ car.rig.lidar.T_base)


def truth(car: Vehicle, cloud: Cloud, time: float) -> np.ndarray:
    """The points in the LiDAR's frame at a time, by the poses of the world."""
    back, out = np.linalg.inv(place(car, time)), np.empty_like(cloud.xyz)
    for moment in np.unique(cloud.time):
        T, rows = back @ place(car, TIME + float(moment)), cloud.time == moment
        out[rows] = cloud.xyz[rows] @ T[:3, :3].T + T[:3, 3]
    return out


def pixels_of(car: Vehicle, points: np.ndarray) -> np.ndarray:
    """(N, 2) where points fall in the image; NaN beside it."""
    index, u, v, _ = project(points, car.rig.camera_model, car.rig.T_camera_lidar)
    out = np.full((len(points), 2), np.nan)
    out[index] = np.stack([u, v], axis=1)
    return out


def message(cloud: Cloud, name: str = "time") -> PointCloud2:
    """As the bag's writer makes it, for ROS."""
    points = np.zeros(len(cloud.xyz), POINT)
    points["x"], points["y"], points["z"] = cloud.xyz.T
    points["intensity"], points["time"] = cloud.intensity, cloud.time
    found = PointCloud2(header=header(STAMP, "lidar"), height=1, width=len(points))
    fields = POINT.fields or {}
    found.fields = [
        PointField(
            name=name if n == "time" else n, offset=o, datatype=4 if n == "ring" else 7, count=1
        )
        for n, (_, o, *_) in fields.items()
    ]
    found.point_step, found.row_step = POINT.itemsize, points.nbytes
    found.data.frombytes(points.tobytes())
    return found


class Poses:
    """Where the LiDAR is in the vehicle, and what TF would say of its motion."""

    def __init__(self, car: Vehicle) -> None:
        self.car, self.moves = car, True

    def lookup(self, sensor: str, target: str, source: str, time_ns: int) -> np.ndarray:
        rig = self.car.rig
        return rig.T_camera_lidar if target == "camera" else rig.lidar.T_base

    def twist(self, fixed: str, frame: str, time_ns: int, stale: float) -> Any:
        if not self.moves:
            raise RosError("TF says: no")
        velocity = self.car.twist(TIME + (time_ns - STAMP) / 1e9)
        return twist_at(*velocity, self.car.rig.lidar.T_base)


class Rig:
    """A frame builder that compensates, and what it notes."""

    def __init__(self, car: Vehicle, by: str = "twist") -> None:
        self.said: list[str] = []
        self.poses, self.car = Poses(car), car
        self.motion = CloudMotion(
            self.poses,
            by,
            "odom",
            None,
            Notes(self.said.append, self.said.append),  # type: ignore[arg-type]
        )
        infos = CameraInfos()
        info = camera_info(0, 320, 240)
        info.k = car.rig.camera.K.reshape(-1).tolist()
        info.p = np.insert(car.rig.camera.K, 3, 0, axis=1).reshape(-1).tolist()
        infos.update("camera", info)
        self.builder = FrameBuilder(
            SPEC,
            infos,
            self.poses,
            Registration(),
            motion=self.motion,  # type: ignore[arg-type]
        )

    def drive(self, *, until: float = 0.5, stamped: int = STAMP) -> None:
        for after in np.arange(-0.5, until, 0.02):
            found = TwistStamped(header=header(stamped + int(after * 1e9), "base_link"))
            linear, angular = self.car.twist(TIME + after)
            for vector, values in ((found.twist.linear, linear), (found.twist.angular, angular)):
                vector.x, vector.y, vector.z = map(float, values)
            self.motion.update(found)

    def points(self, cloud: PointCloud2, after: float = 0.0) -> LidarPoints:
        """Those of the frame whose image is stamped so many seconds after the cloud."""
        stamp = STAMP + round(after * 1e9)
        picture = image(stamp, np.zeros((240, 320, 3), np.uint8), "rgb8", "camera")
        entries = Entry("camera", stamp, picture, stamp), Entry("lidar", STAMP, cloud, STAMP)
        synced = SyncedSet(entries[0], {"lidar": entries[1]}, frozenset())
        frame, refused = self.builder.build(synced)
        assert not refused
        found = frame.sensors["lidar"]
        assert isinstance(found, LidarPoints)
        return found


def test_a_sweep_at_15_m_s_is_distorted_by_a_metre_and_a_half(car: Vehicle, sweep: Cloud) -> None:
    """The synthetic sweep itself: by the poses of each firing its points are on the surfaces."""
    late = sweep.time > 0.099
    assert np.linalg.norm(sweep.xyz - truth(car, sweep, TIME), axis=1)[late] == pytest.approx(
        1.5, abs=0.1
    )
    T, medians = place(car, TIME), []
    for points in (truth(car, sweep, TIME), sweep.xyz):
        far = np.linalg.norm(points, axis=1)
        hits = car.caster.cast(T[:3, 3], (points / far[:, None]) @ T[:3, :3].T, TIME)
        # the ground is as flat as the motion; 1.77 m below the LiDAR
        judged = (sweep.time > 0.05) & (points[:, 2] > -1.4)
        medians.append(np.median(np.abs(hits.distance - far)[judged]))
    assert medians[0] < 0.03
    assert medians[1] > 0.3


@pytest.mark.parametrize("by", ["twist", "tf"])
@pytest.mark.parametrize("after", [0.0, 0.05, 0.15, -0.03])
def test_points_are_where_they_are_at_the_image(
    car: Vehicle, sweep: Cloud, by: str, after: float
) -> None:
    rig = Rig(car, by)
    rig.drive()
    found = rig.points(message(sweep), after)
    right = truth(car, sweep, TIME + after)
    assert np.linalg.norm(found.xyz - right, axis=1).max() < EXACT
    assert rig.said == []
    assert rig.motion.state.startswith(f"by {by}: 15.")
    seen = pixels_of(car, right)
    near = np.linalg.norm(right, axis=1) > 3
    inside = near & np.isfinite(seen).all(axis=1)
    assert inside.sum() > 300
    assert np.nanmax(np.abs(pixels_of(car, found.xyz) - seen)[inside]) < PIXELS
    raw = np.abs(pixels_of(car, sweep.xyz) - seen)[inside].max(axis=1)
    assert np.nanpercentile(raw, 95) > 3 * PIXELS


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("field", "the cloud has no time of its points: fields are 'x', 'y', 'z', 'intensity', 'r"),
        ("zero", "field 'time' is no time of the points: its values are 0 to 0"),
        ("clock", "field 'timestamp' is no time of the points: its values are 5000."),
        ("silent", "no message on vehicle/twist yet"),
        ("stale", f"vehicle/twist has nothing within {STALE} s of the image, the nearest is -0.4"),
        ("wild", "velocity is [1500.0, 0.0, 0.0] m/s"),
        ("place", "no transform from frame 'lidar' of the cloud to 'base_link' of vehicle/twist"),
        ("tf", "TF says: no"),
    ],
)
def test_what_is_missing_is_said_once_and_the_cloud_used_as_it_is(
    car: Vehicle, sweep: Cloud, spoil: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, name, cloud = Rig(car, "tf" if spoil == "tf" else "twist"), "time", sweep
    if spoil == "field":
        name = "curvature"
    elif spoil == "zero":
        cloud = replace(sweep, time=np.zeros_like(sweep.time))
    elif spoil == "clock":
        name, cloud = "timestamp", replace(sweep, time=sweep.time + np.float32(5000))
    elif spoil == "wild":
        monkeypatch.setattr(car, "twist", lambda time: np.array([[1500.0, 0, 0], [0, 0, 0]]))
    elif spoil == "place":
        lookup = rig.poses.lookup

        def missing(sensor: str, target: str, source: str, time_ns: int) -> np.ndarray:
            if target == "base_link":
                raise RosError("no", "no_extrinsics")
            return lookup(sensor, target, source, time_ns)

        monkeypatch.setattr(rig.poses, "lookup", missing)
    rig.poses.moves = False
    if spoil == "stale":
        rig.drive(until=-0.4)
    elif spoil != "silent":
        rig.drive()
    for _ in range(3):
        found = rig.points(message(cloud, name))
        assert np.array_equal(found.xyz, cloud.xyz)
    assert len(rig.said) == 1
    assert said in rig.said[0]
    assert rig.motion.state.startswith("not compensated: ")


def test_long_names_of_frames_are_shortened(car: Vehicle, sweep: Cloud) -> None:
    rig = Rig(car)
    rig.drive()
    for twist in rig.motion._twists:
        twist.header.frame_id = "f" * 10**6

    def missing(*_: Any) -> np.ndarray:
        raise RosError("no", "no_extrinsics")

    entry = Entry("lidar", STAMP, message(sweep), STAMP)
    rig.motion.poses.lookup = missing  # type: ignore[method-assign]
    points = Points(sweep.xyz, sweep.intensity, np.asarray(sweep.time, np.float64), "")
    rig.motion.compensated(points, entry, entry)
    assert rig.motion.state.startswith("not compensated: no transform")
    assert len(rig.motion.state) <= MAX_TEXT


def test_the_pose_in_the_frame_of_the_twist_may_be_a_parameter(car: Vehicle, sweep: Cloud) -> None:
    rig = Rig(car)
    rig.drive()
    expected = rig.points(message(sweep)).xyz

    def missing(*_: Any) -> np.ndarray:
        raise RosError("no", "no_extrinsics")

    rig.motion.poses = SimpleNamespace(lookup=missing)  # type: ignore[assignment]
    rig.motion.pose = car.rig.lidar.T_base
    assert np.array_equal(rig.points(message(sweep)).xyz, expected)


def test_without_the_parameter_nothing_is_moved(car: Vehicle, sweep: Cloud) -> None:
    rig = Rig(car)
    plain = replace(rig.builder, motion=None)
    rig.builder = plain
    assert np.array_equal(rig.points(message(sweep)).xyz, sweep.xyz)


@pytest.mark.dds
def test_the_node_reads_the_twist(weights: Path) -> None:
    given = (f"weights:={weights}", "device:=cpu", "lidar.motion:=twist")
    words = [word for value in given for word in ("-p", value)]
    with running(free_domain(5), *words) as (_, client):
        twist = client.publisher(TwistStamped, "/vehicle/twist")
        arrays = client.record(DiagnosticArray, "/diagnostics")

        def is_read() -> bool:
            twist.publish(TwistStamped(header=header(STAMP, "base_link")))
            statuses = {s.name.rpartition(": ")[2]: s for array in arrays for s in array.status}
            values = {v.key: v.value for v in statuses["input twist"].values} if arrays else {}
            return float(values.get("rate_hz", 0)) > 0

        client.spin_until(is_read, "messages of vehicle/twist")
        assert client.diagnostics()["topic.twist"] == "/vehicle/twist"
