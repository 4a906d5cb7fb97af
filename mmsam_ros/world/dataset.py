# SPDX-License-Identifier: Apache-2.0
"""Renders whole data sets in the `folder` layout, scene by scene, on all cores.

The same plan gives the same files: camera images, LiDAR points in the camera's view, thermal
counts, labels and the calibration.

Hard or easy is measured on a frame's images. One of `OBJECTS` counts if it covers at least
`SMALLEST` of the picture. Its contrast in a sensor compares it with the ring around it, a quarter
as wide: the change of mean and deviation over all channels, divided by the sensor's noise
(`UNITS`). For LiDAR it is the gap in range, without echoes of fog and rain, and 0 if there are
fewer than `RETURNS` returns. An object is visible to a sensor if its contrast is at least 1. A
frame is hard if at least `SHARE` of its objects are visible to an auxiliary and not to the camera.
"""

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util import follow_parent
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.folder_writer import FolderWriter
from mmsam_ros.sensors import project, register
from mmsam_ros.world.lidar import AIR
from mmsam_ros.world.scene import CASES, CLASS_IDS, CLASSES, WEATHERS
from mmsam_ros.world.street import build_street
from mmsam_ros.world.style import Floats, Mask, world_seed
from mmsam_ros.world.vehicle import Rig, Sample, Vehicle

OBJECTS = ("person", "rider", "bicycle", "car", "truck", "traffic_sign")
UNITS = 8.0, 0.7, 0.7  # of camera, thermal, LiDAR: grey levels, kelvin, metres
SMALLEST, RETURNS, SHARE = 4e-4, 3, 0.25
_KELVIN = np.float32(0.01)  # per count


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
    scenes, number = list[Scene](), 0
    for split, count in frames.items():
        for i, start in enumerate(range(number, number + count, per_scene)):
            weather, turn = WEATHERS[i % len(WEATHERS)], i // len(WEATHERS)
            case = CASES[1 + turn // 2 % (len(CASES) - 1)] if turn % 2 else "ordinary"
            numbers = range(start, min(start + per_scene, number + count))
            scenes.append(Scene(world_seed(split, first + i), split, weather, case, numbers))
        number += count
    return scenes


def render(
    root: Path, scenes: list[Scene], rig: Rig, *,
    workers: int | None = None, report: Callable[[float], None] | None = None,
) -> Counter[tuple[str, str]]:  # fmt: skip
    """Render the scenes into the new folder `root`; returns frames by split and difficulty.

    `workers`: processes, by default one per core. `report` is called with the share that is done.
    DataError: the folder exists, there are no frames, or a process was killed.
    """
    if root.exists():
        raise DataError(f"{root} exists, expected a new folder for the data set")
    if not scenes:
        raise DataError("no frames are asked for, expected e.g. train=200,val=40,test=40")
    writer, counts = _writer(root, rig), Counter[tuple[str, str]]()
    # read when numpy loads; its products are too small here for a second thread
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, _start_worker) as pool:
        jobs = [pool.submit(_render_scene, root, scene, rig) for scene in scenes]
        try:
            for done, (scene, job) in enumerate(zip(scenes, jobs, strict=True), start=1):
                for name, subsets in job.result().items():
                    writer.list_frame(scene.split, name, subsets)
                    counts[scene.split, subsets["difficulty"]] += 1
                if report:
                    report(done / len(scenes))
        except BrokenExecutor as error:
            raise DataError(
                "a process that renders has ended, perhaps for lack of memory: give fewer --workers"
            ) from error
        finally:  # where a scene fails, those that wait are not rendered before the error is seen
            pool.shutdown(cancel_futures=True)
    writer.finish()
    return counts


def _start_worker() -> None:
    follow_parent()
    cv2.setNumThreads(1)


