# SPDX-License-Identifier: Apache-2.0
"""Parameters to the objects that the node is made of. RosError names a parameter that is wrong."""

import numpy as np
from sensor_msgs.msg import CameraInfo

from mmsam_ros.inference import Segmenter
from mmsam_ros.ros.camera_info import INFO_FIELDS, CameraInfos, camera_model
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.extrinsics import Extrinsics
from mmsam_ros.ros.frames import FrameBuilder, opencv_homography
from mmsam_ros.ros.images import cv_bridge_reader, read_pixels
from mmsam_ros.ros.parameters import Parameters
from mmsam_ros.ros.sets import CAMERA
from mmsam_ros.ros.stock_sync import StockSynchroniser
from mmsam_ros.ros.sync import AuxiliarySync, SyncConfig, Synchroniser
from mmsam_ros.sensors import Registration
from mmsam_ros.weights import Geometry, Spec, default_weights, load_model

RECTIFIED = {"auto": None, "rectified": True, "raw": False}  # of parameter camera.image


def load_segmenter(parameters: Parameters) -> Segmenter:
    """The segmenter; errors as of `load_model` and `Segmenter` too."""
    model, spec = load_model(parameters["weights"] or default_weights())
    own, step = spec.geometry, parameters["geometry.stride"]
    mode = parameters["geometry.mode"] or own.mode
    if step and mode != "slide":
        raise RosError(
            f"parameter geometry.stride: found {step} with geometry.mode {mode!r}, expected 0; "
            "windows need geometry.mode 'slide'"
        )
    stride = None
    if mode == "slide":
        stride = (step, step) if step else own.stride or (own.size[0] // 2, own.size[1] // 2)
    geometry = Geometry(mode, own.size, stride)
    return Segmenter(model, spec, parameters["device"], parameters["precision"], geometry)


def make_synchroniser(parameters: Parameters, sensors: tuple[str, ...]) -> Synchroniser:
    """The synchroniser of the sensors that the weights read."""
    auxiliaries = {}
    for sensor in sensors:
        leaves = ("slop", "offset", "max_age", "min_interval")
        slop, offset, age, interval = (parameters[f"{sensor}.{leaf}"] for leaf in leaves)
        auxiliaries[sensor] = AuxiliarySync(slop, offset, age, None if interval < 0 else interval)
    timing = (parameters[f"sync.{leaf}"] for leaf in ("deadline", "queue", "jump"))
    stock = parameters["sync_backend"] == "message_filters"
    return (StockSynchroniser if stock else Synchroniser)(SyncConfig(auxiliaries, *timing))


def make_camera_infos(parameters: Parameters) -> CameraInfos:
    """The camera models; those that the parameters give are fixed."""
    camera_rectified = RECTIFIED[parameters["camera.image"]]
    fixed = {}
    for name in ("camera", "thermal"):
        given = {leaf: parameters[f"{name}.info.{leaf}"] for leaf in INFO_FIELDS}
        if given["width"]:
            given["r"] = given["r"] or np.eye(3).flatten().tolist()
            info = CameraInfo(**{leaf: value for leaf, value in given.items() if value})
            rectified = camera_rectified if name == CAMERA else None
            fixed[name] = camera_model(info, rectified, f"parameter {name}.info")
    return CameraInfos(camera_rectified, fixed)


def make_frame_builder(
    parameters: Parameters, spec: Spec, infos: CameraInfos, poses: Extrinsics
) -> FrameBuilder:
    """The frame builder, with registration and image backend of the parameters."""
    mode = parameters["thermal.registration"]
    thermal = None if mode == "rotation" else Registration()
    if mode == "homography":
        thermal = opencv_homography(parameters["thermal.homography"])
    read = cv_bridge_reader() if parameters["image_backend"] == "cv_bridge" else read_pixels
    return FrameBuilder(spec, infos, poses, thermal, read)
