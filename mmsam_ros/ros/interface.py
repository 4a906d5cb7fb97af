# SPDX-License-Identifier: Apache-2.0
"""The node's interface: the tables of its topics and of its parameters. Needs no ROS.

The reference documentation is made from them, too. Input names are relative and output names
private: both can be remapped, and both follow the node's namespace.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mmsam_ros._util import near_match, require
from mmsam_ros.ros.errors import RosError

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO, CLOUD = "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/PointCloud2"
FLOAT = "std_msgs/msg/Float64"
START, CONFIGURE, LIVE = "start", "configure", "live"  # when a parameter is read


@dataclass(frozen=True)
class Topic:
    """One row."""

    name: str  # before remapping; `<class>` stands for the name of each class
    type: str
    description: str
    compressed: bool = False  # inputs: CompressedImage on `<name>/compressed` is read as well
    latched: bool = False  # outputs: transient local, depth 1, so that late subscribers get it


# Which of them are read depends on the weights; camera/image always is. The subscriptions take
# the QoS that the publishers offer (parameter input_reliability).
INPUTS = (
    Topic("camera/image", IMAGE, "Colours, grey or Bayer of 8 or 16 bits, yuv422, yuv422_yuy2, "
          "nv12 or nv21; compressed: JPEG or PNG.", compressed=True),
    Topic("camera/camera_info", INFO, "plumb_bob, rational_polynomial or equidistant; binning and "
          "region of interest are taken into account. Needed for lidar/points and for "
          "thermal.registration rotation. Not read if camera.info.width is set."),
    Topic("lidar/points", CLOUD, "Fields x, y, z and, if the weights read it, an intensity "
          "(lidar.intensity_field). The node projects the points into the camera image."),
    Topic("lidar/image", IMAGE, "Instead of points: a LiDAR raster in the camera's view, as 32FC3, "
          "16UC3 or rgb8, as the weights say.", compressed=True),
    Topic("thermal/image", IMAGE, "mono8, mono16, 8UC1, 16UC1, 32FC1, or colours that are grey; "
          "compressed: PNG, or JPEG for 8 bits.", compressed=True),
    Topic("thermal/camera_info", INFO, "Needed for thermal.registration rotation; with "
          "none it tells whether the view is the camera's. Not read if thermal.info.width is set."),
    Topic("vehicle/twist", "geometry_msgs/msg/TwistStamped", "Velocity of the vehicle in the frame "
          "of its header. Only with lidar.motion twist."),
    Topic("event/image", IMAGE, "Event raster in the camera's view.", compressed=True),
    Topic("depth/image", IMAGE, "Depth in the camera's view: 16UC1 (millimetres) or 32FC1 "
          "(metres), also as compressedDepth, or a picture of it, as the weights say.",
          compressed=True),
)  # fmt: skip
LAUNCH_ARGUMENTS = {  # of segment.launch.py, by the input that they remap
    "camera/image": "image_topic", "camera/camera_info": "camera_info_topic",
    "lidar/points": "points_topic", "lidar/image": "lidar_image_topic",
    "thermal/image": "thermal_topic", "thermal/camera_info": "thermal_info_topic",
    "vehicle/twist": "twist_topic", "event/image": "event_topic", "depth/image": "depth_topic",
}  # fmt: skip

# Images have the stamp, frame and size of the camera image. All outputs are reliable; those of a
# frame are made only while somebody subscribes. They exist while the node is configured; ~/mode and
# /diagnostics always do.
OUTPUTS = (
    Topic("~/semantic", IMAGE, "mono8: the class id of each pixel; 255 is no label."),
    Topic("~/semantic/compressed", COMPRESSED, "The same as PNG, lossless."),
    Topic("~/confidence", IMAGE, "mono8: 255 times the probability of the pixel's class."),
    Topic("~/probabilities", IMAGE, "32FC<n>: the probability of each of the n classes, at a "
          "quarter of the camera image's size."),
    Topic("~/color", IMAGE, "rgb8: the mask in class colours."),
    Topic("~/color/compressed", COMPRESSED, "The same as JPEG."),
    Topic("~/overlay", IMAGE, "rgb8: the mask over the camera image."),
    Topic("~/overlay/<class>", IMAGE, "rgb8: one class highlighted in the camera image."),
    Topic("~/points", CLOUD, "A point for each pixel of the mask, in the camera's frame; NaN where "
          "no LiDAR point is seen. Fields x, y, z, rgb, label, confidence. Only if the weights "
          "read lidar/points."),
    Topic("~/points/labelled", CLOUD, "The LiDAR's cloud under its own stamp and frame, same "
          "fields; label 255 where the camera does not see the point. Only if the weights read "
          "lidar/points."),
    Topic("~/classes", "std_msgs/msg/String", "JSON: ids, names and colours of the classes, and "
          "the sensors that the weights read.", latched=True),
    Topic("~/label_info", "vision_msgs/msg/LabelInfo", "Ids and names of the classes. Only if "
          "vision_msgs is installed.", latched=True),
    Topic("~/mode", "std_msgs/msg/String", "JSON: how far the masks can be relied on (mode, "
          "missing, score, reason, since). With every change.", latched=True),
    Topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "Once per second: mask rate, "
          "latency (p50, p95), time per step, messages by outcome, fused sensors, last refusal of "
          "each stream, settings, and what of a sensor is implausible; then a status of each "
          "input, the synchroniser, inference and output."),
    Topic("~/debug/processing_time_ms/<step>", FLOAT, "Milliseconds of one step of a mask: convert "
          "(messages to a frame), prepare (to the network's inputs), inference, labels, publish, "
          "and their total. Only while subscribed."),
    Topic("~/debug/latency_ms", FLOAT, "Milliseconds from the camera message's arrival to the "
          "published mask. Only while subscribed."),
)  # fmt: skip
STEPS = {  # of the debug topics: the key of a mask's timings
    "convert": "convert", "prepare": "prepare", "inference": "network", "labels": "labels",
    "publish": "publish",
}  # fmt: skip


@dataclass(frozen=True)
class ServiceRow:
    """One service of the node's own; those of parameters and of the lifecycle are rclpy's."""

    name: str
    type: str
    description: str


SERVICES = (
    ServiceRow("~/enable", "std_srvs/srv/SetBool", "false: nothing is subscribed to and no mask is "
               "made, weights and state stay; true: as before. Can be called in every state."),
    ServiceRow("~/snapshot", "std_srvs/srv/Trigger", "Writes the last messages, frames and masks, "
               "parameters and diagnostics as a folder (snapshot.folder, snapshot.seconds); "
               "answers with its path."),
)  # fmt: skip


def message_class(name: str) -> Any | None:
    """The class of a message type (`package/msg/Name`); None if it is not installed."""
    package, _, kind = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind, None)
    except ImportError:  # not there, or its libraries are not
        return None


@dataclass(frozen=True)
class ParameterRow:
    """One parameter."""

    name: str  # with its dots
    default: str | int | float | None  # gives the type; None: a list of doubles that is not set
    description: str
    unit: str = ""  # of a number
    low: Any = None  # smallest number that is allowed
    high: Any = None  # largest number that is allowed
    choices: tuple[str, ...] = ()  # words that a string may be; empty: any
    word: str = ""  # accepted instead of a number
    length: int | None = None  # of a list of doubles; None: any
    read: str = CONFIGURE  # LIVE: at every use, it can be set at any time; START: never again

    @property
    def expected(self) -> str:
        """Type and range in words, such as "an integer from 1 to 1000 messages"."""
        if self.choices:
            return f"one of {', '.join(map(repr, self.choices))}"
        if self.default is None:
            return f"{self.length or 'a list of'} doubles (with a decimal point)"
        kinds = {
            str: "a string", bool: "true or false", int: "an integer",
            float: "a double (with a decimal point)",
        }  # fmt: skip
        kind = kinds[type(self.default)] + (f" or {self.word!r}" if self.word else "")
        if self.low is None:
            return kind
        return f"{kind} from {self.low:g} to {self.high:g} {self.unit}".rstrip()

    def check(self, value: Any) -> None:
        """Raises RosError unless type, word, range and length of a value are as expected."""
        expected = self.expected + self._hint(value)
        require(self._fits(value), f"parameter {self.name}", value, expected, RosError)

    def check_override(self, given: Mapping[str, Any]) -> None:
        """`check` the value a node was started with (rclpy's Parameters by name), if any."""
        found = given.get(self.name)
        if found is not None and not (self.default is None and found.value is None):
            self.check(found.value)

    def _hint(self, value: Any) -> str:
        """What to write instead, where that can be told."""
        if value is False and "off" in self.choices:
            return """; YAML reads off as false: write "off" in quotes, in a shell '"off"'"""
        if self.choices:
            near = near_match(value, self.choices)
            return near if near.startswith("; did you mean") else ""  # all choices are said
        return "; write it in quotes" if self.default == "" and not isinstance(value, str) else ""

    def _fits(self, value: Any) -> bool:
        if self.default is None:
            is_list = isinstance(value, (list, tuple)) and all(isinstance(v, float) for v in value)
            return is_list and len(value) in (0, self.length or len(value))
        if self.word and value == self.word:
            return True
        if self.word and type(value) is int and abs(value) < 2**63:
            value = float(value)
        if type(value) is not type(self.default):
            return False
        if self.choices:
            return value in self.choices
        return self.low is None or self.low <= value <= self.high


def _seconds(
    name: str, default: float, low: float, high: float, text: str, read: str = CONFIGURE
) -> ParameterRow:
    return ParameterRow(name, default, text, "s", low, high, read=read)


def _choice(name: str, choices: tuple[str, ...], text: str, read: str = CONFIGURE) -> ParameterRow:
    """A row of words, of which the first is the default."""
    return ParameterRow(name, choices[0], text, choices=choices, read=read)


def _transport(name: str) -> ParameterRow:
    return _choice(
        f"{name}.transport", ("auto", "raw", "compressed"), f"Which topic is read: raw "
        f"({name}/image) or compressed ({name}/image/compressed). auto: the one that is "
        "published.",
    )  # fmt: skip


def _image(name: str) -> ParameterRow:
    return _choice(
        f"{name}.image", ("auto", "rectified", "rectified_frame", "raw"), f"What the {name} image "
        "is: rectified (R and P of its CameraInfo are used); rectified_frame (the same, where TF "
        "and extrinsics lead into the rectified camera itself, as in KITTI recordings: R and the "
        "baseline in P are not used); raw (K and D are used). auto: rectified if D is zero and P "
        "is set.",
    )  # fmt: skip


def _info(name: str) -> tuple[ParameterRow, ...]:
    topic, info = f"{name}/camera_info", f"{name}.info"
    return (
        ParameterRow(f"{info}.width", 0, f"Width of the full image. 0: {topic} is read instead of "
                     "these parameters.", "pixels", 0, 16384),
        ParameterRow(f"{info}.height", 0, "Height of the full image.", "pixels", 0, 16384),
        ParameterRow(f"{info}.distortion_model", "plumb_bob",
                     "plumb_bob, rational_polynomial, equidistant or none."),
        ParameterRow(f"{info}.d", None, "Distortion coefficients, as in CameraInfo."),
        ParameterRow(f"{info}.k", None, "Intrinsics of the raw image, row by row.", length=9),
        ParameterRow(f"{info}.r", None, "Rectification, row by row. Not set: none.", length=9),
        ParameterRow(f"{info}.p", None, "Projection of the rectified image, row by row.",
                     length=12),
        ParameterRow(f"{info}.frame_id", "", "Frame of the calibration. Not used; `mmsam bag "
                     "calib` notes it here."),
    )  # fmt: skip


def _sensor(name: str) -> tuple[ParameterRow, ...]:
    return (
        _seconds(f"{name}.slop", 0.05, 0, 10, "Largest time between the stamps of sensor and "
                 "camera that still match.", LIVE),
        _seconds(f"{name}.offset", 0.0, -86400, 86400, "Added to the sensor's stamps before "
                 "matching.", LIVE),
        _seconds(f"{name}.max_age", 0.2, 0, 60, "Without a match, the sensor's last message is "
                 "reused up to this age and counted as held.", LIVE),
        _seconds(f"{name}.min_interval", -1.0, -10, 10, "Shortest time between two messages of "
                 "the sensor. A message shortly before the camera's is then taken without waiting "
                 "for the next one. 0: unknown, always wait; negative: learned from the stream.",
                 LIVE),
        _transport(name),
    )  # fmt: skip


def _pose(name: str, used: str) -> ParameterRow:
    return ParameterRow(f"{name}.extrinsics", None, "Pose of the sensor in the camera's frame: x, "
                        f"y, z (m), qx, qy, qz, qw. Used {used}, if TF has no transform.",
                        length=7)  # fmt: skip


PARAMETERS = (  # config/segment.yaml lists them in the same order
    ParameterRow("autostart", True, "Whether the node configures and activates itself. false: it "
                 "waits for ros2 lifecycle, or a manager such as Nav2's.", read=START),
    ParameterRow("weights", "", "Weights file (.safetensors), or a name of mmsam weights list. "
                 "Empty: the weights that come with the package, for evaluation only; do not use "
                 "them on a vehicle."),
    ParameterRow("device", "auto", "auto (a GPU if there is one), cpu, cuda or cuda:N."),
    _choice("precision", ("fp32", "bf16", "fp16"), "Arithmetic of the network. fp16: with ONNX "
            "Runtime on a GPU."),
    _choice("engine", ("torch", "auto", "compile", "triton", "onnx"), "What runs the network. "
            "torch: PyTorch; compile: torch.compile; triton: PyTorch with kernels of its own, on a "
            "GPU; onnx: ONNX Runtime (pip install onnx onnxruntime onnxscript); "
            "auto: the fastest on this machine. With auto, compile and onnx the first start takes "
            "minutes, later ones seconds."),
    ParameterRow("engine.providers", "", "Execution providers of ONNX Runtime, best first, with "
                 "commas: TensorrtExecutionProvider, CUDAExecutionProvider, "
                 "OpenVINOExecutionProvider, CPUExecutionProvider. Empty: those that fit the "
                 "device, without TensorRT."),
    _choice("geometry.mode", ("", "pad", "resize", "slide"), "How the camera image is brought to "
            "the network's input size. Empty: as the weights file says."),
    ParameterRow("geometry.stride", 0, "Step of the windows with geometry.mode slide. 0: as the "
                 "weights file says.", "pixels", 0, 8192),
    _choice("sync_backend", ("native", "message_filters"), "What matches the sensors to the "
            "camera. message_filters gives complete sets only, without deadline and offset."),
    _seconds("sync.deadline", 0.1, 0, 10, "Longest time a camera image waits for the messages "
             "that belong to it. Measured on the steady clock: increase it if a bag is played "
             "slowly.", LIVE),
    _seconds("sync.jump", 0.05, 0, 60, "A stamp this far before its stream's newest is a jump back "
             "in time (a looped bag): matching starts again.", LIVE),
    ParameterRow("sync.queue", 30, "Buffer of each stream.", "messages", 1, 1000),
    ParameterRow("confidence_threshold", 0.0, "Pixels whose confidence is lower have no label: 255 "
                 "in the mask and in all that is made of it. 0: all have one.", "share", 0, 1,
                 read=LIVE),
    ParameterRow("overlay_opacity", 0.5, "Opacity of the class colours in ~/overlay and "
                 "~/overlay/<class>.", "share", 0, 1, read=LIVE),
    ParameterRow("repeat_classes", False, "Whether ~/classes and ~/label_info are published every "
                 "second, for subscribers that are not transient local."),
    _choice("image_backend", ("native", "cv_bridge"), "What decodes sensor_msgs/Image."),
    _choice("plausibility", ("warn", "refuse", "off"), "What happens to a sensor whose data cannot "
            "be what the weights were trained on (unit, polarity, orientation). warn: it is "
            "reported in the log and diagnostics; refuse: the sensor is left out of the mask as "
            "well.", LIVE),
    _choice("input_reliability", ("auto", "reliable", "best_effort"), "QoS reliability of the "
            "subscriptions. auto: that of the publishers."),
    _seconds("health.silence", 2.0, 0.1, 3600, "An input without a message for longer is silent; "
             "if it is the camera, the mode is STARVED. A sensor that less than half of the masks "
             "of this time have is missing: DEGRADED.", LIVE),
    ParameterRow("health.failures", 5, "Frames that fail one after the other, after which the mode "
                 "is FAULT.", "frames", 1, 1000, read=LIVE),
    _seconds("health.latency", 0.0, 0, 3600, "A p95 of the latency above it is a warning in "
             "diagnostics. 0: none.", LIVE),
    ParameterRow("health.rate", 0.0, "Fewer masks per second are a warning in diagnostics. 0: "
                 "none.", "Hz", 0, 1000, read=LIVE),
    _seconds("snapshot.seconds", 0.0, 0, 60, "What ~/snapshot writes: all frames of this time, as "
             "far as they fit 512 MiB of memory. 0: the last one.", LIVE),
    ParameterRow("snapshot.folder", "", "Where ~/snapshot makes its folders. Empty: "
                 "mmsam_snapshots in ROS_HOME, or in ~/.ros.", read=LIVE),
    _transport("camera"),
    _image("camera"),
    *_info("camera"),
    *_sensor("lidar"),
    _pose("lidar", "to project its points"),
    ParameterRow("lidar.intensity_field", "auto", "Field of the cloud that is read as intensity. "
                 "auto: the first of intensity, i, intensities, reflectivity, reflectance, "
                 "remission, signal that is there; the log says which."),
    ParameterRow("lidar.frame", "", "Frame to bring the points into before range and height are "
                 "taken: one of the sensor, with z up. Empty: the cloud's own. For clouds in "
                 "base_link, odom or an optical frame."),
    ParameterRow("lidar.frame_pose", None, "Pose of the cloud's own frame in lidar.frame: x, y, z "
                 "(m), qx, qy, qz, qw. Used if TF has no transform.", length=7),
    ParameterRow("lidar.intensity_scale", 1.0, "Factor on the intensity, if its unit is not that "
                 "of the training data. auto: measured on the clouds.", word="auto"),
    _choice("lidar.motion", ("off", "twist", "tf"), "How the LiDAR's own motion is taken out "
            "of its clouds, whose points then are where they would have been measured at the "
            "image's stamp: from vehicle/twist, or from TF. Needs a time of each point."),
    ParameterRow("lidar.motion_frame", "odom", "With lidar.motion tf: the frame that stands "
                 "still."),
    ParameterRow("lidar.motion_pose", None, "Pose of the cloud's own frame in that of "
                 "vehicle/twist: x, y, z (m), qx, qy, qz, qw. Used if TF has no transform.",
                 length=7),
    *_sensor("thermal"),
    _pose("thermal", "with thermal.registration rotation"),
    ParameterRow("thermal.invert", False, "Whether warm is dark in the thermal image (black-hot) "
                 "while the weights expect the opposite."),
    ParameterRow("thermal.limits", None, "Values of the thermal image (counts, or degrees) that "
                 "become black and white. Not set: as the weights say.", length=2),
    _choice("thermal.registration", ("none", "homography", "rotation"), "How the thermal image is "
            "brought into the camera's view. none: it has the same view; homography: "
            "thermal.homography; rotation: calibration and extrinsics, without parallax."),
    _image("thermal"),
    ParameterRow("thermal.homography", None, "From thermal to camera pixels, row by row, as OpenCV "
                 "finds it. Only with thermal.registration homography.", length=9),
    *_info("thermal"),
    *_sensor("event"),
    *_sensor("depth"),
)  # fmt: skip


_OF_ROS = ("use_sim_time", "start_type_description_service", "qos_overrides.")  # rclpy declares


def check_names(given: Iterable[str], warn: Callable[[str], Any]) -> None:
    """Warn of names that do not exist; RosError for one that is close to one that does."""
    known = [row.name for row in PARAMETERS]
    for name in given:
        if name not in known and not name.startswith(_OF_ROS):
            hint = near_match(name, known)
            if hint.startswith("; did you mean"):
                raise RosError(f"parameter {name!r} does not exist{hint}")
            # it may be meant for another node that reads the same file
            warn(f"parameter {name!r} does not exist and is ignored")
