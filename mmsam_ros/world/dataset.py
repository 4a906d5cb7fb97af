# SPDX-License-Identifier: Apache-2.0
"""Renders whole data sets in the `folder` layout, scene by scene, on all cores.

The same plan gives the same files: camera images, LiDAR points in the camera's view, thermal
counts, labels and the calibration.
"""

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.folder_writer import FolderWriter
from mmsam_ros.sensors import project
from mmsam_ros.world.difficulty import is_hard
from mmsam_ros.world.rig import Rig, make_rig
from mmsam_ros.world.samples import Sample, Vehicle
from mmsam_ros.world.scene import CASES, CLASSES, WEATHERS
from mmsam_ros.world.street import build_street
from mmsam_ros.world.style import world_seed


@dataclass(frozen=True)
class Scene:
    """One drive and its frames."""

    seed: int
    split: str
    weather: str
    case: str
    numbers: range  # of its frames; they count over all splits of the data set

    def samples(self, rig: Rig, interval: float = 0.8) -> Iterator[Sample]:
        """The frames, `interval` seconds apart."""
        count = len(self.numbers)
        world = build_street(self.seed, self.weather, self.case, count * interval)
        return Vehicle(world, rig).samples(count, interval)


def plan(frames: Mapping[str, int], *, per_scene: int = 8, first: int = 0) -> list[Scene]:
    """The scenes of a data set: `frames` per split, at most `per_scene` from each drive.

    Weathers take turns. Every second scene of a weather is ordinary, the other cases take turns in
    between, so that 50 scenes have every pair. `first`: number of every split's first world.
    """
    scenes: list[Scene] = []
    number = 0
    for split, count in frames.items():
        for i, start in enumerate(range(number, number + count, per_scene)):
            weather, turn = WEATHERS[i % len(WEATHERS)], i // len(WEATHERS)
            case = CASES[1 + turn // 2 % (len(CASES) - 1)] if turn % 2 else "ordinary"
            numbers = range(start, min(start + per_scene, number + count))
            scenes.append(Scene(world_seed(split, first + i), split, weather, case, numbers))
        number += count
    return scenes


def render(
    root: Path, scenes: list[Scene], size: tuple[int, int], *,
    workers: int | None = None, report: Callable[[float], None] | None = None,
) -> Counter[tuple[str, str]]:  # fmt: skip
    """Render the scenes into the new folder `root`; returns frames by split and difficulty.

    `size`: camera's width and height. `workers`: processes, by default one per core. `report` is
    called with the share that is done. DataError: the folder exists, or there are no frames.
    """
    if root.exists():
        raise DataError(f"{root} exists, expected a new folder for the data set")
    if not scenes:
        raise DataError("no frames are asked for, expected e.g. train=200,val=40,test=40")
    writer, counts = _writer(root, make_rig(*size)), Counter[tuple[str, str]]()
    # read when numpy loads; its products are too small here for a second thread
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, cv2.setNumThreads, (1,)) as pool:
        jobs = [pool.submit(_render_scene, root, scene, size) for scene in scenes]
        for done, (scene, job) in enumerate(zip(scenes, jobs, strict=True), start=1):
            for name, subsets in job.result().items():
                writer.list_frame(scene.split, name, subsets)
                counts[scene.split, subsets["difficulty"]] += 1
            if report:
                report(done / len(scenes))
    writer.finish()
    return counts


def _render_scene(root: Path, scene: Scene, size: tuple[int, int]) -> dict[str, dict[str, str]]:
    """Writes the frames of one drive; returns their subsets by name."""
    rig, found = make_rig(*size), {}
    writer = _writer(root, rig)
    for number, sample in zip(scene.numbers, scene.samples(rig), strict=True):
        picture, cloud = sample.picture, sample.cloud
        seen = np.sort(project(cloud.xyz, rig.camera_model, rig.T_camera_lidar)[0])
        points = np.concatenate([cloud.xyz, cloud.intensity[:, None]], 1)[seen]
        sensors = {"lidar": points, "thermal": sample.thermal}
        name, difficulty = f"{scene.split}_{number:05d}", "hard" if is_hard(sample) else "easy"
        found[name] = {"weather": scene.weather, "case": scene.case, "difficulty": difficulty}
        writer.add(scene.split, name, picture.rgb, picture.labels, sensors, found[name])
    return found


def _writer(root: Path, rig: Rig) -> FolderWriter:
    camera, thermal = rig.camera, rig.thermal
    calibration = {
        "camera": {"width": camera.width, "height": camera.height, "K": camera.K, "D": [],
                   "model": "plumb_bob"},
        "lidar": {"T_camera_lidar": rig.T_camera_lidar},
        "thermal": {"width": thermal.width, "height": thermal.height, "K": thermal.K,
                    "R_camera_thermal": rig.T_camera_thermal[:3, :3]},
    }  # fmt: skip
    # frame_gain, because a count means something else in every thermal camera
    encodings = {"lidar": "muses_raw", "thermal": "frame_gain"}
    return FolderWriter(root, CLASSES, encodings, calibration)
