# SPDX-License-Identifier: Apache-2.0
"""Scores weights for real streets on what they were not trained on.

    data="--roads out/roads --boxes REAL_ROADS/boxes/boxes.json"
    tiny=models/tiny_synthetic.safetensors
    python benchmarks/road.py score WEIGHTS $tiny $data --synthetic out/synthetic
    python benchmarks/road.py score WEIGHTS $data --sizes 256x192 384x128 384x288
    python benchmarks/road.py masks WEIGHTS $data --out masks.png

`examples/real_roads.py` makes out/roads. Scores go to benchmarks/results/road.json, with `--sizes`
to road_sizes.json; the bars are for the first weights. KITTI has no labels of objects: connected
regions that another network calls car stand for them. So its rows compare sensors and are no
scores, and the drive is one of the training's.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from itertools import combinations
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from results import Row, bar, markdown_table, write
from road_objects import count, gain, neighbours, read_boxes, regions_of, shares

from mmsam_ros.cli.arguments import image_size
from mmsam_ros.data.frames import LabelledFrame
from mmsam_ros.inference.draw import colorise
from mmsam_ros.model import build_model
from mmsam_ros.sensors import LidarPoints, palette
from mmsam_ros.training.evaluate import EvalConfig, Evaluation
from mmsam_ros.training.start import resize_norms
from mmsam_ros.weights import Geometry, load_model, read_spec, save_model

# folder and split of each set, and what it has besides the camera
SETS = {"CamVid 0001TP": ("camvid", "val", ()), "IDD": ("idd", "val", ()),
        "RoadScene night": ("roadscene_night", "test", ("thermal",)),
        "KITTI": ("kitti", "train", ("lidar",))}  # fmt: skip
CAMVID, IDD, NIGHT, KITTI = SETS
EVERY = 4  # of KITTI's frames, which are a tenth of a second apart
# what the LiDAR intensity is changed to: scale and offset
INTENSITIES = {"as made": (1, 0), "x 1/255": (1 / 255, 0), "x 0.5": (0.5, 0), "x 2": (2, 0),
               "x 16": (16, 0), "x 257": (257, 0), "constant": (0, 1), "0": (0, 0)}  # fmt: skip
TILES, COLUMNS, TILE = 20, 10, (80, 120)  # masks of a set, in a row; height and width of one


def opened(weights: Path, root: Path, split: str, sensors: Sequence[str] = ()) -> Evaluation:
    """Masks of a split as the node makes them, with the camera and `sensors`."""
    drop = tuple(sensor for sensor in read_spec(weights).sensors if sensor not in sensors)
    config = EvalConfig(str(weights), str(root), split, "folder", "", "native", drop, workers=0)
    return Evaluation(config)


def keep(evaluation: Evaluation, records: Sequence[Any]) -> None:
    """Leave out all other frames."""
    evaluation.frames = dataclasses.replace(evaluation.frames, records=tuple(records))


def miou(evaluation: Evaluation, about: Row) -> Row:
    """mIoU and the classes' IoU, in percent."""
    found = evaluation.run().scores(evaluation.names)["all"]
    iou = {name: round(value or 0.0, 1) for name, value in found.iou.items()}
    row = {**about, "measure": "mIoU", "value": round(found.miou, 2), "frames": found.frames}
    print(*row.values(), flush=True)
    return {**row, "iou": iou}


