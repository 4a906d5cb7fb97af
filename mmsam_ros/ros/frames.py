# SPDX-License-Identifier: Apache-2.0
"""Synchronised messages to a `Frame`: decoding, calibration, refusals by sensor.

Works on anything with a message's attributes; rclpy is not needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.ros.camera_info import camera_model
from mmsam_ros.ros.clouds import cloud_points
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.images import Reader, camera_rgb, raster_values, read_pixels, thermal_counts
from mmsam_ros.ros.sync import Entry, SyncedSet
from mmsam_ros.sensors import (
    CameraModel,
    Frame,
    LidarPoints,
    Registration,
    SensorError,
    SensorImage,
)
from mmsam_ros.weights import Spec

Matrix = NDArray[np.float64]


class Poses(Protocol):
    """Where extrinsics come from."""

    def lookup(self, sensor: str, camera_frame: str, sensor_frame: str) -> Matrix:
        """(4, 4), camera <- sensor."""


@dataclass
class CameraInfos:
    """The newest camera models; a fixed one (from parameters) is never replaced."""

    rectified: bool | None = None
    _fixed: dict[str, CameraModel] = field(default_factory=dict)
    _messages: dict[str, Any] = field(default_factory=dict)
    _models: dict[str, tuple[Any, CameraModel]] = field(default_factory=dict)

    def fix(self, name: str, model: CameraModel) -> None:
        """Use this model for "camera" or "thermal" whatever is published."""
        self._fixed[name] = model

    def update(self, name: str, message: Any) -> None:
        """Store a CameraInfo; it is looked at when it is needed."""
        self._messages[name] = message

    def model(self, name: str) -> CameraModel:
        """The model of "camera" or "thermal".

        Raises:
            RosError: none yet (reason "no_camera_info"), or a wrong one ("camera_info").
        """
        if name in self._fixed:
            return self._fixed[name]
        message = self._messages.get(name)
        if message is None:
            raise RosError(f"no CameraInfo on {name}/camera_info yet", "no_camera_info")
        known = self._models.get(name)
        if known is None or known[0] is not message:
            rectified = self.rectified if name == "camera" else None
            known = (message, camera_model(message, rectified))
            self._models[name] = known
        return known[1]


@dataclass(frozen=True)
class ThermalAlignment:
    """How the thermal image lies in the camera's view.

    `rotation`: by camera models and pose of each message; else `fixed`.
    """

    rotation: bool = False
    fixed: Registration = field(default_factory=Registration.aligned)


class FrameBuilder:
    """Makes frames of synchronised sets.

    Args:
        spec: which fields the weights read.
        infos: camera models.
        poses: extrinsics.
        thermal: how the thermal image lies in the camera's view.
        read: reads the pixels of an Image.
    """

    def __init__(
        self,
        spec: Spec,
        infos: CameraInfos,
        poses: Poses,
        thermal: ThermalAlignment,
        read: Reader = read_pixels,
    ) -> None:
        self._infos, self._poses, self._thermal, self._read = infos, poses, thermal, read
        self._needs_intensity = any("intensity" in m.fields for m in spec.modalities.values())

    def build(
        self, synced: SyncedSet, report: Callable[[str, RosError], None]
    ) -> tuple[Frame, dict[str, str]]:
        """The frame of a set, and why single sensors were refused, by sensor.

        Args:
            synced: camera and auxiliary messages.
            report: told of every refusal as it happens.

        Raises:
            RosError: the camera image itself is wrong.
        """
        message = synced.camera.message
        rgb = camera_rgb(message, self._read)
        camera = self._camera(rgb.shape[1], rgb.shape[0])
        sensors: dict[str, LidarPoints | SensorImage] = {}
        refused: dict[str, str] = {}
        for name, entry in synced.auxiliaries.items():
            try:
                sensors[name] = self._sensor(name, entry, camera, message.header.frame_id)
            except RosError as error:
                refused[name] = error.reason
                report(name, error)
        return Frame(rgb, sensors, None if isinstance(camera, RosError) else camera), refused

    def _camera(self, width: int, height: int) -> CameraModel | RosError:
        """The camera's model for this image size, or why there is none."""
        try:
            model = self._infos.model("camera")
            _check_size("camera/camera_info", model, width, height)
        except RosError as error:
            return error
        return model

    def _sensor(
        self, name: str, entry: Entry, camera: CameraModel | RosError, camera_frame: str
    ) -> LidarPoints | SensorImage:
        if entry.decoded is None:  # a held message is decoded once for all its sets
            entry.decoded = self._decode(name, entry.message)
        frame_id = entry.message.header.frame_id
        try:
            if isinstance(entry.decoded, tuple):
                if isinstance(camera, RosError):
                    raise camera
                pose = self._poses.lookup(name, camera_frame, frame_id)
                xyz, intensity = entry.decoded
                return LidarPoints(xyz, intensity, pose)
            if name != "thermal":
                return SensorImage(entry.decoded)
            if self._thermal.rotation:
                if isinstance(camera, RosError):
                    raise camera
                registration = self._rotation(entry, camera, camera_frame, frame_id)
                return SensorImage(entry.decoded, registration)
            return SensorImage(entry.decoded, self._thermal.fixed)
        except SensorError as error:
            raise RosError(str(error), "data") from error

    def _decode(self, name: str, message: Any) -> Any:
        if hasattr(message, "point_step"):
            return cloud_points(message, needs_intensity=self._needs_intensity)
        if name == "thermal":
            return thermal_counts(message, self._read)
        return raster_values(message, self._read)

    def _rotation(
        self, entry: Entry, camera: CameraModel, camera_frame: str, thermal_frame: str
    ) -> Registration:
        """Parallax is ignored; both models must be of the images that they come with."""
        thermal = self._infos.model("thermal")
        height, width = entry.decoded.shape
        _check_size("thermal/camera_info", thermal, width, height)
        pose = self._poses.lookup("thermal", camera_frame, thermal_frame)
        rotation = camera.R @ pose[:3, :3] @ thermal.R.T
        return Registration.from_rotation(camera.K, rotation, thermal.K)


def _check_size(name: str, model: CameraModel, width: int, height: int) -> None:
    if (model.width, model.height) != (width, height):
        raise RosError(
            f"{name} is for {model.width}x{model.height} pixels, the image has {width}x{height}",
            "camera_info",
        )


def opencv_homography(values: list[float]) -> Registration:
    """A homography thermal -> camera as OpenCV finds it (pixel centres at integers).

    Ours counts pixel centres at + 0.5.

    Raises:
        RosError: not nine finite values of an invertible matrix.
    """
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    try:
        matrix = np.asarray(values, np.float64).reshape(3, 3)
        return Registration.from_homography(shift @ matrix @ np.linalg.inv(shift))
    except ValueError as error:  # SensorError among them
        raise RosError(f"parameter thermal.homography: found {values}: {error}") from error
