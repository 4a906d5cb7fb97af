# SPDX-License-Identifier: Apache-2.0
"""The world's classes in the words of the public data sets; None: it has no such class."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.synthetic.world import CLASS_IDS
from mmsam_ros.sensors import CLASS_SETS, NO_LABEL

CLASS_MAPS: Mapping[str, Mapping[str, str | None]] = {
    "deliver": {
        "road": "Road", "sidewalk": "SideWalk", "building": "Building",
        "vegetation": "Vegetation", "terrain": "Terrain", "sky": "Sky", "pole": "Pole",
        "traffic_sign": "TrafficSign", "person": "Pedestrian", "rider": "Pedestrian",
        "car": "Cars", "truck": "Truck", "bicycle": "TwoWheeler", "lane_mark": "RoadLine",
    },
    "fmb": {
        "road": "Road", "sidewalk": "Sidewalk", "building": "Building",
        "vegetation": "Vegetation", "terrain": None, "sky": "Sky", "pole": "Pole",
        "traffic_sign": "Traffic Sign", "person": "Person", "rider": "Person", "car": "Car",
        "truck": "Truck", "bicycle": "Bicycle", "lane_mark": "Road",
    },
    "muses": {
        "road": "road", "sidewalk": "sidewalk", "building": "building",
        "vegetation": "vegetation", "terrain": "terrain", "sky": "sky", "pole": "pole",
        "traffic_sign": "traffic sign", "person": "person", "rider": "rider", "car": "car",
        "truck": "truck", "bicycle": "bicycle", "lane_mark": "road",
    },
}  # fmt: skip


def id_map(kind: str) -> NDArray[np.uint8]:
    """(256,) the data set's training id of each of the world's; 255 where it has none."""
    ids = {info.name: info.id for info in CLASS_SETS[kind]}
    table = np.full(256, NO_LABEL, np.uint8)
    for topic, name in CLASS_MAPS[kind].items():
        if name is not None:
            table[CLASS_IDS[topic]] = ids[name]
    return table
