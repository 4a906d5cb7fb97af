# SPDX-License-Identifier: Apache-2.0
"""Writes a drive as a ROS 2 bag: three sensors at their own rates, calibration, ground truth."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags import interfaces as qos
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mmsam_ros.data.errors import DataError
from mmsam_ros.sensors import pose_values
from mmsam_ros.world.camera import PinholeSpec
from mmsam_ros.world.lidar import Cloud
from mmsam_ros.world.vehicle import OFFSETS, Rig, Vehicle

START = 1_700_000_000_000_000_000  # stamp of the drive's first instant, nanoseconds
TOPICS = {
    "/tf_static": "tf2_msgs/msg/TFMessage",
    "/camera/image": "sensor_msgs/msg/Image",
    "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
    "/lidar/points": "sensor_msgs/msg/PointCloud2",
    "/thermal/image": "sensor_msgs/msg/Image",
    "/thermal/camera_info": "sensor_msgs/msg/CameraInfo",
    "/ground_truth/semantic": "sensor_msgs/msg/Image",
}
TWIST, TWIST_RATE = {"/vehicle/twist": "geometry_msgs/msg/TwistStamped"}, 50.0  # Hz
_NAMES = ("x", "y", "z", "intensity", "ring", "time")
POINT = np.dtype([(name, "<u2" if name == "ring" else "<f4") for name in _NAMES], align=True)
_FIELD_TYPES = {"<f4": 7, "<u2": 4}  # sensor_msgs/PointField FLOAT32, UINT16
_FRAMES = {"camera": "camera_optical", "lidar": "lidar", "thermal": "thermal_optical"}
_STORE = get_typestore(Stores.ROS2_JAZZY)
_TYPES: Any = _STORE.types  # made at run time, so there are no static types
_NEVER = qos.QosTime(9223372036, 854775807)
_QOS = qos.Qos(
    qos.QosHistory.KEEP_LAST, 10, qos.QosReliability.RELIABLE, qos.QosDurability.VOLATILE,
    _NEVER, _NEVER, qos.QosLiveliness.AUTOMATIC, _NEVER, False,
)  # fmt: skip
# as tf2 publishes /tf_static
_LATCHED = _QOS._replace(depth=1, durability=qos.QosDurability.TRANSIENT_LOCAL)


def write_bag(
    folder: Path, vehicle: Vehicle, seconds: float, report: Callable[[float], None] | None = None
) -> dict[str, int]:
    """Render `seconds` of a drive into the new rosbag2 `folder` (MCAP); returns messages per topic.

    Messages are in the order of their stamps, which are also their recording times. `report` is
    called with the share that is done. If the LiDAR's motion is not compensated, the vehicle's
    velocity is among them. DataError: the folder exists, or `seconds` is too short for one camera
    image.
    """
    rig = vehicle.rig
    if folder.exists():
        raise DataError(f"{folder} exists, expected a new folder for the bag")
    if not len(rig.stamps("camera", seconds)):
        raise DataError(f"seconds is {seconds}, expected enough for one camera image")
    due = sorted((int(ns), sensor) for sensor in OFFSETS for ns in rig.stamps(sensor, seconds))
    if not rig.lidar.compensated:
        times = np.arange(0, seconds, 1 / TWIST_RATE)
        due = sorted([*due, *((round(time * 1e9), "twist") for time in times)])
    topics = TOPICS if rig.lidar.compensated else TOPICS | TWIST
    counts = dict.fromkeys(topics, 0)
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for topic, kind in topics.items():
            profiles = [_LATCHED if topic == "/tf_static" else _QOS]
            connections[topic] = writer.add_connection(
                topic, kind, typestore=_STORE, offered_qos_profiles=profiles
            )

        def write(topic: str, stamp: int, message: Any) -> None:
            writer.write(connections[topic], stamp, _STORE.serialize_cdr(message, topics[topic]))
            counts[topic] += 1

        write("/tf_static", START, _transforms(rig))
        for done, (time, sensor) in enumerate(due, start=1):
            for topic, message in _messages(vehicle, sensor, time):
                write(topic, START + time, message)
            if report:
                report(done / len(due))
    return counts


def _messages(vehicle: Vehicle, sensor: str, nanoseconds: int) -> Iterator[tuple[str, Any]]:
    """Topics and messages of a sensor's frame at a time from the start of the drive."""
    time, header = (
        nanoseconds * 1e-9,
        _header(START + nanoseconds, _FRAMES.get(sensor, "base_link")),
    )
    if sensor == "twist":
        velocity = [
            _TYPES["geometry_msgs/msg/Vector3"](*map(float, v)) for v in vehicle.twist(time)
        ]
        twist = _TYPES["geometry_msgs/msg/Twist"](*velocity)
        yield "/vehicle/twist", _TYPES["geometry_msgs/msg/TwistStamped"](header=header, twist=twist)
        return
    if sensor == "lidar":
        yield "/lidar/points", _cloud(vehicle.lidar(time), header)
        return
    yield f"/{sensor}/camera_info", _camera_info(getattr(vehicle.rig, sensor), header)
    if sensor == "camera":
        picture = vehicle.camera(time)
        yield "/camera/image", _image(picture.rgb, "rgb8", header)
        yield "/ground_truth/semantic", _image(picture.labels, "mono8", header)
    else:
        yield "/thermal/image", _image(vehicle.thermal(time), "mono16", header)


