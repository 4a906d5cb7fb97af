# SPDX-License-Identifier: Apache-2.0
"""A synthetic world for the three sensors, deterministic by seed.

Separate stages: `street` describes a scene (`world`: instances, motion, lights), `raycast` finds
what rays hit, `camera`, `lidar` and `thermal` are the sensors' physics over `materials` and
`textures`, `rig` their places and clocks, `samples` iterates over numpy samples. `bag` writes a
drive, `render` whole data sets in the layouts of `exports`; `difficulty` says what is hard.
"""

from mmsam_ros.data.synthetic.lidar import Cloud
from mmsam_ros.data.synthetic.rig import LidarSpec, PinholeSpec, Rig, make_rig
from mmsam_ros.data.synthetic.samples import Picture, Sample, Vehicle, samples
from mmsam_ros.data.synthetic.street import build_street
from mmsam_ros.data.synthetic.style import split_of, world_seed
from mmsam_ros.data.synthetic.thermal import LIMITS as THERMAL_LIMITS
from mmsam_ros.data.synthetic.world import CLASSES, World

__all__ = [
    "CLASSES",
    "THERMAL_LIMITS",
    "Cloud",
    "LidarSpec",
    "Picture",
    "PinholeSpec",
    "Rig",
    "Sample",
    "Vehicle",
    "World",
    "build_street",
    "make_rig",
    "samples",
    "split_of",
    "world_seed",
]
