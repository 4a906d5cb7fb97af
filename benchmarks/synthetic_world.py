# SPDX-License-Identifier: Apache-2.0
"""Is the synthetic world a toy? Rendering speed, class shares, and what one pixel alone tells.

    python benchmarks/synthetic_world.py

Colour, height above the road and temperature each get a table of the class of every value, counted
on the train split's worlds: the commonest, or the one that is commoner there than elsewhere (rare
classes count in mIoU, too), whichever scores better on the train split. Height is known in every
pixel here, with the LiDAR's noise: more than any LiDAR tells. All are judged on worlds of the test
split, beside the scores of the weights that come with the package.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from operator import ge
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from results import bar, write

SPEED_FRAMES, SPEED_SIZE, MIN_SPEED = 200, "512x384", 5.0
SCENES = {"train": 120, "test": 80}
SIZE = (256, 192)
MARGIN = 25.0  # points of mIoU that the network must be better by
CUES = ("colour", "height", "temperature")
Facts = dict[str, Any]


def main() -> None:
    """Measure and write benchmarks/results/synthetic_world.json."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # also of the processes that render
    rate = _speed()
    print(f"{rate:.2f} frames/s", flush=True)
    counts = {split: _count(split) for split in SCENES}
    from mmsam_ros.world import CLASSES

    test = counts["test"]
    pixels = test["colour"].sum(0)
    shares = {
        c.name: round(100 * float(n / pixels.sum()), 2)
        for c, n in zip(CLASSES, pixels, strict=True)
    }
    rows: list[Facts] = [
        {"what": "rendering", "size": SPEED_SIZE, "frames_per_second": round(rate, 2)},
        {"what": "share of pixels, %", **shares},
        {"what": "share of hard frames, %", "all": round(100 * float(test["hard"].mean()), 1)},
    ]
    bars = [bar(f"frames/s at {SPEED_SIZE}", round(rate, 2), "1/s", MIN_SPEED, ge)]
    own = _shipped()
    for cue in CUES:
        guess = _table(counts["train"][cue])
        iou = _iou(test[cue], guess)
        score = round(100 * float(iou.mean()), 2)
        by_class = {c.name: round(100 * float(v), 1) for c, v in zip(CLASSES, iou, strict=True)}
        rows.append({"what": f"{cue} of a pixel alone", "miou": score, **by_class})
        print(rows[-1], flush=True)
        margin = None if own is None else round(own - score, 2)
        bars.append(
            bar(f"tiny above {cue} alone", margin, "mIoU", MARGIN, ge, "no trained weights")
        )
    print(write("synthetic_world", rows, bars))


def _speed() -> float:
    """Frames per second of the command, its start included."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "set")
        options = ["--frames", f"train={SPEED_FRAMES}", "--size", SPEED_SIZE]
        began = time.perf_counter()
        command = [sys.executable, "-m", "mmsam_ros.cli.main", "synth", "folder", out, *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return SPEED_FRAMES / (time.perf_counter() - began)


def _count(split: str) -> Facts:
    """Pixels by value of each cue and class, and which frames are hard."""
    from mmsam_ros.world.dataset import plan

    # seeds that no training or test set of the project uses
    scenes = plan({split: 2 * SCENES[split]}, per_scene=2, first=500_000)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(_scene, scenes))
    total = {cue: sum(part[cue] for part in parts) for cue in CUES}
    return {**total, "hard": np.concatenate([part["hard"] for part in parts])}


def _scene(scene: Any) -> Facts:
    """The counts of one drive."""
    from mmsam_ros.world import make_rig, samples
    from mmsam_ros.world.difficulty import is_hard, thermal_in_view

    rng = np.random.default_rng(scene.seed)
    first = scene.rows[0]
    drive = samples(
        scene.seed, len(scene.rows), weather=first.weather, case=first.case, rig=make_rig(*SIZE),
        interval=2.0,
    )  # fmt: skip
    found: Facts = {"hard": []}
    for sample in drive:
        picture, spec = sample.picture, sample.rig.camera
        seen = np.where(np.isinf(picture.distance), 0, picture.distance)
        seen = seen + rng.normal(0, 0.015, seen.shape)
        up = (spec.T_base[:3, :3] @ spec.rays.T)[2].reshape(seen.shape)
        height = np.where(np.isinf(picture.distance), 60, spec.T_base[2, 3] + seen * up)
        values = {
            "colour": (picture.rgb.astype(int) // 8) @ [1024, 32, 1],
            "height": np.clip((height + 2) / 0.02, 0, 3100).astype(int),
            "temperature": np.nan_to_num((thermal_in_view(sample) - 24000) / 20).astype(int),
        }
        for cue, value in values.items():
            bins = 14 * np.clip(value, 0, 2**15 - 1) + picture.labels
            table = np.bincount(bins.ravel(), minlength=14 * 2**15).reshape(-1, 14)
            found[cue] = found.get(cue, 0) + table
        found["hard"].append(is_hard(sample))
    return found


def _table(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The better of two guesses for every value, judged on what it was counted on."""
    guesses = [counts.argmax(1), (counts / np.maximum(counts.sum(0), 1)).argmax(1)]
    return max(guesses, key=lambda guess: float(_iou(counts, guess).mean()))


def _iou(counts: NDArray[np.int64], guess: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU by class of a table of guesses, one per value."""
    confusion = np.zeros((counts.shape[1],) * 2, np.int64)
    np.add.at(confusion.T, guess, counts)
    hit = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hit
    return np.asarray(hit / np.maximum(union, 1))


def _shipped() -> float | None:
    """mIoU with all sensors of the weights in models/."""
    from mmsam_ros.weights import read_spec

    files = sorted((Path(__file__).parents[1] / "models").glob("*.safetensors"))
    if not files:
        return None
    return read_spec(files[0]).presence.scores["camera+lidar+thermal"].miou


if __name__ == "__main__":
    main()
