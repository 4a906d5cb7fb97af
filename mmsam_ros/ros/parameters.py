# SPDX-License-Identifier: Apache-2.0
"""The node's parameters, declared and checked, and the objects that they configure.

RosError names a parameter that is wrong. `control.py` handles those that are set later. Only
declaring them needs ROS.
"""

import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from mmsam_ros.inference import Segmenter
from mmsam_ros.inference.engines import Engine
from mmsam_ros.inference.engines.choose import make_engine
from mmsam_ros.inference.engines.eager import PRECISIONS, TorchEngine
from mmsam_ros.inference.engines.ladder import Ladder, free_memory, rungs
from mmsam_ros.inference.errors import InferenceError
from mmsam_ros.ros.calibration import (
    INFO_FIELDS,
    CameraInfos,
    Extrinsics,
    camera_model,
    pose_parameter,
)
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.frames import Adjustments, FrameBuilder
from mmsam_ros.ros.interface import PARAMETERS, START, ParameterRow, check_names
from mmsam_ros.ros.messages import cv_bridge_reader, read_pixels
from mmsam_ros.ros.motion import CloudMotion
from mmsam_ros.ros.notes import SILENT, Notes
from mmsam_ros.ros.plausibility import IntensityScale, Plausibility
from mmsam_ros.ros.sync import AuxiliarySync, SyncConfig, Synchroniser
from mmsam_ros.ros.sync_stock import StockSynchroniser
from mmsam_ros.sensors import (
    CAMERA,
    HALF_PIXEL,
    Registration,
    check_limits,
)
from mmsam_ros.weights import Geometry, Spec, default_weights, load_model, weights_file

Parameters = Mapping[str, Any]  # checked values by name; a list that is not set is None
_WHOLE = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)  # region of interest


def declare_parameters(node: Any) -> dict[str, Any]:
    """Declare all parameters on a node and read them; RosError if a value is not allowed, or a name
    is close to one that exists. `check_together` looks at combinations.
    """
    parameters = {row.name: _declare(node, row) for row in PARAMETERS}
    check_names(node._parameter_overrides, node.get_logger().warning)
    return parameters


def plain_value(parameter: Any) -> Any:
    """A value as `declare_parameters` has it: an empty list is None."""
    value = parameter.value
    return list(value) or None if isinstance(value, (array.array, list, tuple)) else value


def check_parameters(given: Mapping[str, Any], warn: Callable[[str], Any]) -> Parameters:
    """All parameters, with defaults for those not given, without a node; errors as for
    `declare_parameters`, warnings as in the node's log.
    """
    for row in PARAMETERS:
        if row.name in given:
            row.check(given[row.name])
    parameters = {row.name: given.get(row.name, row.default) for row in PARAMETERS}
    parameters |= {row.name: parameters[row.name] or None for row in PARAMETERS
                   if row.default is None}  # fmt: skip
    check_names(given, warn)
    check_together(parameters)
    return parameters


def _declare(node: Any, row: ParameterRow) -> Any:
    """The value of a parameter after declaring it on the node."""
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    described = ParameterDescriptor(
        description=row.description, additional_constraints=f"{row.expected}; read: {row.read}",
        read_only=row.read == START, dynamic_typing=bool(row.word),
    )  # fmt: skip
    if isinstance(row.default, int) and not isinstance(row.default, bool):
        described.integer_range = [IntegerRange(from_value=row.low, to_value=row.high, step=1)]
    elif isinstance(row.default, float) and row.low is not None:
        low, high = float(row.low), float(row.high)
        described.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    row.check_override(node._parameter_overrides)  # rclpy does not say what is expected
    if row.default is None:
        return _declare_list(node, row.name, described)
    return node.declare_parameter(row.name, row.default, described).value


def _declare_list(node: Any, name: str, described: Any) -> list[float] | None:
    """The value of a list of doubles after declaring it; None if it is empty, that is, not set.

    rclpy answers a request for many parameters with nothing if one of them has no value, and it
    takes an empty list for one of bytes. So the empty value is set once the type is declared.
    """
    from rclpy.parameter import Parameter

    kind = Parameter.Type.DOUBLE_ARRAY
    value = node.declare_parameter(name, kind).value or []
    node.set_parameters([Parameter(name, kind, list(value))])
    described.type = kind.value
    node.set_descriptor(name, described)
    return list(value) or None


