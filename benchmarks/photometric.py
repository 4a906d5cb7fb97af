"""The synthetic world in DeLiVER's layout, to compare the photometric distortions on.

    mmsam synth folder out/evidence/small --frames train=600,val=32,test=240 --first 10000 \\
        --size 192x128 --per-scene 4
    python benchmarks/photometric.py out/evidence/small out/evidence/deliver
    mmsam experiments run config/experiments/photometric/*.yaml --seeds 0 1 2 \\
        --out out/evidence/photometric --root out/evidence/deliver
    python benchmarks/photometric.py out/evidence/photometric  # results/photometric.json

Classes go by name, those of two wheels into one; LiDAR is range, intensity and height in bytes.
"""

import json
import sys
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from results import Row, write

from mmsam_ros.data.deliver import CASES, CLASSES
from mmsam_ros.data.folder_writer import write_png
from mmsam_ros.data.open import open_frames
from mmsam_ros.sensors import NO_LABEL, SYNTHETIC_CLASSES

FOLDERS = {"train": "training", "val": "validation", "test": "test"}
IDS = {info.name.lower(): info.id for info in CLASSES}
OTHER_NAMES = {"person": "pedestrian", "rider": "twowheeler", "bicycle": "twowheeler",
               "car": "cars", "lane mark": "roadline"}  # fmt: skip


def report(runs: str) -> None:
    """Write results/photometric.json: mIoU over the classes that occur, by seed."""
    rows, scores = list[Row](), dict[str, list[float]]()
    for kind in ("intended", "published"):
        files = sorted(Path(runs, kind).glob("seed*/result.json"))
        found = [json.loads(file.read_text())["scores"]["all"]["miou_present"] for file in files]
        scores[kind] = found
        rows.append({"photometric": kind, "mIoU by seed": [round(score, 2) for score in found]})
    gaps = [a - b for a, b in zip(scores["intended"], scores["published"], strict=True)]
    rows.append({"intended - published": round(mean(gaps), 2), "spread": round(stdev(gaps), 2)})
    write("photometric", rows, [])


def convert(source: str, target: str) -> None:
    """Write the data set at `source` (folder layout) to `target`."""
    table = np.full(256, NO_LABEL, np.uint8)
    for info in SYNTHETIC_CLASSES:
        table[info.id] = IDS[OTHER_NAMES.get(info.name, info.name).replace(" ", "")]
    for split, folder in FOLDERS.items():
        frames = open_frames("folder", source, split, ("lidar",))
        for i, record in enumerate(frames.records):
            item = frames.read(record)
            sample, case = frames.sample(item), record.subsets["case"]
            planes = sample["planes"]["lidar"].permute(1, 2, 0).numpy()
            lidar = planes * (255 / 80, 1, 20) + (planes.any(2, keepdims=True) * (0, 0, 60))
            name = (
                f"{record.subsets['weather']}_MAP_1_point{i}{f'_{case}' * (case in CASES)}_{i:06d}"
            )
            for top, kind, image in (
                ("images", "rgb", item.frame.rgb),
                ("annotations", "semantic", table[item.label]),
                ("lidar", "lidar", np.clip(np.rint(lidar), 0, 255).astype(np.uint8)),
            ):
                path = Path(target) / "samples" / top / folder / f"{name}_{kind}_front.png"
                write_png(path, image)


if __name__ == "__main__":
    (report if len(sys.argv) == 2 else convert)(*sys.argv[1:])
