# SPDX-License-Identifier: Apache-2.0
"""Makes the weights that come with the package, and their model card, from a finished run.

    python benchmarks/release_weights.py --weights out/synthetic_tiny/last.safetensors \\
        --root out/synthetic --out models/tiny_synthetic.safetensors
    python benchmarks/release_weights.py --weights out/road/last.safetensors --root out/synthetic \\
        --roads out/roads --boxes REAL_ROADS/boxes/boxes.json --out models/tiny_road.safetensors

Matrices are stored in half precision; statistics, scales, biases and other vectors stay float32.
The stored network is scored with every set of sensors on the test split. The scores go into the
file (`presence.scores`), the card beside it and benchmarks/results/weights_tiny.json; with
`--roads` those of benchmarks/road.py, beside the other weights of the folder, into road.json.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import combinations
from multiprocessing import get_context
from operator import ge, le
from pathlib import Path
from string import Template
from typing import Any

import road
from results import Row, bar, markdown_table, write

from mmsam_ros.model import MMSAMAdapter
from mmsam_ros.training.evaluate import EvalConfig, Evaluation
from mmsam_ros.weights import Score, Spec, load_model, save_model

RECIPE = "benchmarks/train_weights.sh"
SENSITIVE = ("temperature", "level_embed")  # stay float32, as statistics, scales and biases do
FIRST = "RGB alone was trained by `config/train/road_rgb.yaml`, from tiny_synthetic's RGB part."
MIN_MIOU, MAX_MIB, COMMON = 50.0, 24.0, 0.5  # COMMON: % of the pixels
NOT_SUBSETS = ("sensors", "frames", "hard frames", "iou", "share")
CARD = Template("""# $name

A small network for the demo and for tests. **Evaluation only; do not use on a vehicle: it was
trained on synthetic scenes.** Use it to see what the node does, or to start training on your own
data.

* Network: `tiny` with camera, $sensors. Every sensor but the camera may be absent.
  $parameters parameters, input $size, $mib MiB in half precision.
* Data: $data,
  rendered by `mmsam synth` (own world, own classes). The RGB part was pretrained on other worlds
  (train seeds from 100000, 1200 frames). Training uses the train seeds from 0 and other rigs, the
  scores below the test seeds from 0. No two splits share a seed, or a cell that colours and
  textures are drawn from.
* Recipe and commands: `$recipe`,
  seed $seed. Converted to this file by `benchmarks/release_weights.py`.

mIoU (%) on $frames frames of test worlds ($hard of them hard), from points and thermal counts to
labels as in the node:

$table

IoU by class with all sensors: $iou. LiDAR contributes most. Classes that are thin or small at this
resolution (poles, people, bicycles) are often missed.

