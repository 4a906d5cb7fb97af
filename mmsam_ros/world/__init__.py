# SPDX-License-Identifier: Apache-2.0
"""A synthetic world for camera, LiDAR and thermal camera, with ground truth; the same for one seed.

How its stages fit together, from a seed to files:

* `style` draws random numbers by split, `weather` the conditions of a scene.
* `street` builds the scene (`scene`: instances, motion, lights) from `scenery`, `vehicles` and
  `people`, whose shapes come from `meshes` and are made of `materials`.
* `raycast` finds what rays hit at a time. `camera`, `lidar` and `thermal` are the physics of the
  sensors on these hits, with `textures` on the surfaces; `rig` has their places, optics and clocks.
* `samples` joins them: any sensor's frame at any time (`Vehicle`), or samples of a drive.
* `bag` writes a drive as a ROS 2 bag, `dataset` a data set in the `folder` layout, with easy and
  hard frames by the rule of `difficulty`.
"""

from mmsam_ros.world.camera import Picture
from mmsam_ros.world.lidar import Cloud
from mmsam_ros.world.rig import Rig, make_rig
from mmsam_ros.world.samples import Sample, Vehicle
from mmsam_ros.world.scene import CLASSES, World
from mmsam_ros.world.street import build_street
from mmsam_ros.world.style import world_seed

__all__ = [
    "CLASSES", "Cloud", "Picture", "Rig", "Sample", "Vehicle", "World", "build_street", "make_rig",
    "world_seed",
]  # fmt: skip
