# SPDX-License-Identifier: Apache-2.0
"""Is the synthetic world too easy? Rendering speed, class shares, and what one pixel alone tells.

    python benchmarks/synthetic_world.py

For colour, height above the road and temperature, a table gives the class of every value, counted
on worlds of the train split: the most frequent class, or the one that is more frequent there than
elsewhere (rare classes count in mIoU as well), whichever scores better on the train split. Height
is known in every pixel here, with the LiDAR's noise: more than any LiDAR measures. All tables are
scored on worlds of the test split, and compared with the package's weights for that world.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from operator import ge
from typing import Any

import numpy as np
from numpy.typing import NDArray
from results import ROOT, Row, bar, write

TINY = ROOT / "models/tiny_synthetic.safetensors"
SPEED_FRAMES, SPEED_SIZE, MIN_SPEED = 200, "512x384", 5.0
SCENES = {"train": 120, "test": 80}
FIRST = 500_000  # seeds that no data set of the project uses
SIZE = (256, 192)
MARGIN = 25.0  # points of mIoU that the network must be better by
CUES = ("colour", "height", "temperature")
VALUES = 2**15  # of a cue


def main() -> None:
    """Measure and write benchmarks/results/synthetic_world.json."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # also of the processes that render
    from mmsam_ros.weights import read_spec
    from mmsam_ros.world import CLASSES

    names = [info.name for info in CLASSES]
    speed = round(frames_per_second(), 2)
    train, test = (count(split) for split in SCENES)
    pixels = test["colour"].sum(0)
    shares = (round(100 * float(n / pixels.sum()), 2) for n in pixels)
    rows: list[Row] = [
        {"what": "rendering", "size": SPEED_SIZE, "frames_per_second": speed},
        {"what": "share of pixels, %", **dict(zip(names, shares, strict=True))},
        {"what": "share of hard frames, %", "all": round(100 * float(test["hard"].mean()), 1)},
    ]
    bars = [bar(f"frames/s at {SPEED_SIZE}", speed, "1/s", MIN_SPEED, ge)]
    own = read_spec(TINY).presence.scores["camera+lidar+thermal"].miou
    for cue in CUES:
        iou = 100 * iou_of(test[cue], best_table(train[cue]))
        miou = round(float(iou.mean()), 2)
        by_class = {name: round(float(value), 1) for name, value in zip(names, iou, strict=True)}
        rows.append({"what": f"{cue} of a pixel alone", "miou": miou, **by_class})
        bars.append(bar(f"tiny above {cue} alone", round(own - miou, 2), "mIoU", MARGIN, ge))
    write("synthetic_world", rows, bars)


def frames_per_second() -> float:
    """Speed of the command, its start included."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mmsam_ros.cli.main", "synth", "folder", f"{folder}/set"]
        options = ["--frames", f"train={SPEED_FRAMES}", "--size", SPEED_SIZE]
        began = time.perf_counter()
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
        return SPEED_FRAMES / (time.perf_counter() - began)


def count(split: str) -> dict[str, NDArray[Any]]:
    """Pixels (values, classes) of each cue, and which frames are hard."""
    from mmsam_ros.world.dataset import plan

    scenes = plan({split: 2 * SCENES[split]}, per_scene=2, first=FIRST)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(count_scene, scenes))
    hard = np.concatenate([part["hard"] for part in parts])
    return {cue: sum(part[cue] for part in parts) for cue in CUES} | {"hard": hard}


def count_scene(scene: Any) -> dict[str, Any]:
    """The counts of one drive."""
    from mmsam_ros.world import CLASSES, make_rig
    from mmsam_ros.world.dataset import is_hard, thermal_in_view

    rng = np.random.default_rng(scene.seed)
    found: dict[str, Any] = defaultdict(int, hard=[])
    for sample in scene.samples(make_rig(*SIZE), interval=2.0):
        picture, camera = sample.picture, sample.rig.camera
        sky = np.isinf(picture.distance)
        distance = np.where(sky, 0, picture.distance) + rng.normal(0, 0.015, sky.shape)
        up = (camera.T_base[:3, :3] @ camera.rays.T)[2].reshape(sky.shape)
        height = np.where(sky, 60, camera.T_base[2, 3] + distance * up)
        values = {
            "colour": (picture.rgb.astype(int) // 8) @ [1024, 32, 1],
            "height": np.clip((height + 2) / 0.02, 0, 3100).astype(int),
            "temperature": np.nan_to_num((thermal_in_view(sample) - 24000) / 20).astype(int),
        }
        for cue, value in values.items():
            bins = len(CLASSES) * np.clip(value, 0, VALUES - 1) + picture.labels
            counts = np.bincount(bins.ravel(), minlength=len(CLASSES) * VALUES)
            found[cue] += counts.reshape(VALUES, len(CLASSES))
        found["hard"].append(is_hard(sample))
    return found


def best_table(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class of every value: the better of two guesses on what was counted."""
    guesses = counts.argmax(1), (counts / np.maximum(counts.sum(0), 1)).argmax(1)
    return max(guesses, key=lambda guess: float(iou_of(counts, guess).mean()))


def iou_of(counts: NDArray[np.int64], guess: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU by class of a table of guesses, one per value."""
    confusion = np.zeros((counts.shape[1],) * 2, np.int64)
    np.add.at(confusion.T, guess, counts)
    hit = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hit
    return np.asarray(hit / np.maximum(union, 1))


if __name__ == "__main__":
    main()
