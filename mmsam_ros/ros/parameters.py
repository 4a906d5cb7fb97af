# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: declared once with unit and range, validated, read into dataclasses.

All are fixed at start. A name that does not exist is an error which names the near match.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterUninitializedException
from rclpy.node import Node
from rclpy.parameter import Parameter

from mmsam_ros._util import near_match
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.sync import AuxiliarySync, SyncConfig

# Set by ROS itself, whatever a node declares.
_OF_ROS = ("use_sim_time", "start_type_description_service", "qos_overrides.")
CAMERA_INFO_LENGTHS = {"k": 9, "r": 9, "p": 12}
DEADLINE, SLOP, MAX_AGE, LEARN = 0.1, 0.05, 0.2, -1.0  # seconds; defaults
SENSORS = ("lidar", "thermal", "event", "depth")  # one parameter file serves all weights
REGISTRATIONS = ("none", "homography", "rotation")
GEOMETRIES = ("", "pad", "resize", "slide")


@dataclass(frozen=True)
class NetworkParameters:
    """What the network is loaded with."""

    weights: str
    device: str
    precision: str
    geometry_mode: str
    geometry_stride: int


@dataclass(frozen=True)
class NodeParameters:
    """Everything else.

    Attributes:
        auxiliaries: matching of every known sensor to the camera.
        deadline: longest wait for a camera frame's set, seconds.
        jump: step back in time that resets matching, seconds.
        queue: messages buffered by sensor.
        sync_backend: `native` or `message_filters`.
        image_backend: `native` or `cv_bridge`.
        reliability: of the inputs: `auto` follows the publishers.
        transports: `auto`, `raw` or `compressed` by input.
        rectified: whether the camera image is rectified; None: decided from its CameraInfo.
        infos: CameraInfo fields of "camera" and "thermal" where they are set.
        extrinsics: [x, y, z, qx, qy, qz, qw] of sensors where they are set.
        registration: of the thermal image: `none`, `homography` or `rotation`.
        homography: nine values for `homography`.
    """

    auxiliaries: dict[str, AuxiliarySync]
    deadline: float
    jump: float
    queue: int
    sync_backend: str
    image_backend: str
    reliability: str
    transports: dict[str, str]
    rectified: bool | None
    infos: dict[str, dict[str, Any]]
    extrinsics: dict[str, list[float]]
    registration: str
    homography: list[float]

    def sync(self, sources: tuple[str, ...]) -> SyncConfig:
        """Matching of the sensors that the weights read."""
        auxiliaries = {name: self.auxiliaries[name] for name in sources}
        return SyncConfig(auxiliaries, self.deadline, self.queue, self.jump)


