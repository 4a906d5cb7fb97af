# SPDX-License-Identifier: Apache-2.0
"""Synchronised messages to a `Frame`: decoding and calibration. Needs no ROS."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.ros import messages
from mmsam_ros.ros.calibration import CameraInfos, CameraModel, Extrinsics, Matrix
from mmsam_ros.ros.clouds import AUTO, Points, cloud_points, point_times
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.motion import CloudMotion
from mmsam_ros.ros.notes import Notes
from mmsam_ros.ros.sets import CAMERA, Entry, SyncedSet
from mmsam_ros.sensors import (
    DEPTH_METRES,
    LIDAR_GAIN,
    Frame,
    LidarPoints,
    Limits,
    Refusal,
    Registration,
    SensorError,
    SensorImage,
)
from mmsam_ros.sensors.limits import shortened
from mmsam_ros.sensors.pixels import BitDepth
from mmsam_ros.sensors.planes import same_shape
from mmsam_ros.sensors.projection import MIN_RANGE
from mmsam_ros.sensors.registration import Size
from mmsam_ros.weights import Spec

_ENOUGH = 3  # images of a sensor after which it is judged
_BEND = 0.02  # share of the width by which distortion may move the edge of an image unnoticed


@dataclass(frozen=True, eq=False)
class Adjustments:
    """What the parameters say of sensors whose data differs from that of the training."""

    lidar_frame: str = ""  # frame of range and height; empty: the cloud's own
    lidar_frame_pose: Matrix | None = None  # lidar_frame <- the cloud's own; used if TF has none
    thermal_limits: Limits | None = None  # see `SensorImage`, like the next one
    thermal_inverted: bool = False


def _moved(xyz: NDArray[np.float32], matrix: Matrix) -> NDArray[np.float32]:
    """Points in another frame; those that are too near to be used (the vehicle, 0, 0, 0 for no
    return) are not moved, so that they stay too near.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.linalg.norm(xyz, axis=1) < MIN_RANGE
        moved = (xyz @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32)
    return np.where(near[:, None], xyz, moved)


