# SPDX-License-Identifier: Apache-2.0
"""Frames of the synthetic world, changes of them, and what the node finds in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.inference.geometry import Plan
from mmsam_ros.ros.calibration import CameraInfos
from mmsam_ros.ros.plausibility import (
    IntensityScale,
    Plausibility,
)
from mmsam_ros.sensors import (
    Frame,
    LidarPoints,
    Planes,
    SensorImage,
    frame_planes,
)
from mmsam_ros.weights import Spec
from mmsam_ros.world.dataset import Scene
from mmsam_ros.world.style import world_seed
from mmsam_ros.world.vehicle import make_rig

RIG = make_rig(192, 144)
IDS = {"camera": "cam_optical", "lidar": "velodyne", "thermal": "boson"}
Change = Callable[[Frame], Frame]


def frames_of(weather: str, case: str, number: int = 900) -> list[Frame]:
    """Four frames of a drive that the weights have not seen."""
    scene = Scene(world_seed("test", number), "test", weather, case, range(4))
    return [
        Frame(
            sample.picture.rgb,
            {
                "lidar": LidarPoints(sample.cloud.xyz, sample.cloud.intensity, RIG.T_camera_lidar),
                "thermal": SensorImage(sample.thermal, RIG.registration),
            },
            RIG.camera_model,
        )
        for sample in scene.samples(RIG)
    ]


class Checked:
    """What the node finds in frames, and what it makes of the planes."""

    def __init__(
        self, spec: Spec, mode: str = "warn", scale: float | str = 1.0,
        infos: CameraInfos | None = None,
    ) -> None:  # fmt: skip
        self.spec, self.now, self.logged = spec, 0.0, list[str]()
        self.plausibility = Plausibility(
            spec, mode, self.logged.append, IntensityScale(spec, scale),
            infos or CameraInfos(), lambda: self.now,
        )  # fmt: skip
        self.planes: Planes | None = None

    def __call__(self, frames: list[Frame], change: Change | None = None) -> Mapping[str, str]:
        for frame in frames:
            self.now += 1.0
            given = change(frame) if change else frame
            canvas = Plan.of(self.spec.geometry, given.size).canvas
            planes = frame_planes(given, self.spec.modalities, canvas)
            self.planes = self.plausibility(given, planes, IDS, self.now)
        return self.plausibility.findings


def cloud(change: Callable[[LidarPoints], LidarPoints]) -> Change:
    return lambda f: replace(f, sensors={**f.sensors, "lidar": change(f.sensors["lidar"])})  # type: ignore[arg-type]


def intensity(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Change:
    return cloud(lambda c: replace(c, intensity=change(c.intensity).astype(np.float32)))
