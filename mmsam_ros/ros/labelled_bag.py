# SPDX-License-Identifier: Apache-2.0
"""A recording with the node's outputs, written as the node would publish them. Needs no ROS."""

import errno
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rosbags import interfaces as qos
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mmsam_ros.inference import Result
from mmsam_ros.inference.draw import colorise, highlight, overlay
from mmsam_ros.inference.points import labelled_cloud, organised_cloud
from mmsam_ros.ros.interface import CLOUD, IMAGE, OUTPUTS
from mmsam_ros.ros.messages import class_table, fill_image
from mmsam_ros.ros.parameter_files import NODE
from mmsam_ros.ros.parameters import Parameters
from mmsam_ros.ros.recording import Recording
from mmsam_ros.ros.sets import Entry, SyncedSet
from mmsam_ros.ros.storage import Connection
from mmsam_ros.sensors import Frame, LidarPoints, palette, seen_points, topic_names
from mmsam_ros.weights import Spec

_LABEL_INFO = "vision_msgs/msg/LabelInfo"
_NEVER = qos.QosTime(9223372036, 854775807)
_RELIABLE = qos.Qos(
    qos.QosHistory.KEEP_LAST, 5, qos.QosReliability.RELIABLE, qos.QosDurability.VOLATILE,
    _NEVER, _NEVER, qos.QosLiveliness.AUTOMATIC, _NEVER, False,
)  # fmt: skip
_LATCHED = _RELIABLE._replace(depth=1, durability=qos.QosDurability.TRANSIENT_LOCAL)
_TYPES = {row.name: row.type for row in OUTPUTS}
_DATATYPES = {"<f4": 7, "<u4": 6}  # of a PointField
_VISION = {
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    _LABEL_INFO: "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n",
}