class ParameterReader:
    """Declares parameters on a node and reads them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.declared: set[str] = set()

    def network(self) -> NetworkParameters:
        """Declare and read what is needed to load the network.

        Raises:
            RosError: a value that is not allowed; names parameter, value and what is.
        """
        return NetworkParameters(
            weights=self._text(
                "weights", "", "Weights file (.safetensors); '': the package's own."
            ),
            device=self._text("device", "auto", "auto, cpu, cuda or cuda:N."),
            precision=self._choice("precision", ("fp32", "bf16"), "Arithmetic of the network."),
            geometry_mode=self._choice(
                "geometry.mode",
                GEOMETRIES,
                "How a frame becomes the network's input; '': weights'.",
            ),
            geometry_stride=self._integer(
                "geometry.stride", 0, 0, 8192, "Step of sliding windows, pixels; 0: weights'."
            ),
        )

    def node(self) -> NodeParameters:
        """Declare and read everything else.

        Raises:
            RosError: a value that is not allowed, or a name that no parameter has.
        """
        backend = self._choice(
            "sync_backend", ("native", "message_filters"), "What matches sensors to the camera."
        )
        deadline = self._seconds(
            "sync.deadline", DEADLINE, 10.0, "Longest wait for a camera frame's set."
        )
        jump = self._seconds("sync.jump", 0.05, 60.0, "Step back in time that resets matching.")
        queue = self._integer("sync.queue", 30, 1, 1000, "Messages buffered by sensor.")
        auxiliaries = {name: self._auxiliary(name) for name in SENSORS}
        parameters = NodeParameters(
            auxiliaries=auxiliaries,
            deadline=deadline,
            jump=jump,
            queue=queue,
            sync_backend=backend,
            image_backend=self._choice(
                "image_backend", ("native", "cv_bridge"), "What reads the pixels of an Image."
            ),
            reliability=self._choice(
                "input_reliability", ("auto", "reliable", "best_effort"), "auto: as published."
            ),
            transports={name: self._transport(name) for name in ("camera", *SENSORS)},
            rectified={"auto": None, "rectified": True, "raw": False}[
                self._choice("camera.image", ("auto", "rectified", "raw"), "auto: by CameraInfo.")
            ],
            infos=self._infos(),
            extrinsics=self._extrinsics(),
            registration=self._choice(
                "thermal.registration", REGISTRATIONS, "Thermal to camera view."
            ),
            homography=self._doubles(
                "thermal.homography", 9, "Thermal to camera pixels, row by row, as OpenCV finds it."
            ),
        )
        self._refuse_unknown()
        self._check_together(parameters)
        return parameters

    def _auxiliary(self, name: str) -> AuxiliarySync:
        interval = self._seconds(
            f"{name}.min_interval",
            LEARN,
            10.0,
            "Least time between messages; 0: unknown, negative: learned.",
            signed=True,
        )
        return AuxiliarySync(
            slop=self._seconds(f"{name}.slop", SLOP, 10.0, "Greatest distance of a match."),
            offset=self._seconds(
                f"{name}.offset", 0.0, 10.0, "Added to the sensor's stamps.", signed=True
            ),
            max_age=self._seconds(
                f"{name}.max_age", MAX_AGE, 60.0, "Age up to which an earlier message is reused."
            ),
            min_interval=None if interval < 0 else interval,
        )

    def _check_together(self, parameters: NodeParameters) -> None:
        if parameters.sync_backend == "message_filters":
            default = AuxiliarySync(SLOP, max_age=MAX_AGE, min_interval=None)
            own: dict[str, tuple[float | None, float | None]] = {
                "sync.deadline": (parameters.deadline, DEADLINE)
            }
            for name, auxiliary in parameters.auxiliaries.items():
                for field in ("offset", "max_age", "min_interval"):
                    own[f"{name}.{field}"] = (getattr(auxiliary, field), getattr(default, field))
            for name, (value, usual) in own.items():
                if value != usual:
                    raise RosError(
                        f"parameter {name}: found {value}, but sync_backend 'message_filters' "
                        "publishes complete sets only and knows no deadline, offset or reuse; "
                        "leave it out or use 'native'"
                    )
        if (parameters.registration == "homography") != bool(parameters.homography):
            raise RosError(
                f"parameter thermal.homography: found {parameters.homography or 'none'} with "
                f"thermal.registration {parameters.registration!r}; they go together"
            )

    def _refuse_unknown(self) -> None:
        """A misspelt name stops the node; one that is near nothing may be meant for all nodes."""
        for name in self._node._parameter_overrides:
            if name not in self.declared and not name.startswith(_OF_ROS):
                hint = near_match(name, self.declared)
                if "did you mean" in hint:
                    raise RosError(f"parameter {name!r} does not exist{hint}")
                self._node.get_logger().warning(f"parameter {name!r} does not exist: ignored")

    def _transport(self, name: str) -> str:
        return self._choice(
            f"{name}.transport",
            ("auto", "raw", "compressed"),
            "raw reads the topic, compressed the topic + '/compressed'; auto: what is published.",
        )

    def _infos(self) -> dict[str, dict[str, Any]]:
        """The CameraInfos that are given as parameters (where the width is)."""
        infos = {}
        for name in ("camera", "thermal"):
            prefix = f"{name}.info"
            values: dict[str, Any] = {
                "width": self._integer(
                    f"{prefix}.width", 0, 0, 16384, "Pixels; 0: from the topic."
                ),
                "height": self._integer(f"{prefix}.height", 0, 0, 16384, "Pixels."),
                "distortion_model": self._text(
                    f"{prefix}.distortion_model", "plumb_bob", "As in sensor_msgs/CameraInfo."
                ),
                "d": self._doubles(f"{prefix}.d", None, "Distortion coefficients."),
            }
            for key, length in CAMERA_INFO_LENGTHS.items():
                values[key] = self._doubles(f"{prefix}.{key}", length, "As in CameraInfo.")
            self._text(f"{prefix}.frame_id", "", "Frame that the calibration is of (a note).")
            if values["width"]:
                infos[name] = values
        return infos

    def _extrinsics(self) -> dict[str, list[float]]:
        poses = {}
        for name in SENSORS:
            pose = self._doubles(
                f"{name}.extrinsics", 7, "x y z (m) qx qy qz qw: pose in the camera's frame."
            )
            if pose:
                poses[name] = pose
        return poses

    def _declare(self, name: str, default: Any, text: str, **descriptor: Any) -> Any:
        self.declared.add(name)
        described = ParameterDescriptor(description=text, read_only=True, **descriptor)
        return self._node.declare_parameter(name, default, described).value

    def _text(self, name: str, default: str, text: str) -> str:
        return str(self._declare(name, default, text))

    def _choice(self, name: str, allowed: tuple[str, ...], text: str) -> str:
        """One of `allowed`; the first is the default."""
        names = ", ".join(repr(a) for a in allowed)
        value = str(self._declare(name, allowed[0], text, additional_constraints=f"one of {names}"))
        if value not in allowed:
            hint = near_match(value, allowed)
            raise RosError(f"parameter {name}: found {value!r}, expected one of {names}{hint}")
        return value

    def _integer(self, name: str, default: int, low: int, high: int, text: str) -> int:
        limits = [IntegerRange(from_value=low, to_value=high, step=1)]
        return int(self._declare(name, default, text, integer_range=limits))

    def _seconds(
        self, name: str, default: float, high: float, text: str, *, signed: bool = False
    ) -> float:
        limits = [FloatingPointRange(from_value=-high if signed else 0.0, to_value=high)]
        value = float(self._declare(name, default, f"{text} Seconds.", floating_point_range=limits))
        if not math.isfinite(value):
            raise RosError(f"parameter {name}: found {value}, expected finite seconds")
        return value

    def _doubles(self, name: str, length: int | None, text: str) -> list[float]:
        """A list of doubles, empty where it is not set."""
        self.declared.add(name)
        described = ParameterDescriptor(description=text, read_only=True)
        self._node.declare_parameter(name, Parameter.Type.DOUBLE_ARRAY, described)
        try:
            values = [float(v) for v in self._node.get_parameter(name).value or []]
        except ParameterUninitializedException:
            return []
        if length is not None and len(values) not in (0, length):
            raise RosError(f"parameter {name}: found {len(values)} values, expected {length}")
        return values
