# SPDX-License-Identifier: Apache-2.0
"""Calibration of the sensors: camera models from CameraInfo, poses from TF, both also from
parameters. Messages may be those of rclpy or of `rosbags`; importing it needs no ROS.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.notes import Notes
from mmsam_ros.sensors import CameraModel, SensorError, camera_info, pose_matrix
from mmsam_ros.sensors.limits import MAX_COEFFICIENTS, MAX_NOTES, shortened
from mmsam_ros.sensors.motion import Vector, twist_between

Matrix = NDArray[np.float64]
# fields of a CameraInfo that are also parameters `<camera>.info.*`
INFO_FIELDS = ("width", "height", "distortion_model", "d", "k", "r", "p")
# What an image is (parameter `<camera>.image`) -> whether it is rectified (None: as its CameraInfo
# says), and whether poses lead into the rectified camera's own frame.
IMAGES: Mapping[str, tuple[bool | None, bool]] = {
    "auto": (None, False), "rectified": (True, False), "rectified_frame": (True, True),
    "raw": (False, False),
}  # fmt: skip
REFRESH = 1.0  # seconds after which a static transform is asked for again
WAY = 100_000_000  # nanoseconds over which a velocity is taken from TF
CAMERAS = 8  # frames of which CameraInfos on one topic are remembered
LATE = 100_000_000  # nanoseconds by which the newest transform may be older than a message


def camera_model(info: Any, image: str = "auto", where: str = "camera_info") -> CameraModel:
    """The camera model of a sensor_msgs/CameraInfo for an image of `IMAGES`. RosError (reason
    "camera_info") for zero K, wrong lengths, contradictions and the like; its text begins with
    `where`, the topic or parameter that the values come from.
    """
    rectified, own_frame = IMAGES[image]
    try:
        return CameraModel.from_info(
            **_values(info), rectified=rectified, rectified_frame=own_frame
        )
    except SensorError as error:
        raise RosError(f"{where}: {error}", "camera_info") from error


def _values(info: Any) -> dict[str, Any]:
    """The fields of a CameraInfo that define the camera model."""
    values = {name: getattr(info, name) for name in (*INFO_FIELDS, "binning_x", "binning_y")}
    roi = (info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height)
    return {**values, "roi": roi}


def camera_doubts(info: Any, image: str = "auto", name: str = "camera") -> list[str]:
    """Ambiguities in a CameraInfo that `camera_model` accepts, and what to set for the camera
    `name`, "camera" or "thermal".
    """
    rectified, own_frame = IMAGES[image]
    d, p = np.asarray(info.d, np.float64).ravel(), np.reshape(info.p, (3, 4))
    taken = camera_info.decide(rectified, info.distortion_model, d, p)
    return camera_info.doubts(
        width=info.width, height=info.height, k=info.k, r=info.r, p=p, taken=taken,
        settled=own_frame or rectified is False, parameter=f"parameter {name}.image",
    )  # fmt: skip


@dataclass
class CameraInfos:
    """The newest calibrations of "camera" and "thermal"; doubts about them are noted. Where
    several cameras share one topic, an image gets the calibration of its own frame.
    """

    images: Mapping[str, str] = field(default_factory=dict)  # what each image is, see `IMAGES`
    fixed: Mapping[str, Any] = field(default_factory=dict)  # CameraInfo, preferred to topics
    notes: Notes = field(default_factory=Notes)
    topics: Mapping[str, str] = field(default_factory=dict)  # their names, for error messages
    # by frame, the newest last
    _received: dict[str, dict[str, Any]] = field(default_factory=dict)
    _models: dict[str, tuple[str, CameraModel]] = field(default_factory=dict)  # with their values

    def update(self, name: str, message: Any) -> None:
        """Store a CameraInfo; it is checked when an image needs it."""
        frame = message.header.frame_id.lstrip("/")
        others = [known for known in self._received.get(name, {}).items() if known[0] != frame]
        # a new dictionary, as another thread may be reading
        self._received[name] = dict([*others[1 - CAMERAS :], (frame, message)])

    def known(self) -> dict[str, Any]:
        """The newest CameraInfo of each camera that has one, by name."""
        newest = {name: [*infos.values()][-1] for name, infos in self._received.items()}
        return {**newest, **self.fixed}

    def model(self, name: str, height: int, width: int, frame_id: str = "") -> CameraModel:
        """The model of "camera" or "thermal" for an image of this size and frame; RosError if there
        is none yet (reason "no_camera_info"), or if it is not usable, is for another size, or
        several cameras share the topic and none has the image's frame ("camera_info").
        """
        image, fixed = self.images.get(name, "auto"), name in self.fixed
        topic = self.topics.get(name, f"{name}/camera_info")
        where = f"parameter {name}.info" if fixed else topic
        info = self.fixed[name] if fixed else self._of_frame(name, topic, frame_id.lstrip("/"))
        if info is None:
            raise RosError(
                f"no CameraInfo received on {topic}; publish or remap it, or set the parameters "
                f"{name}.info",
                "no_camera_info",
            )
        if len(info.d) > MAX_COEFFICIENTS:
            raise RosError(
                f"{where}: CameraInfo.d has {len(info.d)} values, expected at most "
                f"{MAX_COEFFICIENTS}",
                "camera_info",
            )
        # drivers send the same values with each image, and checking them takes milliseconds
        values = str([np.array(value).tolist() for value in _values(info).values()])
        known, model = self._models.get(name, ("", None))
        if model is None or values != known:
            model = camera_model(info, image, where)
        if (model.width, model.height) != (width, height):
            raise RosError(
                f"{where} is for an image of {model.width}x{model.height} pixels, the image has "
                f"{width}x{height}; publish the CameraInfo of this image",
                "camera_info",
            )
        for doubt in camera_doubts(info, image, name) if values != known else ():
            self.notes.warning(f"{where}: {doubt}")
        self._models[name] = values, model
        return model

    def _of_frame(self, name: str, topic: str, frame: str) -> Any:
        """The CameraInfo for an image of this frame; None if there is none yet."""
        received = self._received.get(name)
        if received is None or frame in received:
            return received and received[frame]
        if len(received) > 1:
            frames = ", ".join(map(repr, received))
            raise RosError(
                f"{topic}: several cameras send CameraInfo, of frames {frames}, and none is for "
                f"frame {frame!r} of the image: give each camera a topic of its own, or set the "
                f"parameters {name}.info",
                "camera_info",
            )
        [(other, info)] = received.items()
        if frame and other:
            self.notes.warning(
                f"{topic} is of frame {other!r}, the image of frame {frame!r}: it is used. If it "
                f"is another camera's, remap {name}/camera_info",
                f"frame of {topic}",
            )
        return info


def links_frames(parent: str, child: str) -> bool:
    """Whether a transform is one of two frames; tf2 leaves out those of a frame in itself, which
    would take the place of the frame's own, and of a frame without name.
    """
    return bool(parent and child) and parent != child


def transform_matrix(transform: Any) -> Matrix:
    """(4, 4) of a geometry_msgs/Transform; SensorError as of `pose_matrix`."""
    t, q = transform.translation, transform.rotation
    return pose_matrix((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))


def pose_parameter(name: str, values: Sequence[float] | None) -> Matrix | None:
    """(4, 4) of the parameter `name`: x, y, z, qx, qy, qz, qw; None if it is not set. RosError if
    it is not a pose.
    """
    if not values:
        return None
    try:
        return pose_matrix(values[:3], values[3:])
    except SensorError as error:
        raise RosError(f"parameter {name}: {error}") from error


class Extrinsics:
    """Looks up extrinsics in TF, if tf2_ros is installed, then in `poses`: the parameters
    `<sensor>.extrinsics` by sensor. RosError if one is not a pose.

    Logs the source of a pose whenever it changes: TF, or the parameter because TF has none.
    `transforms` are those of a recording, used instead of the node's TF.
    """

    def __init__(
        self, node: Any, poses: Mapping[str, Sequence[float] | None],
        transforms: "Transforms | None" = None,
    ) -> None:  # fmt: skip
        self._log = node.get_logger()
        given = {s: pose_parameter(f"{s}.extrinsics", values) for s, values in poses.items()}
        self._fixed = {sensor: pose for sensor, pose in given.items() if pose is not None}
        # frames -> when TF was asked, and its answer
        self._static: dict[tuple[str, str], tuple[float, Matrix]] = {}
        self._origin: dict[str, str] = {}  # of each sensor's newest pose
        self._said: set[str] = set()
        self._transforms = transforms
        self.source = "parameters"
        try:
            self._transforms = transforms or _Transforms(node)
        except ImportError as error:
            self._log.warning(
                "tf2_ros is not installed: extrinsics are read from the parameters "
                f"<sensor>.extrinsics only ({error})"
            )
        else:
            self.source = "TF, else parameters"

    def lookup(self, sensor: str, camera_frame: str, sensor_frame: str, time_ns: int) -> Matrix:
        """(4, 4), camera <- sensor at a time on the camera's clock, which is that of TF; RosError
        (reason "no_extrinsics") if it is not known.
        """
        # tf2 takes no leading slashes, but drivers of ROS 1 times still write them
        frames = camera_frame.lstrip("/"), sensor_frame.lstrip("/")
        path = f"from frame {frames[1]!r} to frame {frames[0]!r}"
        try:
            found = self._of_tf(sensor, frames, time_ns)
        except RosError as error:
            if sensor in self._fixed:
                text = f"{sensor}: no pose {path} in TF: parameter {sensor}.extrinsics is used"
                if self._transforms is not None and self._is_new(sensor, text):
                    self._log.warning(shortened(f"{text} ({error})"))
                return self._fixed[sensor]
            self._origin.pop(sensor, None)
            raise RosError(
                f"no transform {path} ({error}); publish it on /tf_static or set the parameter "
                f"{sensor}.extrinsics",
                "no_extrinsics",
            ) from error
        text = f"{sensor}: pose found {path}"
        if self._is_new(sensor, text):
            # a line of its own: rclpy allows only one severity per line of code
            self._log.info(shortened(text))
        return found

    def twist(self, fixed: str, frame: str, time_ns: int, stale: float) -> tuple[Vector, Vector]:
        """Linear and angular velocity of a frame, in its own axes, around a time, from its motion
        in a fixed frame in TF; RosError if TF's newest is more than `stale` seconds older.
        """
        if self._transforms is None:
            raise RosError("tf2_ros is not installed")
        frames = fixed.lstrip("/"), frame.lstrip("/")
        return self._transforms.twist(*frames, time_ns, round(stale * 1e9))

    def _of_tf(self, sensor: str, frames: tuple[str, str], time_ns: int) -> Matrix:
        """The pose that needs no parameter; RosError with the reason why there is none."""
        if frames[0] == frames[1] != "" and sensor not in self._fixed:
            return np.eye(4)
        if self._transforms is None:
            raise RosError("tf2_ros is not installed")
        if not all(frames) or frames[0] == frames[1]:
            raise RosError("header.frame_id is empty or that of the camera")
        asked, matrix = self._static.get(frames, (-math.inf, np.eye(4)))
        now = time.monotonic()
        if now < asked + REFRESH:
            return matrix
        matrix, static = self._transforms.find(*frames, time_ns)
        if static:
            if len(self._static) >= MAX_NOTES:  # frames that count up
                self._static.clear()
            self._static[frames] = now, matrix
        return matrix

    def _is_new(self, sensor: str, text: str) -> bool:
        """Whether to log where a pose comes from: when that changes, the same at most twice."""
        text, before = shortened(text), self._origin.get(sensor)
        self._origin[sensor] = text
        key = text if before is None else f"{text}, before: {before}"
        if text == before or key in self._said or len(self._said) >= MAX_NOTES:
            return False
        self._said.add(key)
        return True


class Transforms(Protocol):
    """Where extrinsics are looked up."""

    def find(self, target: str, source: str, time_ns: int) -> tuple[Matrix, bool]:
        """(4, 4), target <- source at a time, and whether it never changes; RosError if it is not
        known.
        """

    def twist(self, target: str, source: str, time_ns: int, stale: int) -> tuple[Vector, Vector]:
        """Linear and angular velocity of the source, in its own axes, around a time, as it moves in
        the target; RosError if the newest is more than `stale` nanoseconds older.
        """


def twist_end(newest: int, time_ns: int, stale: int, path: str) -> int:
    """End (ns) of the interval over which a velocity is taken; RosError if it is too old."""
    if newest < time_ns - stale:
        raise RosError(f"TF {path} is {(time_ns - newest) / 1e9:.2f} s old")
    return min(newest, time_ns + WAY // 2)


class _Transforms:
    """What the node hears of TF; ImportError without tf2_ros."""

    def __init__(self, node: Any) -> None:
        from rclpy.time import Time
        from tf2_ros import Buffer, ExtrapolationException, TransformException, TransformListener

        self._time = Time
        self._too_early, self._failure = ExtrapolationException, TransformException
        self._buffer = Buffer(node=node)
        self._listener = TransformListener(self._buffer, node)

    def find(self, target: str, source: str, time_ns: int) -> tuple[Matrix, bool]:
        """(4, 4), target <- source at a time, and whether it never changes; RosError if TF does
        not have it. It does not wait: a transform that is `LATE` or less behind will do.
        """
        try:
            latest = self._buffer.lookup_transform(target, source, self._time())
            if nanoseconds(latest.header.stamp) == 0:  # the chain is all static
                return transform_matrix(latest.transform), True
            try:
                at = self._time(nanoseconds=max(time_ns, 1))  # 0 asks for the newest
                found = self._buffer.lookup_transform(target, source, at)
            except self._too_early:
                if abs(nanoseconds(latest.header.stamp) - time_ns) > LATE:
                    raise
                found = latest
            return transform_matrix(found.transform), False
        except (self._failure, SensorError) as error:
            raise RosError(f"TF says: {error}") from error

    def twist(self, target: str, source: str, time_ns: int, stale: int) -> tuple[Vector, Vector]:
        """See `Transforms`."""
        lookup, time_of = self._buffer.lookup_transform, self._time
        try:
            newest = nanoseconds(lookup(target, source, time_of()).header.stamp)
            if newest == 0:
                raise RosError(f"frame {source!r} does not move in {target!r} by TF")
            end = twist_end(newest, time_ns, stale, f"from {source!r} to {target!r}")
            if end <= WAY:  # a simulation has just begun; rclpy has no time before 0
                raise RosError(f"TF from {source!r} to {target!r} begins later")
            first, last = (
                transform_matrix(lookup(target, source, time_of(nanoseconds=at)).transform)
                for at in (end - WAY, end)
            )
        except (self._failure, SensorError) as error:
            raise RosError(f"TF says: {error}") from error
        return twist_between(np.linalg.inv(first) @ last, WAY / 1e9)


def nanoseconds(stamp: Any) -> int:
    """A builtin_interfaces/Time in nanoseconds."""
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)