def check_together(parameters: Parameters) -> None:
    """Raise RosError for values that do not go together."""
    if parameters["sync_backend"] == "message_filters":
        for row in PARAMETERS:
            timing = row.name.endswith((".deadline", ".offset", ".max_age", ".min_interval"))
            if timing and parameters[row.name] != row.default:
                raise RosError(
                    f"parameter {row.name}: found {parameters[row.name]} with sync_backend "
                    "'message_filters', which gives complete sets only, without deadline, offset "
                    "or reuse; remove it or set sync_backend to 'native'"
                )
    mode, homography = parameters["thermal.registration"], parameters["thermal.homography"]
    if (mode == "homography") != bool(homography):
        raise RosError(
            f"parameter thermal.homography: found {homography or 'no value'} with "
            f"thermal.registration {mode!r}, expected 9 doubles with 'homography' only"
        )
    if parameters["lidar.frame_pose"] and not parameters["lidar.frame"]:
        raise RosError(
            f"parameter lidar.frame_pose: found {parameters['lidar.frame_pose']} without "
            "lidar.frame, expected the name of the frame that it is a pose in"
        )


def weights_path(parameters: Parameters) -> Path:
    """The weights file of the parameters."""
    given = parameters["weights"]
    return weights_file(given) if given else default_weights()


def load_segmenter(parameters: Parameters, say: Callable[[str], Any]) -> Segmenter:
    """The segmenter; an engine that fails is replaced, which `say` logs. Errors are also those of
    `load_model` and `Segmenter`.
    """
    model, spec = load_model(weights_path(parameters))
    providers = filter(None, parameters["engine.providers"].replace(" ", "").split(","))
    segmenter = Segmenter(
        model, spec, parameters["device"], parameters["precision"],
        make_geometry(parameters, spec),
        engine=parameters["engine"], providers=tuple(providers),
    )  # fmt: skip
    size, given = segmenter.geometry.size, parameters["precision"]
    _warm_up(segmenter, lambda d: make_engine("torch", model, d, given, size), parameters, say)
    engine = segmenter.engine
    followers = rungs(engine, model, parameters["precision"])
    segmenter.engine = Ladder(engine, followers, segmenter.geometry.size, say)
    return segmenter


def _warm_up(
    segmenter: Segmenter, make_torch: Callable[[torch.device], Engine], parameters: Parameters,
    say: Callable[[str], Any],
) -> None:  # fmt: skip
    """Make the segmenter ready. The engine that `auto` chose may work with all sensors, as it was
    measured, and fail with fewer: PyTorch then takes its place, which `say` logs.
    """
    engine, precision = segmenter.engine, parameters["precision"]
    try:
        segmenter.warm_up()
    except InferenceError as error:
        # fp16 was asked for, and PyTorch does not have it
        replaceable = type(engine) is not TorchEngine and precision in PRECISIONS
        if parameters["engine"] != "auto" or not replaceable:
            raise
        say(f"engine auto: torch takes the place of {engine.name}, which fails: {error}")
    else:
        return
    device = engine.device
    del engine, segmenter.engine  # there may be no room for both
    free_memory()
    segmenter.engine = make_torch(device)
    segmenter.warm_up()


