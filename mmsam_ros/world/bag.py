# SPDX-License-Identifier: Apache-2.0
"""Writes a drive as a ROS 2 bag: three sensors at their own rates, calibration, ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mmsam_ros.data.errors import DataError
from mmsam_ros.sensors import pose_values
from mmsam_ros.world.lidar import Cloud
from mmsam_ros.world.rig import PinholeSpec, Rig
from mmsam_ros.world.samples import Vehicle

START = 1_700_000_000_000_000_000  # stamp of the drive's first instant, nanoseconds
TOPICS = {
    "/tf_static": "tf2_msgs/msg/TFMessage",
    "/camera/image_raw": "sensor_msgs/msg/Image",
    "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
    "/lidar/points": "sensor_msgs/msg/PointCloud2",
    "/thermal/image_raw": "sensor_msgs/msg/Image",
    "/thermal/camera_info": "sensor_msgs/msg/CameraInfo",
    "/ground_truth/semantic": "sensor_msgs/msg/Image",
}
POINT = np.dtype(
    {
        "names": ["x", "y", "z", "intensity", "ring", "time"],
        "formats": ["<f4", "<f4", "<f4", "<f4", "<u2", "<f4"],
        "offsets": [0, 4, 8, 12, 16, 20],
        "itemsize": 24,
    }
)
_FIELD_TYPES = {"<f4": 7, "<u2": 4}  # sensor_msgs/PointField FLOAT32, UINT16
_STORE = get_typestore(Stores.ROS2_JAZZY)

Message = tuple[str, int, Any]  # topic, stamp (ns), message


def write_bag(
    folder: Path, vehicle: Vehicle, seconds: float, report: Callable[[float], None] | None = None
) -> dict[str, int]:
    """Renders `seconds` of a drive into the new rosbag2 `folder` (MCAP); counts by topic.

    Messages are in the order of their stamps, which are also their recording times. `report` is
    called with the share that is done. DataError where the folder exists or no frame fits.
    """
    if folder.exists():
        raise DataError(f"{folder} exists, expected a new folder for the bag")
    total = sum(len(vehicle.rig.stamps(s, seconds)) for s in ("camera", "lidar", "thermal"))
    if not len(vehicle.rig.stamps("camera", seconds)):
        raise DataError(f"seconds is {seconds}, expected enough for one camera image")
    counts = dict.fromkeys(TOPICS, 0)
    done = 0
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {
            topic: writer.add_connection(
                topic, kind, typestore=_STORE, offered_qos_profiles=[_qos(topic == "/tf_static")]
            )
            for topic, kind in TOPICS.items()
        }
        for topic, stamp, message in _messages(vehicle, seconds):
            data = _STORE.serialize_cdr(message, TOPICS[topic])
            writer.write(connections[topic], stamp, data)
            counts[topic] += 1
            if report and topic in ("/camera/image_raw", "/lidar/points", "/thermal/image_raw"):
                done += 1
                report(done / total)
    return counts


def _messages(vehicle: Vehicle, seconds: float) -> Iterator[Message]:
    """All messages in time order; every frame is rendered when it is due."""
    rig = vehicle.rig
    yield "/tf_static", START, _transforms(rig)
    due = sorted(
        (int(nanoseconds), sensor)
        for sensor in ("camera", "lidar", "thermal")
        for nanoseconds in rig.stamps(sensor, seconds)
    )
    for nanoseconds, sensor in due:
        stamp, time = START + nanoseconds, nanoseconds * 1e-9
        if sensor == "lidar":
            yield "/lidar/points", stamp, _cloud(vehicle.lidar(time), _header(stamp, "lidar"))
            continue
        header = _header(stamp, f"{sensor}_optical")
        spec = rig.camera if sensor == "camera" else rig.thermal
        yield f"/{sensor}/camera_info", stamp, _camera_info(spec, header)
        if sensor == "camera":
            picture = vehicle.camera(time)
            yield "/camera/image_raw", stamp, _image(picture.rgb, "rgb8", header)
            yield "/ground_truth/semantic", stamp, _image(picture.labels, "mono8", header)
        else:
            yield "/thermal/image_raw", stamp, _image(vehicle.thermal(time), "mono16", header)


def _type(name: str) -> Any:
    """A message class; the type store makes them at run time, so there is no static type."""
    return _STORE.types[name]


def _qos(latched: bool) -> Qos:
    """Reliable; latched: transient local, as tf2 publishes /tf_static."""
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    never = QosTime(9223372036, 854775807)
    return Qos(
        QosHistory.KEEP_LAST, 1 if latched else 10, QosReliability.RELIABLE, durability,
        never, never, QosLiveliness.AUTOMATIC, never, False,
    )  # fmt: skip


def _header(stamp: int, frame: str) -> Any:
    time = _type("builtin_interfaces/msg/Time")(sec=stamp // 10**9, nanosec=stamp % 10**9)
    return _type("std_msgs/msg/Header")(stamp=time, frame_id=frame)


def _image(image: NDArray[Any], encoding: str, header: Any) -> Any:
    height, width = image.shape[:2]
    data = np.ascontiguousarray(image).view(np.uint8).reshape(-1)
    return _type("sensor_msgs/msg/Image")(
        header=header, height=height, width=width, encoding=encoding, is_bigendian=0,
        step=len(data) // height, data=data,
    )  # fmt: skip


def _camera_info(spec: PinholeSpec, header: Any) -> Any:
    roi = _type("sensor_msgs/msg/RegionOfInterest")(
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
    )
    return _type("sensor_msgs/msg/CameraInfo")(
        header=header, height=spec.height, width=spec.width, distortion_model="plumb_bob",
        d=np.zeros(5), k=spec.K.reshape(-1), r=np.eye(3).reshape(-1),
        p=np.insert(spec.K, 3, 0, axis=1).reshape(-1), binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip


def _cloud(cloud: Cloud, header: Any) -> Any:
    points = np.zeros(len(cloud.xyz), POINT)
    points["x"], points["y"], points["z"] = cloud.xyz.T
    points["intensity"], points["ring"], points["time"] = cloud.intensity, cloud.ring, cloud.time
    field = _type("sensor_msgs/msg/PointField")
    fields = [
        field(name=name, offset=offset, datatype=_FIELD_TYPES[dtype.str], count=1)
        for name, (dtype, offset, *_) in (POINT.fields or {}).items()
    ]
    return _type("sensor_msgs/msg/PointCloud2")(
        header=header, height=1, width=len(points), fields=fields, is_bigendian=False,
        point_step=POINT.itemsize, row_step=POINT.itemsize * len(points),
        data=points.view(np.uint8).reshape(-1), is_dense=True,
    )  # fmt: skip


def _transforms(rig: Rig) -> Any:
    """base_link -> every sensor's frame."""
    frames = {
        "camera_optical": rig.camera.T_base, "lidar": rig.lidar.T_base,
        "thermal_optical": rig.thermal.T_base,
    }  # fmt: skip
    transforms = []
    for child, T in frames.items():
        px, py, pz, x, y, z, w = pose_values(T)
        move = _type("geometry_msgs/msg/Transform")(
            translation=_type("geometry_msgs/msg/Vector3")(x=px, y=py, z=pz),
            rotation=_type("geometry_msgs/msg/Quaternion")(x=x, y=y, z=z, w=w),
        )
        stamped = _type("geometry_msgs/msg/TransformStamped")
        header = _header(START, "base_link")
        transforms.append(stamped(header=header, child_frame_id=child, transform=move))
    return _type("tf2_msgs/msg/TFMessage")(transforms=transforms)
