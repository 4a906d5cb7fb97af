# SPDX-License-Identifier: Apache-2.0
"""Renders whole data sets, scene by scene, on all cores; the same plan gives the same files."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2

from mmsam_ros._util import check_word
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.synthetic.difficulty import is_hard
from mmsam_ros.data.synthetic.exports import EXPORTS, SPLITS, Row
from mmsam_ros.data.synthetic.rig import make_rig
from mmsam_ros.data.synthetic.samples import samples
from mmsam_ros.data.synthetic.style import world_seed
from mmsam_ros.data.synthetic.weather import CASES, WEATHERS

_INTERVAL = 0.8  # seconds between two pictures of a scene


@dataclass(frozen=True)
class Scene:
    """One drive of a plan and the frames that are taken from it."""

    seed: int
    rows: tuple[Row, ...]


def plan(frames: Mapping[str, int], *, per_scene: int = 8, first: int = 0) -> list[Scene]:
    """The scenes of a data set of so many `frames` by split, `per_scene` from each drive.

    Weathers take turns; every second scene of a weather is ordinary, the other cases take turns in
    between, so that 50 scenes have every pair. first: number of the first seed of every split.
    """
    if per_scene < 1:
        raise DataError(f"frames of a scene are {per_scene}, expected at least 1")
    scenes: list[Scene] = []
    number = 0
    for split, count in frames.items():
        check_word("frames", split, SPLITS, DataError)
        for i in range(-(-count // per_scene)):
            weather, turn = WEATHERS[i % len(WEATHERS)], i // len(WEATHERS)
            case = CASES[1 + turn // 2 % (len(CASES) - 1)] if turn % 2 else "ordinary"
            size = min(per_scene, count - i * per_scene)
            rows = (Row(split, len(scenes), number + k, weather, case) for k in range(size))
            scenes.append(Scene(world_seed(split, first + i), tuple(rows)))
            number += size
    return scenes


def render(
    kind: str, root: Path, scenes: list[Scene], size: tuple[int, int], *,
    workers: int | None = None, report: Callable[[float], None] | None = None,
) -> list[Row]:  # fmt: skip
    """Writes a data set of `kind` into the new folder `root`; rows with their difficulty.

    size: camera's width and height. workers: processes, by default one per core. report: is called
    with the share that is done. DataError for an unknown kind, an existing folder or no frames.
    """
    check_word("kind", kind, EXPORTS, DataError)
    if root.exists():
        raise DataError(f"{root} exists, expected a new folder for the data set")
    given = {row.split for scene in scenes for row in scene.rows}
    if kind != "folder" and given and (bare := [s for s in SPLITS if s not in given]):
        raise DataError(f"no frames of {', '.join(bare)}, expected some: {kind} has three splits")
    total = sum(len(scene.rows) for scene in scenes)
    if not total:
        raise DataError("no frames are asked for, expected e.g. train=200,val=40,test=40")
    if workers is not None and workers < 1:
        raise DataError(f"workers are {workers}, expected at least 1")
    rig = make_rig(*size)
    root.mkdir(parents=True)
    # numpy's products are tiny here: a second thread would only spin (read when numpy loads)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    rows: list[Row] = []
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), cv2.setNumThreads, (1,)
    ) as pool:
        jobs = [pool.submit(_scene, kind, root, scene, size) for scene in scenes]
        for job in jobs:
            rows += job.result()
            if report:
                report(len(rows) / total)
    EXPORTS[kind](root).finish(rows, rig)
    return rows


def _scene(kind: str, root: Path, scene: Scene, size: tuple[int, int]) -> list[Row]:
    """Renders and writes one drive; its rows with their difficulty."""
    export, rows = EXPORTS[kind](root), []
    first = scene.rows[0]
    drive = samples(
        scene.seed, len(scene.rows), weather=first.weather, case=first.case, rig=make_rig(*size),
        interval=_INTERVAL,
    )  # fmt: skip
    for row, sample in zip(scene.rows, drive, strict=True):
        done = replace(row, difficulty="hard" if is_hard(sample) else "easy")
        export.frame(done, sample)
        rows.append(done)
    return rows
