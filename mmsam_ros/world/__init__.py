# SPDX-License-Identifier: Apache-2.0
"""A synthetic world for camera, LiDAR and thermal camera, with ground truth; the same for one seed.

`style` draws random numbers by split. `street` builds a `scene` from `scenery` and `traffic`, whose
shapes and materials are in `meshes`. `surfaces` finds what rays hit and how it looks; `camera`,
`thermal` and `lidar` say what the sensors make of it. A `vehicle` carries the sensors; `bag` and
`dataset` write the frames.
"""

from mmsam_ros.world.camera import Picture
from mmsam_ros.world.lidar import Cloud
from mmsam_ros.world.scene import CLASSES, World
from mmsam_ros.world.street import build_street
from mmsam_ros.world.style import world_seed
from mmsam_ros.world.vehicle import Rig, Sample, Vehicle, draw_rig, make_rig

__all__ = [
    "CLASSES", "Cloud", "Picture", "Rig", "Sample", "Vehicle", "World", "build_street", "draw_rig",
    "make_rig", "world_seed",
]  # fmt: skip
