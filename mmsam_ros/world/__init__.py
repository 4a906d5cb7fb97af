# SPDX-License-Identifier: Apache-2.0
"""A synthetic world for camera, LiDAR and thermal camera, with ground truth; the same for one seed.

`style` draws random numbers by split. `street` builds a scene (`scene`) from `scenery` and `traffic`,
whose shapes and materials are in `meshes`. `raycast` finds what rays hit, `textures` how it looks,
and `physics` what the sensors make of it. A `vehicle` carries the sensors and gives their frames;
`bag` and `dataset` write them.
"""

from mmsam_ros.world.physics import Cloud, Picture
from mmsam_ros.world.scene import CLASSES, World
from mmsam_ros.world.street import build_street
from mmsam_ros.world.style import world_seed
from mmsam_ros.world.vehicle import Rig, Sample, Vehicle, make_rig

__all__ = [
    "CLASSES", "Cloud", "Picture", "Rig", "Sample", "Vehicle", "World", "build_street", "make_rig",
    "world_seed",
]  # fmt: skip