def real(weights: Path, roads: Path, boxes: Path) -> Iterator[Row]:
    """Rows of the real sets."""
    boxed = read_boxes(boxes)
    for name, (folder, split, others) in SETS.items():
        about = {"weights": weights.name, "set": name, "sensors": "camera"}
        if name in (CAMVID, IDD):
            yield miou(opened(weights, roads / folder, split), about)
            continue
        readable = set(others) <= set(read_spec(weights).sensors)
        found = []
        for kept in ((), others) if readable else ((),):
            evaluation = opened(weights, roads / folder, split, kept)
            frames, ids = evaluation.frames, {c.name: c.id for c in evaluation.spec.classes}
            boxed_ones = [record for record in frames.records if record.name in boxed]
            keep(evaluation, boxed_ones if name == NIGHT else frames.records[::EVERY])
            frames, counts = evaluation.frames, []
            for item in (frames[i] for i in range(len(frames))):
                labels = evaluation.predict(item)[0].cpu().numpy()
                night = name == NIGHT
                regions = boxed[item.record.name] if night else regions_of(item, frames.any_of)
                counts.append(count(labels, ids, regions))
            found.append(np.stack(counts))
            about["sensors"] = "+".join(("camera", *kept))
            for measure, value in shares(found[-1]).items():
                yield {**about, "measure": measure, "value": value, "frames": len(frames)}
        if readable:
            groups = neighbours([record.name for record in frames.records])
            for measure, (value, *ends) in gain(found[0], found[1], groups).items():
                gained = {"sensors": f"gain by {others[0]}", "measure": measure, "value": value}
                several = {"interval": ends, "groups": max(groups) + 1} if max(groups) else {}
                yield {**about, **gained, **several}


def synthetic(weights: Path, root: Path) -> Iterator[Row]:
    """Rows of a synthetic test set: all sets of sensors, and other intensities of the LiDAR."""
    sensors = read_spec(weights).sensors
    for kept in (some for n in range(len(sensors) + 1) for some in combinations(sensors, n)):
        for intensity, (factor, summand) in INTENSITIES.items():
            if intensity != "as made" and "lidar" not in kept:
                continue
            evaluation = opened(weights, root, "test", kept)

            def change(item: LabelledFrame, by: float = factor, to: float = summand) -> Any:
                given = dict(item.frame.sensors)
                if isinstance(lidar := given.get("lidar"), LidarPoints):
                    values = (by * lidar.intensity + to).astype(np.float32)
                    given["lidar"] = dataclasses.replace(lidar, intensity=values)
                return dataclasses.replace(
                    item, frame=dataclasses.replace(item.frame, sensors=given)
                )

            evaluation.frames = dataclasses.replace(evaluation.frames, change=change)
            about = {"weights": weights.name, "set": f"synthetic {root.name}"}
            about |= {"sensors": "+".join(("camera", *kept)), "intensity": intensity}
            yield miou(evaluation, about)


def score(weights: Path, roads: Path, boxes: Path, made: Sequence[Path]) -> list[Row]:
    """All rows of a weights file."""
    rows = [row for root in made for row in synthetic(weights, root)]
    return [*real(weights, roads, boxes), *rows]


def bars(rows: Sequence[Row]) -> list[Row]:
    """What weights for real streets have to hold; without a value where they lack the sensor."""

    def value(name: str, sensors: str, measure: str = "mIoU") -> Any:
        wanted = {"set": name, "sensors": sensors, "measure": measure}
        found = (r for r in rows if wanted.items() <= r.items())
        row = next((r for r in found if r.get("intensity", "as made") == "as made"), None)
        return row and row.get("interval", [row["value"]])[0]

    entries = [
        (f"mIoU on {CAMVID}", value(CAMVID, "camera"), 45.0, ge),
        (f"mIoU on {IDD}", value(IDD, "camera"), 56.0, ge),
        ("gain of person recall by thermal at night, lower end of the interval",
         value(NIGHT, "gain by thermal", "person recall"), 0.0, gt),
        ("false person pixels at night, camera and thermal",
         value(NIGHT, "camera+thermal", "false person pixels"), 1.0, lt),
    ]  # fmt: skip
    pixels = [value(KITTI, s, "vehicle pixels") for s in ("camera+lidar", "camera")]
    gained = None if None in pixels else pixels[0] - pixels[1]
    entries.append(("gain of vehicle pixels by LiDAR on KITTI", gained, 0.0, ge))
    for name in dict.fromkeys(row["set"] for row in rows if "intensity" in row):
        every = [row for row in rows if row["set"] == name]
        others = [row for row in every if row["intensity"] != "as made"]
        losses = [value(name, row["sensors"]) - row["value"] for row in others]
        over = [row["value"] - value(name, "camera") for row in others]
        entries += [
            (f"mIoU on {name}", value(name, every[-1]["sensors"]), 57.0, ge),
            (f"most lost by another intensity, {name}", max(losses, default=None), 1.5, le),
            (f"least over the camera alone, {name}", min(over, default=None), 0.0, ge),
        ]
    reason = "the weights do not read the sensor"
    return [bar(n, None if v is None else round(v, 2), "%", b, f, reason) for n, v, b, f in entries]