def make_geometry(parameters: Parameters, spec: Spec) -> Geometry:
    """The geometry of the weights, unless the parameters change it."""
    own, step = spec.geometry, parameters["geometry.stride"]
    mode = parameters["geometry.mode"] or own.mode
    if step and mode != "slide":
        raise RosError(
            f"parameter geometry.stride: found {step} with geometry.mode {mode!r}, expected 0; "
            "windows need geometry.mode 'slide'"
        )
    stride = (step, step) if step else own.stride or (own.size[0] // 2, own.size[1] // 2)
    return Geometry(mode, own.size, stride if mode == "slide" else None)


def sync_config(parameters: Parameters, sensors: tuple[str, ...]) -> SyncConfig:
    """How the sensors that the weights read are matched."""

    def values(section: str, *leaves: str) -> list[Any]:
        return [parameters[f"{section}.{leaf}"] for leaf in leaves]

    leaves = ("slop", "offset", "max_age", "min_interval")
    auxiliaries = {sensor: AuxiliarySync(*values(sensor, *leaves)) for sensor in sensors}
    return SyncConfig(auxiliaries, *values("sync", "deadline", "queue", "jump"))


def make_synchroniser(parameters: Parameters, sensors: tuple[str, ...]) -> Synchroniser:
    """The synchroniser of the sensors that the weights read."""
    config = sync_config(parameters, sensors)
    stock = parameters["sync_backend"] == "message_filters"
    return (StockSynchroniser if stock else Synchroniser)(config)


def make_camera_infos(parameters: Parameters, notes: Notes = SILENT) -> CameraInfos:
    """The calibrations; those that the parameters give are fixed."""
    images = {name: parameters[f"{name}.image"] for name in (CAMERA, "thermal")}
    fixed = {}
    for name, image in images.items():
        given = {leaf: parameters[f"{name}.info.{leaf}"] for leaf in INFO_FIELDS}
        if given["width"]:
            unset = {"height": 0, "distortion_model": "", "d": [], "k": [0.0] * 9, "r": [0.0] * 9,
                     "p": [0.0] * 12}  # as of a CameraInfo # fmt: skip
            given = unset | {leaf: value for leaf, value in given.items() if value}
            info = SimpleNamespace(**given, binning_x=0, binning_y=0, roi=_WHOLE)
            camera_model(info, image, f"parameter {name}.info")  # raises if it is not usable
            fixed[name] = info
    return CameraInfos(images, fixed, notes)


def make_frame_builder(
    parameters: Parameters,
    spec: Spec,
    infos: CameraInfos,
    poses: Extrinsics,
    notes: Notes = SILENT,
) -> FrameBuilder:
    """The frame builder, with registration and image backend of the parameters."""
    mode = parameters["thermal.registration"]
    thermal = None if mode == "rotation" else Registration()
    if mode == "homography":
        thermal = opencv_homography(parameters["thermal.homography"])
    read = cv_bridge_reader() if parameters["image_backend"] == "cv_bridge" else read_pixels
    motion = make_motion(parameters, poses, notes) if "lidar" in spec.sensors else None
    return FrameBuilder(
        spec, infos, poses, thermal, read, notes=notes, motion=motion,
        intensity_field=parameters["lidar.intensity_field"], adjust=make_adjustments(parameters),
    )  # fmt: skip


def make_motion(parameters: Parameters, poses: Extrinsics, notes: Notes) -> CloudMotion | None:
    """What takes the LiDAR's motion out of its clouds; None if it is not wanted."""
    by, pose = parameters["lidar.motion"], parameters["lidar.motion_pose"]
    if pose and by != "twist":
        raise RosError(
            f"parameter lidar.motion_pose: found {pose} with lidar.motion {by!r}, expected it with "
            "'twist' only"
        )
    if by == "off":
        return None
    place = pose_parameter("lidar.motion_pose", pose)
    return CloudMotion(poses, by, parameters["lidar.motion_frame"], place, notes)


def make_adjustments(parameters: Parameters) -> Adjustments:
    """What the parameters say of sensors whose data differs from that of the training."""
    limits = parameters["thermal.limits"]
    if limits:
        check_limits("parameter thermal.limits", "mono16", limits)
    return Adjustments(
        lidar_frame=parameters["lidar.frame"],
        lidar_frame_pose=pose_parameter("lidar.frame_pose", parameters["lidar.frame_pose"]),
        thermal_limits=(limits[0], limits[1]) if limits else None,
        thermal_inverted=parameters["thermal.invert"],
    )


def make_plausibility(
    parameters: Parameters, spec: Spec, infos: CameraInfos, warn: Callable[[str], Any]
) -> Plausibility:
    """The check of the sensors' data, which also scales the LiDAR's intensity."""
    scale = IntensityScale(spec, parameters["lidar.intensity_scale"])
    return Plausibility(spec, parameters["plausibility"], warn, scale, infos)


def opencv_homography(values: Sequence[float]) -> Registration:
    """The registration of a homography thermal -> camera as OpenCV finds it, row by row; RosError
    unless it is nine finite values of an invertible matrix.
    """
    try:
        matrix = np.asarray(values, np.float64).reshape(3, 3)
        return Registration.from_homography(HALF_PIXEL @ matrix @ np.linalg.inv(HALF_PIXEL))
    except ValueError as error:  # SensorError among them
        raise RosError(f"parameter thermal.homography: found {values}: {error}") from error
