# SPDX-License-Identifier: Apache-2.0
"""Renders whole data sets in the `folder` layout, scene by scene, on all cores.

The same plan gives the same files: camera images, LiDAR points in the camera's view, thermal
counts, labels and the calibration.
"""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from mmsam_ros._util import check_word
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.folder_writer import FolderWriter
from mmsam_ros.sensors import project
from mmsam_ros.world.difficulty import is_hard
from mmsam_ros.world.rig import Rig, make_rig
from mmsam_ros.world.samples import samples
from mmsam_ros.world.scene import CLASSES
from mmsam_ros.world.style import SEEDS, world_seed
from mmsam_ros.world.weather import CASES, WEATHERS

INTERVAL = 0.8  # seconds between two pictures of a scene


@dataclass(frozen=True)
class Row:
    """One frame of a data set; `number` counts over all its splits."""

    split: str
    number: int
    weather: str
    case: str
    difficulty: str = ""

    @property
    def name(self) -> str:
        return f"{self.split}_{self.number:05d}"

    @property
    def subsets(self) -> dict[str, str]:
        return {"weather": self.weather, "case": self.case, "difficulty": self.difficulty}


@dataclass(frozen=True)
class Scene:
    """One drive and its frames."""

    seed: int
    rows: tuple[Row, ...]


def plan(frames: Mapping[str, int], *, per_scene: int = 8, first: int = 0) -> list[Scene]:
    """The scenes of a data set: `frames` per split, `per_scene` from each drive.

    Weathers take turns. Every second scene of a weather is ordinary, the other cases take turns in
    between, so that 50 scenes have every pair. `first`: number of every split's first world.
    """
    if per_scene < 1:
        raise DataError(f"frames of a scene are {per_scene}, expected at least 1")
    scenes: list[Scene] = []
    number = 0
    for split, count in frames.items():
        check_word("frames", split, SEEDS, DataError)
        for i in range(-(-count // per_scene)):
            weather, turn = WEATHERS[i % len(WEATHERS)], i // len(WEATHERS)
            case = CASES[1 + turn // 2 % (len(CASES) - 1)] if turn % 2 else "ordinary"
            size = min(per_scene, count - i * per_scene)
            rows = tuple(Row(split, number + k, weather, case) for k in range(size))
            scenes.append(Scene(world_seed(split, first + i), rows))
            number += size
    return scenes


def render(
    root: Path, scenes: list[Scene], size: tuple[int, int], *,
    workers: int | None = None, report: Callable[[float], None] | None = None,
) -> list[Row]:  # fmt: skip
    """Render the scenes into the new folder `root`; returns the frames with their difficulty.

    `size`: camera's width and height. `workers`: processes, by default one per core. `report` is
    called with the share that is done. DataError: the folder exists, or there are no frames.
    """
    if root.exists():
        raise DataError(f"{root} exists, expected a new folder for the data set")
    total = sum(len(scene.rows) for scene in scenes)
    if not total:
        raise DataError("no frames are asked for, expected e.g. train=200,val=40,test=40")
    if workers is not None and workers < 1:
        raise DataError(f"workers are {workers}, expected at least 1")
    writer = _writer(root, make_rig(*size))
    # read when numpy loads; its products are too small here for a second thread
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    rows: list[Row] = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, cv2.setNumThreads, (1,)) as pool:
        for job in [pool.submit(_scene, root, scene, size) for scene in scenes]:
            rows += job.result()
            if report:
                report(len(rows) / total)
    for row in rows:
        writer.list_frame(row.split, row.name, row.subsets)
    writer.finish()
    return rows


def _scene(root: Path, scene: Scene, size: tuple[int, int]) -> list[Row]:
    """Renders one drive and writes its frames."""
    rig, first, rows = make_rig(*size), scene.rows[0], []
    writer = _writer(root, rig)
    drive = samples(scene.seed, len(scene.rows), weather=first.weather, case=first.case,
                    rig=rig, interval=INTERVAL)  # fmt: skip
    for row, sample in zip(scene.rows, drive, strict=True):
        picture, cloud = sample.picture, sample.cloud
        seen = np.sort(project(cloud.xyz, rig.camera_model, rig.T_camera_lidar)[0])
        points = np.concatenate([cloud.xyz, cloud.intensity[:, None]], 1)[seen]
        sensors = {"lidar": points, "thermal": sample.thermal}
        done = replace(row, difficulty="hard" if is_hard(sample) else "easy")
        writer.add(row.split, row.name, picture.rgb, picture.labels, sensors, done.subsets)
        rows.append(done)
    return rows


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
