# SPDX-License-Identifier: Apache-2.0
"""The synthetic world in the layouts of the benchmarks, with their classes.

Each holds the auxiliary that the data set has, in the camera's view: LiDAR in DeLiVER's (range,
intensity, height as 8 bit) and MUSES's, thermal in FMB's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.open import BENCHMARKS
from mmsam_ros.sensors import NO_LABEL, rasterise, register, scale_thermal
from mmsam_ros.world import Sample, make_rig
from mmsam_ros.world.dataset import Scene, is_hard
from mmsam_ros.world.scene import CLASS_IDS
from support.layouts import write_deliver, write_fmb, write_fmb_lists, write_muses

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
"""The benchmarks' names of the world's classes; None: there is no such class."""

LIMITS = (26000, 31500)  # counts of -13 and 42 degrees Celsius, which fit day and night


def id_map(kind: str) -> NDArray[np.uint8]:
    """(256,) the benchmark's training id of each of the world's; 255 where it has none."""
    ids = {info.name: info.id for info in BENCHMARKS[kind].classes}
    table = np.full(256, NO_LABEL, np.uint8)
    for topic, name in CLASS_MAPS[kind].items():
        if name is not None:
            table[CLASS_IDS[topic]] = ids[name]
    return table


def make_world(top: Path, scenes: Sequence[Scene], size: tuple[int, int]) -> None:
    """The frames of a plan as top/deliver, top/fmb and top/muses."""
    listed = []
    for index, scene in enumerate(scenes):
        for number, sample in zip(scene.numbers, scene.samples(make_rig(*size)), strict=True):
            difficulty = "hard" if is_hard(sample) else "easy"
            listed.append((scene.split, number, difficulty))
            _deliver(top / "deliver", scene, index, number, sample)
            _fmb(top / "fmb", scene, difficulty, number, sample)
            _muses(top / "muses", scene, index, number, sample)
    write_fmb_lists(top / "fmb", listed)


def _deliver(root: Path, scene: Scene, index: int, number: int, sample: Sample) -> None:
    sequence = f"MAP_{1 + ('train', 'val', 'test').index(scene.split)}_point{index}"
    sequence += f"_{scene.case}" if scene.case not in ("ordinary", "thermallowres") else ""
    raster = _raster(sample)
    low, high = np.array([0, 0, -3], np.float32), np.array([100, 255, 7], np.float32)
    share = np.clip((raster - low) / (high - low), 1 / 255, 1) * (raster[..., :1] > 0)
    sources = {"lidar": np.round(255 * share).astype(np.uint8)}
    rgb, label = sample.picture.rgb, id_map("deliver")[sample.picture.labels]
    frame = f"{number:06d}"
    write_deliver(root, scene.split, scene.weather, sequence, frame, rgb, label, sources)


def _fmb(root: Path, scene: Scene, difficulty: str, number: int, sample: Sample) -> None:
    heat = scale_thermal(sample.thermal, "mono16", LIMITS).astype(np.float32)
    rgb, label = sample.picture.rgb, id_map("fmb")[sample.picture.labels]
    seen, _ = register(heat, sample.rig.registration, label.shape, label.shape)
    thermal = np.round(seen).astype(np.uint8)
    write_fmb(root, scene.split, number, difficulty, rgb, label, thermal)


def _muses(root: Path, scene: Scene, index: int, number: int, sample: Sample) -> None:
    """Rain and fog fall by day."""
    weather = scene.weather if scene.weather in ("fog", "rain") else "clear"
    time = "night" if scene.weather == "night" else "day"
    name = f"REC{index:04d}_frame_{number:06d}"
    rgb, label = sample.picture.rgb, id_map("muses")[sample.picture.labels]
    write_muses(root, scene.split, weather, time, name, rgb, label, {"lidar": _raster(sample)})


def _raster(sample: Sample) -> NDArray[np.float32]:
    T, cloud = sample.rig.T_camera_lidar, sample.cloud
    return rasterise(cloud.xyz, cloud.intensity, sample.rig.camera_model, T)