Limits: simple shapes, one kind of town. On real recordings it performs poorly
([examples](../docs/synthetic.md#on-real-recordings)).
""")


def main() -> None:
    """Store, score, store again with the scores, and write card and results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="of the finished run")
    parser.add_argument("--root", type=Path, required=True, help="data set with a test split")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--roads", type=Path, help="folder of the real sets, see road.py")
    parser.add_argument("--boxes", type=Path, help="boxes.json of the real sets")
    parser.add_argument("--steps", default=FIRST, help="how RGB alone was trained, for the card")
    args = parser.parse_args()
    model, spec = load_model(args.weights)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.ndim > 1 and not name.endswith(SENSITIVE):
            tensor.data = tensor.data.half()
    recipe = spec.provenance.recipe.removeprefix(f"{RECIPE}: ")
    spec = replace(spec, provenance=replace(spec.provenance, recipe=f"{RECIPE}: {recipe}"))
    save_model(args.out, model, spec)
    sets = [kept for n in range(len(spec.sensors) + 1) for kept in combinations(spec.sensors, n)]
    rows = [score(args.out, args.root, spec, kept) for kept in sets]
    data = f"synthetic, {rows[0]['frames']} frames of test"
    scores = {row["sensors"]: Score(row["all"], data) for row in rows}
    save_model(args.out, model, replace(spec, presence=replace(spec.presence, scores=scores)))
    if args.roads is None:
        write("weights_tiny", rows, bars(args.out, rows[-1]))
        text = card(args.out, model, spec, rows)
    else:
        text = road_card(args.out, model, spec, args)
    args.out.with_suffix(".md").write_text(text)


def bars(out: Path, best: Row) -> list[Row]:
    """What weights for the synthetic world have to hold."""
    lowest = min(v for name, v in best["iou"].items() if best["share"][name] > COMMON)
    return [
        bar("mIoU with all sensors", best["all"], "%", MIN_MIOU, ge),
        bar("least IoU of a class above 0.5 % of the pixels", lowest, "%", 0.1, ge),
        bar("size of the file", round(out.stat().st_size / 2**20, 1), "MiB", MAX_MIB, le),
    ]


def road_card(out: Path, model: MMSAMAdapter, spec: Spec, args: argparse.Namespace) -> str:
    """The model card of weights for real streets; writes road.json."""
    others = sorted({*out.parent.glob("*.safetensors")} - {out})
    files = [out, *others]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        scored = partial(road.score, roads=args.roads, boxes=args.boxes, made=[args.root])
        own, *more = pool.map(scored, files)
    size = sum(file.stat().st_size for file in files) / 2**20
    held = [*road.bars(own), bar("all weights of the package", round(size, 1), "MiB", 40.0, le)]
    rows = [row for some in (own, *more) for row in some]
    write("road", rows, held)
    words = {True: "holds", False: "**fails**"}
    measured = [b for b in held if b["value"] is not None]
    lines = [[b["name"], b["value"], b["bar"], b["unit"], words[b["holds"]]] for b in measured]
    network, steps = "the camera alone", args.steps
    if added := " and ".join(spec.sensors):
        network = (f"camera, {added}. Every sensor but the camera may be absent; with the camera "
                   "alone it is the network of RGB alone, bit for bit")  # fmt: skip
        steps += f" `config/train/road.yaml` froze it and added {added}."
    text = Path(__file__).with_name("road_card.md").read_text()
    return Template(text).substitute(
        facts(out, model, spec),
        network=network,
        steps=steps,
        table=road.table(rows),
        bars=markdown_table([["bar", "measured", "limit", "", ""], *lines]),
    )


def score(weights: Path, root: Path, spec: Spec, kept: tuple[str, ...]) -> Row:
    """Scores with the camera and the sensors `kept`."""
    drop = tuple(sensor for sensor in spec.sensors if sensor not in kept)
    evaluation = Evaluation(EvalConfig(str(weights), str(root), drop=drop, geometry="native"))
    matrices = evaluation.run()
    found = matrices.scores([info.name for info in spec.classes])
    truth = 100 * matrices.matrix().sum(1).double() / matrices.matrix().sum()
    row = {
        "sensors": "+".join(("camera", *kept)),
        "frames": found["all"].frames,
        "hard frames": found["difficulty=hard"].frames,
        **{name.rpartition("=")[2]: round(score.miou, 2) for name, score in found.items()},
        "iou": {k: round(v or 0.0, 1) for k, v in found["all"].iou.items()},
        "share": {c.name: round(float(n), 2) for c, n in zip(spec.classes, truth, strict=True)},
    }
    print(row["sensors"], row["all"], flush=True)
    return row


def facts(path: Path, model: MMSAMAdapter, spec: Spec) -> dict[str, Any]:
    """What every card says."""
    height, width = spec.config.image_size
    return {
        "name": path.name,
        "sensors": " and ".join(spec.sensors),
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "size": f"{width}x{height}",
        "mib": f"{path.stat().st_size / 2**20:.1f}",
        **{key: getattr(spec.provenance, key) for key in ("data", "recipe", "seed")},
    }


def card(path: Path, model: MMSAMAdapter, spec: Spec, rows: list[Row]) -> str:
    """The model card of the file at `path`, in Markdown."""
    subsets = [key for key in rows[0] if key not in NOT_SUBSETS]
    cells = [[row["sensors"], *(f"{row[key]:.1f}" for key in subsets)] for row in rows]
    return CARD.substitute(
        facts(path, model, spec),
        frames=rows[-1]["frames"],
        hard=rows[-1]["hard frames"],
        table=markdown_table([["sensors", *subsets], *cells]),
        iou=", ".join(f"{name} {value:.0f}" for name, value in rows[-1]["iou"].items()),
    )


if __name__ == "__main__":
    main()