class LabelledBag:
    """Writes a new rosbag2 folder, MCAP unless the recording is a database. Its context finishes
    the files, unless it ends with an error. An OSError names a file, the folder at least.

    Args:
        folder: the new one, which must not exist.
        source: the recording, whose topics `copy` writes as well.
        spec: of the weights.
        outputs: some of `bag_options.OUTPUTS`.
        parameters: of the node; they set the labels' threshold and the look of overlays.
    """

    def __init__(
        self, folder: Path, source: Recording, spec: Spec, outputs: tuple[str, ...],
        parameters: Parameters,
    ) -> None:  # fmt: skip
        self._threshold = parameters["confidence_threshold"]
        self._opacity = parameters["overlay_opacity"]
        self._spec, self._outputs, self._source, self._folder = spec, outputs, source, folder
        self._store = get_typestore(Stores.ROS2_JAZZY)
        for name, text in _VISION.items():
            self._store.register(get_types_from_msg(text, name))
        plugin = StoragePlugin.SQLITE3 if source.is_database else StoragePlugin.MCAP
        self._writer = Writer(folder, version=9, storage_plugin=plugin)
        if plugin is StoragePlugin.MCAP:
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        with _named(folder):
            self._writer.open()
        self._added: dict[str, Any] = {}  # connections of the writer by topic
        self._copies: dict[int, Any] = {}  # by id of the source's
        self.left_out: dict[str, str] = {}  # the source's topics that are not copied, and why
        self._colours = palette(spec.classes)
        self._pictures = self._make_pictures()
        self._labelled: Entry | None = None  # the newest cloud that is written
        self._write_classes(source.start_time)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        with _named(self._folder):
            self._writer.__exit__(kind, error, trace)

    @property
    def lacking(self) -> list[str]:
        """Clouds among the outputs that no mask had points for so far."""
        topics = {"points": f"{NODE}/points", "labelled_points": f"{NODE}/points/labelled"}
        asked = {name: topic for name, topic in topics.items() if name in self._outputs}
        return [name for name, topic in asked.items() if topic not in self._added]

    def copy_all(self) -> None:
        """Prepare to copy all topics of the recording that can be read."""
        for connection in self._source.connections:
            topic, msgtype = connection.topic, connection.msgtype
            if why := self._source.unreadable.get(connection.id):
                self.left_out[topic] = why
            elif topic in self._added or topic.startswith(f"{NODE}/"):
                self.left_out[topic] = "the new bag has its own"
            else:
                try:
                    self._copies[connection.id] = self._add(
                        topic, msgtype, connection.offers, **self._definition(connection)
                    )
                except WriterError as error:
                    self.left_out[f"{topic} as {msgtype}"] = str(error)

    def copy(self, connection: Connection, time: int, data: bytes) -> None:
        """Write a message of the recording as it is."""
        if target := self._copies.get(connection.id):
            with _named(self._folder):
                self._writer.write(target, time, data)

    def add(
        self, synced: SyncedSet, time: int, frame: Frame, result: Result,
        refused: Collection[str] = (),
    ) -> None:  # fmt: skip
        """Write a result under the camera message's header, at the time (ns) it was received.
        `refused`: sensors that the mask was made without.
        """
        header, rgb = synced.camera.message.header, frame.rgb
        self._send("~/semantic", IMAGE, header, time, result.labels, "mono8")
        if "confidence" in self._outputs and result.confidence is not None:
            self._send("~/confidence", IMAGE, header, time, result.confidence, "mono8")
        for name, draw in self._pictures.items():
            self._send(name, IMAGE, header, time, draw(rgb, result.labels), "rgb8")
        cloud, points = synced.auxiliaries.get("lidar"), frame.sensors.get("lidar")
        used = "lidar" not in refused and "lidar" not in synced.held  # held: older than the mask
        if cloud is not None and isinstance(points, LidarPoints) and used:
            self._add_clouds(header, time, frame, points, cloud, result)

    def _add_clouds(
        self, header: Any, time: int, frame: Frame, points: LidarPoints, cloud: Entry,
        result: Result,
    ) -> None:  # fmt: skip
        """Write the clouds that the node makes of a cloud whose points may have labels."""
        if result.confidence is None or frame.camera is None:
            return
        seen = seen_points(points.xyz, frame.camera, points.T_camera_lidar)
        known = seen, result.labels, result.confidence, self._colours
        if "points" in self._outputs:
            self._send_cloud("~/points", header, time, organised_cloud(*known))
        is_new = self._labelled is not cloud  # of several images with one cloud, the first counts
        if "labelled_points" in self._outputs and is_new:
            self._labelled, message = cloud, cloud.message
            own = labelled_cloud(cloud.decoded[0], *known)
            own = own.reshape(message.height, message.width)
            self._send_cloud("~/points/labelled", message.header, time, own)

    def _send_cloud(self, name: str, header: Any, time: int, points: NDArray[np.void]) -> None:
        types: Any = self._store.types
        fields = [
            types["sensor_msgs/msg/PointField"](n, offset, _DATATYPES[kind.str], 1)
            for n, (kind, offset, *_) in (points.dtype.fields or {}).items()
        ]
        height, width = points.shape
        data = np.ascontiguousarray(points).reshape(-1).view(np.uint8)
        step = points.dtype.itemsize
        cloud = types[CLOUD](
            header, height, width, fields, False, step, step * width, data, is_dense=False
        )
        self._write(name, CLOUD, time, cloud)

    def _make_pictures(self) -> Mapping[str, Callable[..., NDArray[np.uint8]]]:
        """(rgb (H, W, 3), labels (H, W)) -> picture, by topic."""
        colours, classes = self._colours, self._spec.classes
        pictures: dict[str, Callable[..., NDArray[np.uint8]]] = {}
        if "color" in self._outputs:
            pictures["~/color"] = lambda rgb, labels: colorise(labels, colours)
        if "overlay" in self._outputs:
            pictures["~/overlay"] = partial(overlay, palette=colours, opacity=self._opacity)
        if "overlays" in self._outputs:
            for info, name in zip(classes, topic_names(classes), strict=True):
                draw = partial(highlight, class_id=info.id, color=info.rgb, opacity=self._opacity)
                pictures[f"~/overlay/{name}"] = draw
        return pictures

    def _write_classes(self, time: int) -> None:
        types: Any = self._store.types
        text = types["std_msgs/msg/String"](class_table(self._spec))
        self._write("~/classes", _TYPES["~/classes"], time, text, latched=True)
        stamp = types["builtin_interfaces/msg/Time"](*divmod(time, 10**9))
        kind = types["vision_msgs/msg/VisionClass"]
        info = types[_LABEL_INFO](
            types["std_msgs/msg/Header"](stamp, ""),
            [kind(c.id, c.name) for c in self._spec.classes], self._threshold,
        )  # fmt: skip
        self._write("~/label_info", _LABEL_INFO, time, info, latched=True)

    def _send(
        self, name: str, kind: str, header: Any, time: int, pixels: NDArray[np.uint8], encoding: str
    ) -> None:
        message: Any = self._store.types[IMAGE](header, 0, 0, "", 0, 0, np.empty(0, np.uint8))
        fill_image(message, pixels, encoding)
        message.data = np.frombuffer(message.data, np.uint8)
        self._write(name, kind, time, message)

    def _write(
        self, name: str, kind: str, time: int, message: Any, *, latched: bool = False
    ) -> None:
        topic = name.replace("~", NODE, 1)
        if topic not in self._added:
            profiles = [_LATCHED if latched else _RELIABLE]
            self._added[topic] = self._add(topic, kind, profiles, typestore=self._store)
        with _named(self._folder):
            self._writer.write(self._added[topic], time, self._store.serialize_cdr(message, kind))

    def _add(self, topic: str, kind: str, offers: Sequence[qos.Qos], **definition: Any) -> Any:
        with _named(self._folder):
            return self._writer.add_connection(
                topic, kind, offered_qos_profiles=offers, **definition
            )

    def _definition(self, connection: Connection) -> dict[str, Any]:
        """Arguments of the writer that describe a type: ROS's own, else as it was recorded."""
        if connection.msgtype in self._store.fielddefs:
            return {"typestore": self._store}
        return {"msgdef": connection.definition, "rihs01": "RIHS01_" + 64 * "0"}


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Errors of the disk as an OSError that names the folder, which a writer's do not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise
    except sqlite3.Error as error:
        full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
        number = errno.ENOSPC if full else errno.EIO
        raise OSError(number, str(error), str(folder)) from error