@dataclass(frozen=True)
class FrameBuilder:
    """Makes frames of synchronised sets."""

    spec: Spec
    infos: CameraInfos
    poses: Extrinsics
    thermal: Registration | None  # None: from the camera models and the pose at each message
    read: messages.Reader = messages.read_pixels
    intensity_field: str = AUTO  # of clouds
    notes: Notes = field(default_factory=Notes)
    adjust: Adjustments = Adjustments()
    views: dict[str, str] = field(default_factory=dict)  # by sensor, for diagnostics
    depth: BitDepth = field(default_factory=BitDepth)
    motion: CloudMotion | None = None  # of the LiDAR, to be compensated
    _images: Counter[str] = field(default_factory=Counter)  # by sensor, without registration

    def frame_ids(self, synced: SyncedSet) -> dict[str, str]:
        """The frame ids of the camera and sensors of a set, as used for the data in a `Frame`."""
        entries = {CAMERA: synced.camera, **synced.auxiliaries}
        found = {name: str(entry.message.header.frame_id) for name, entry in entries.items()}
        if "lidar" in found and self.adjust.lidar_frame:
            found["lidar"] = self.adjust.lidar_frame
        return found

    def build(self, synced: SyncedSet) -> tuple[Frame, dict[str, Refusal]]:
        """The frame of a set, and the sensors left out of it; RosError if the camera image is not
        usable.
        """
        message = synced.camera.message
        rgb = messages.camera_rgb(message, self.read, self.notes, self.depth)
        (height, width), frame_ids = rgb.shape[:2], self.frame_ids(synced)
        camera = cache(lambda: self.infos.model(CAMERA, height, width, frame_ids[CAMERA]))
        sensors: dict[str, LidarPoints | SensorImage] = {}
        refused: dict[str, Refusal] = {}
        for name, entry in synced.auxiliaries.items():
            try:
                sensors[name] = self._sensor(entry, synced.camera, camera)
            except RosError as error:
                refused[name] = Refusal(name, error.reason, shortened(str(error)))
            except SensorError as error:
                refused[name] = Refusal(name, "data", shortened(str(error)))
        for name, data in sensors.items():
            if isinstance(data, SensorImage) and data.registration.homography is None:
                self._look_at_view(name, data, rgb.shape[:2], frame_ids)
        has_points = any(isinstance(data, LidarPoints) for data in sensors.values())
        return Frame(rgb, sensors, camera() if has_points else None), refused

    def _look_at_view(
        self, name: str, image: SensorImage, size: Size, frame_ids: Mapping[str, str]
    ) -> None:
        """Note that an image is assumed to show the camera's view, where nothing confirms it."""
        if not same_shape(image.data.shape, size):
            return  # it is refused
        height, width = image.data.shape[:2]
        taken, remedy = "taken to show exactly the camera's view", "publish it in that view"
        if name == "thermal":
            try:
                self.infos.model(CAMERA, *size, frame_ids[CAMERA])
                self.infos.model(name, height, width, frame_ids[name])
            except RosError as error:
                taken += f" by thermal.registration 'none', and nothing confirms it ({error})"
                remedy = "set thermal.registration to 'rotation' or 'homography'"
            else:  # `Plausibility` compares them
                self.views.pop(name, None)
                return
        self.views[name] = shortened(taken)
        self._images[name] += 1
        if self._images[name] == _ENOUGH:  # a CameraInfo may come a little later
            aligned = name != "thermal" or (height, width) == size
            say = self.notes.info if aligned else self.notes.warning
            sizes = f"{width}x{height} pixels beside {size[1]}x{size[0]}"
            say(f"{name}: its image of {sizes} is {taken}. If it does not, {remedy}")

    def _sensor(
        self, entry: Entry, image: Entry, camera: Callable[[], CameraModel]
    ) -> LidarPoints | SensorImage:
        """One sensor's part of a frame; `camera` raises if it is needed and not there."""
        if entry.decoded is None:  # a held message is decoded once for all its sets
            entry.decoded = self._decode(entry.stream, entry.message)
        frame_id, time_ns = entry.message.header.frame_id, entry.time_ns
        camera_frame = image.message.header.frame_id
        if isinstance(entry.decoded, Points):
            camera()
            xyz, intensity, *_ = entry.decoded
            if self.motion is not None:
                xyz = self.motion.compensated(entry.decoded, entry, image)
            pose = self.poses.lookup(entry.stream, camera_frame, frame_id, time_ns)
            if self.adjust.lidar_frame:
                inside = self._in_lidar_frame(frame_id, time_ns)
                xyz = _moved(xyz, inside)
                pose = pose @ np.linalg.inv(inside)
            return LidarPoints(xyz, intensity, pose)
        if entry.stream != "thermal":
            return SensorImage(entry.decoded)
        limits, inverted = self.adjust.thermal_limits, self.adjust.thermal_inverted
        if self.thermal is not None:
            return SensorImage(entry.decoded, self.thermal, limits, inverted)
        height, width = entry.decoded.shape
        thermal = self.infos.model("thermal", height, width, frame_id)
        pose = self.poses.lookup("thermal", camera_frame, frame_id, time_ns)
        rotation = camera().R @ pose[:3, :3] @ thermal.R.T
        registration = Registration.from_rotation(camera().K, rotation, thermal.K)
        for name, model in ((CAMERA, camera()), ("thermal", thermal)):
            if model.bend > _BEND * model.width:
                self.notes.warning(
                    f"{name}: the lens moves the edge of the image by up to {model.bend:.0f} "
                    "pixels, which thermal.registration 'rotation' leaves out; publish the "
                    f"rectified image and set {name}.image to rectified",
                    f"bend of {name}",
                )
        return SensorImage(entry.decoded, registration, limits, inverted)

    def _in_lidar_frame(self, frame_id: str, time_ns: int) -> Matrix:
        """(4, 4), lidar.frame <- the cloud's own; RosError (reason "no_extrinsics") without one."""
        frame, given = self.adjust.lidar_frame, self.adjust.lidar_frame_pose
        try:
            return self.poses.lookup("lidar.frame", frame, frame_id, time_ns)
        except RosError as error:
            if given is not None:
                return given
            raise RosError(
                f"no transform from frame {frame_id!r} of the cloud to lidar.frame {frame!r}; "
                "publish it on /tf_static or set the parameter lidar.frame_pose",
                "no_extrinsics",
            ) from error

    def _decode(self, stream: str, message: Any) -> Any:
        """xyz and intensity of a cloud, or the pixels of an image."""
        if hasattr(message, "point_step"):
            needed = any("intensity" in m.fields for m in self.spec.modalities.values())
            name, notes = self.intensity_field, self.notes
            xyz, intensity = cloud_points(
                message, needs_intensity=needed, intensity_field=name, notes=notes,
                may_lack=self.spec.encodings[stream] == LIDAR_GAIN,
            )  # fmt: skip
            times = (None, "") if self.motion is None else point_times(message, xyz)
            return Points(xyz, intensity, *times)
        if stream == "thermal":
            return messages.thermal_counts(message, self.read)
        if self.spec.encodings[stream] == DEPTH_METRES:
            return messages.depth_values(message, self.read)
        return messages.raster_values(message, self.read)