def _render_scene(root: Path, scene: Scene, rig: Rig) -> dict[str, dict[str, str]]:
    """Writes the frames of one drive; returns their subsets by name."""
    writer, found = _writer(root, rig), {}
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
    specs = rig.camera, rig.thermal
    camera, thermal = ({"width": s.width, "height": s.height, "K": s.K} for s in specs)
    calibration = {
        "camera": {**camera, "D": [], "model": "plumb_bob"},
        "lidar": {"T_camera_lidar": rig.T_camera_lidar},
        "thermal": {**thermal, "R_camera_thermal": rig.T_camera_thermal[:3, :3]},
    }
    # gains, as counts and intensities mean something else in every thermal camera and LiDAR
    encodings = {"lidar": "lidar_gain", "thermal": "frame_gain"}
    return FolderWriter(root, CLASSES, encodings, calibration)


def is_hard(sample: Sample) -> bool:
    """Whether the frame is hard, by the rule above."""
    found = contrasts(sample)
    lost = (found[:, 0] < 1) & (found[:, 1:].max(1) >= 1)
    return len(lost) > 0 and bool(lost.mean() >= SHARE)


def contrasts(sample: Sample) -> NDArray[np.float64]:
    """(objects, 3) contrast of every object in camera, thermal image and LiDAR."""
    picture, heat, reach = sample.picture, thermal_in_view(sample), _ranges(sample)
    wanted = np.isin(picture.labels, [CLASS_IDS[name] for name in OBJECTS])
    numbers, areas = np.unique(picture.instance[wanted], return_counts=True)
    rows = []
    for number in numbers[areas >= SMALLEST * wanted.size]:
        mask = (picture.instance == number) & wanted
        x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
        width = max(2, int(np.sqrt(mask.sum()) / 4))  # of the ring
        window = np.s_[max(y - width, 0) : y + h + width, max(x - width, 0) : x + w + width]
        inside, kernel = mask[window], np.ones((2 * width + 1, 2 * width + 1), np.uint8)
        ring = (cv2.dilate(inside.astype(np.uint8), kernel) > 0) & ~inside
        colour = _change(picture.rgb[window], inside, ring)
        warmth = _change(heat[window] * _KELVIN, inside, ring)
        rows.append((colour, warmth, _gap(reach[window], inside, ring)))
    return np.array(rows).reshape(-1, 3) / UNITS


def thermal_in_view(sample: Sample) -> Floats:
    """Counts (H, W) in the camera's view by rotation, as the node registers them; unseen: NaN."""
    counts, size = sample.thermal.astype(np.float32), sample.picture.labels.shape
    heat, valid = register(counts, sample.rig.registration, size, size)
    return np.where(valid, heat, np.float32(np.nan))


def _ranges(sample: Sample) -> Floats:
    """(H, W) range of LiDAR returns in the camera's view, without fog's and rain's; none: NaN."""
    solid = sample.cloud.xyz[sample.cloud.label != AIR]
    _, u, v, depth = project(solid, sample.rig.camera_model, sample.rig.T_camera_lidar)
    found = np.full(sample.picture.labels.shape, np.nan, np.float32)
    order = np.argsort(-depth)
    found[v[order].astype(int), u[order].astype(int)] = depth[order]
    return found


def _change(image: NDArray[np.generic], inside: Mask, ring: Mask) -> float:
    """Change of mean and deviation between two regions, over all channels; 0 where unseen."""
    smooth = cv2.GaussianBlur(image.astype(np.float64), (3, 3), 0.8)  # less of the noise
    within, around = _seen(smooth, inside, ring)
    if min(len(within), len(around)) < 4:
        return 0.0
    change = np.stack([within.mean(0) - around.mean(0), within.std(0) - around.std(0)])
    return float(np.sqrt((change**2).sum() / change.shape[1]))


def _gap(reach: Floats, inside: Mask, ring: Mask) -> float:
    """Difference (m) of the median range of an object and of the ring around it."""
    within, around = _seen(reach, inside, ring)
    if len(within) < RETURNS:
        return 0.0
    return float(abs(np.median(within) - np.median(around))) if len(around) else np.inf


def _seen(image: NDArray[Any], *regions: Mask) -> list[NDArray[Any]]:
    """Values (N, channels) of each region, without NaN."""
    values = image.reshape(*image.shape[:2], -1)
    return [values[region & ~np.isnan(values[..., 0])] for region in regions]
