# SPDX-License-Identifier: Apache-2.0
"""Which topics can be the input of a sensor, the best one first. Needs no ROS."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mmsam_ros.ros.interface import COMPRESSED, INPUTS, Topic
from mmsam_ros.sensors import CAMERA, made_of_points
from mmsam_ros.weights import Spec

_TOPICS = {topic.name: topic for topic in INPUTS}


def sensor_candidates(
    sensor: str, parameters: Mapping[str, Any], spec: Spec, resolve: Callable[[str], str]
) -> list[Topic]:
    """Topics for the camera or an auxiliary; `resolve` gives the name after remapping."""
    raw = _TOPICS[f"{sensor}/image"]
    name = f"{resolve(raw.name)}/compressed"
    packed = [replace(raw, name=name, type=COMPRESSED)]
    if sensor == "depth":
        packed.insert(0, replace(packed[0], name=f"{name}Depth"))  # keeps all bits
    images = {"auto": [raw, *packed], "raw": [raw], "compressed": packed}
    candidates = images[parameters[f"{sensor}.transport"]]
    if sensor == "lidar":
        # points come first, unless the weights read a raster that points cannot give
        points_first = made_of_points(spec.encodings["lidar"])
        candidates.insert(0 if points_first else len(candidates), _TOPICS["lidar/points"])
    return candidates


def info_candidates(sensors: tuple[str, ...], fixed: Mapping[str, Any]) -> dict[str, Topic]:
    """The CameraInfo topics of the camera and the thermal camera that are read, by camera."""
    names = (CAMERA, "thermal") if "thermal" in sensors else (CAMERA,)
    return {name: _TOPICS[f"{name}/camera_info"] for name in names if name not in fixed}