def _header(stamp: int, frame: str) -> Any:
    time = _TYPES["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
    return _TYPES["std_msgs/msg/Header"](stamp=time, frame_id=frame)


def _image(image: NDArray[Any], encoding: str, header: Any) -> Any:
    height, width = image.shape[:2]
    data = np.ascontiguousarray(image).view(np.uint8).reshape(-1)
    return _TYPES["sensor_msgs/msg/Image"](
        header=header, height=height, width=width, encoding=encoding, is_bigendian=0,
        step=len(data) // height, data=data,
    )  # fmt: skip


def _camera_info(spec: PinholeSpec, header: Any) -> Any:
    roi = _TYPES["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, do_rectify=False)
    return _TYPES["sensor_msgs/msg/CameraInfo"](
        header=header, height=spec.height, width=spec.width, distortion_model="plumb_bob",
        d=np.zeros(5), k=spec.K.reshape(-1), r=np.eye(3).reshape(-1),
        p=np.insert(spec.K, 3, 0, axis=1).reshape(-1), binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip


def _cloud(cloud: Cloud, header: Any) -> Any:
    points = np.zeros(len(cloud.xyz), POINT)
    points["x"], points["y"], points["z"] = cloud.xyz.T
    points["intensity"], points["ring"], points["time"] = cloud.intensity, cloud.ring, cloud.time
    field = _TYPES["sensor_msgs/msg/PointField"]
    fields = [
        field(name=name, offset=offset, datatype=_FIELD_TYPES[dtype.str], count=1)
        for name, (dtype, offset, *_) in (POINT.fields or {}).items()
    ]
    return _TYPES["sensor_msgs/msg/PointCloud2"](
        header=header, height=1, width=len(points), fields=fields, is_bigendian=False,
        point_step=POINT.itemsize, row_step=points.nbytes, data=points.view(np.uint8).reshape(-1),
        is_dense=True,
    )  # fmt: skip


def _transforms(rig: Rig) -> Any:
    """base_link -> every sensor's frame."""
    header, transforms = _header(START, "base_link"), []
    for sensor, child in _FRAMES.items():
        px, py, pz, x, y, z, w = pose_values(getattr(rig, sensor).T_base)
        shift = _TYPES["geometry_msgs/msg/Vector3"](x=px, y=py, z=pz)
        turn = _TYPES["geometry_msgs/msg/Quaternion"](x=x, y=y, z=z, w=w)
        move = _TYPES["geometry_msgs/msg/Transform"](translation=shift, rotation=turn)
        kind = "geometry_msgs/msg/TransformStamped"
        transforms.append(_TYPES[kind](header=header, child_frame_id=child, transform=move))
    return _TYPES["tf2_msgs/msg/TFMessage"](transforms=transforms)