def table(rows: Sequence[Row]) -> str:
    """Rows side by side for each weights file, in Markdown."""
    files = list(dict.fromkeys(row["weights"] for row in rows))
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        measure = row["measure"]
        if row.get("intensity", "as made") != "as made":
            measure += f", intensity {row['intensity']}"
        text = f"{row['value']:{'+' if row['sensors'].startswith('gain') else ''}.1f}"
        if "interval" in row:
            text = "{:+.1f} ({:+.1f} to {:+.1f})".format(row["value"], *row["interval"])
        lines.setdefault((row["set"], row["sensors"], measure), {})[row["weights"]] = text
    body = [[*key, *(cells.get(file, "") for file in files)] for key, cells in lines.items()]
    return markdown_table([["set", "sensors", "%", *files], *body])


def resized(weights: Path, size: tuple[int, int], out: Path) -> Path:
    """The same network for another input size (width, height)."""
    model, spec = load_model(weights)
    config = dataclasses.replace(spec.config, image_size=size[::-1])
    net = build_model(config)
    state = resize_norms(model.state_dict(), spec.config.image_size, config.image_size)
    net.load_state_dict(state)
    geometry = Geometry(spec.geometry.mode, config.image_size)
    save_model(out, net, dataclasses.replace(spec, config=config, geometry=geometry))
    return out


def masks(weights: Path, roads: Path) -> NDArray[np.uint8]:
    """Masks of each real set, with all that it has: colours of labels alone."""
    rows = []
    for folder, split, others in SETS.values():
        evaluation = opened(weights, roads / folder, split, others)
        frames, tiles = evaluation.frames, []
        for i in np.linspace(0, len(frames) - 1, TILES).astype(int).tolist():
            labels = evaluation.predict(frames[i])[0].cpu().numpy()
            image = colorise(labels, palette(evaluation.spec.classes))
            height = min(TILE[0], round(TILE[1] * labels.shape[0] / labels.shape[1]))
            small = cv2.resize(image, (TILE[1], height), interpolation=cv2.INTER_NEAREST)
            tiles.append(small)
        high = max(map(len, tiles)) + 4
        tiles = [np.pad(t, ((0, high - len(t)), (0, 4), (0, 0))) for t in tiles]
        rows += [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, TILES, COLUMNS)]
    return np.vstack(rows).astype(np.uint8)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("score", "masks"))
    parser.add_argument("weights", type=Path, nargs="+", help="weights files")
    parser.add_argument("--roads", type=Path, required=True, help="folder of the real sets")
    parser.add_argument("--boxes", type=Path, required=True, help="boxes.json")
    parser.add_argument("--synthetic", type=Path, nargs="*", default=[], help="data sets")
    parser.add_argument("--sizes", type=image_size, nargs="*", default=[], help="WIDTHxHEIGHT")
    parser.add_argument("--out", type=Path, default=Path("masks.png"), help="of masks")
    args = parser.parse_args()
    if args.what == "masks":
        cv2.imwrite(str(args.out), masks(args.weights[0], args.roads)[..., ::-1])
        return
    with tempfile.TemporaryDirectory() as folder:
        files = [
            resized(weights, size, Path(folder) / f"{weights.stem}_{size[0]}x{size[1]}.safetensors")
            for weights in args.weights
            for size in args.sizes
        ]
        by_file = [score(file, args.roads, args.boxes, args.synthetic)
                   for file in files or args.weights]  # fmt: skip
    rows = [row for some in by_file for row in some]
    write("road_sizes" if args.sizes else "road", rows, bars(by_file[0]))
    print(table(rows))


if __name__ == "__main__":
    main()
