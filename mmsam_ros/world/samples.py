# SPDX-License-Identifier: Apache-2.0
"""A vehicle with three sensors in a world: frames of a sensor at any time, or samples of a drive."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.world import camera, lidar
from mmsam_ros.world.camera import Picture
from mmsam_ros.world.lidar import Cloud
from mmsam_ros.world.raycast import Caster
from mmsam_ros.world.rig import OFFSETS, Rig
from mmsam_ros.world.scene import World
from mmsam_ros.world.style import Dice


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture and the nearest frames of the other sensors; calibration is in `rig`."""

    picture: Picture
    cloud: Cloud
    thermal: NDArray[np.uint16]
    rig: Rig


class Vehicle:
    """Renders any sensor's frame at any time (s); the same time gives the same frame."""

    def __init__(self, world: World, rig: Rig) -> None:
        self.world, self.rig, self.caster = world, rig, Caster(world)

    def camera(self, time: float) -> Picture:
        """The camera's picture, with true labels."""
        return camera.render(self.caster, self.rig.camera, time, self._noise(10, time))

    def lidar(self, time: float) -> Cloud:
        """The LiDAR's turn that begins at `time`."""
        turn, noise = 1 / self.rig.rates["lidar"], self._noise(11, time)
        return lidar.scan(self.caster, self.rig.lidar, time, turn, noise)

    def thermal(self, time: float) -> NDArray[np.uint16]:
        """The thermal image (H, W), hundredths of a kelvin."""
        return camera.render_thermal(self.caster, self.rig.thermal, time, self._noise(12, time))

    def samples(self, count: int, interval: float) -> Iterator[Sample]:
        """`count` pictures, `interval` seconds apart, with the other sensors' frames.

        LiDAR and thermal camera have their own clocks: a sample has their frames nearest in time.
        """
        for i in range(count):
            time = OFFSETS["camera"] + i * interval
            cloud = self.lidar(self.rig.nearest("lidar", time))
            heat = self.thermal(self.rig.nearest("thermal", time))
            yield Sample(self.camera(time), cloud, heat, self.rig)

    def _noise(self, sensor: int, time: float) -> Dice:
        return Dice(self.world.seed, sensor, round(time * 1e9))
