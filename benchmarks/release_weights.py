# SPDX-License-Identifier: Apache-2.0
"""Makes the weights that come with the package of a finished run, and their model card.

    python benchmarks/release_weights.py --weights out/synthetic_tiny/last.safetensors \\
        --root world --out models/tiny_synthetic.safetensors

Matrices are stored in half precision; statistics, scales, biases and other vectors stay float32.
The stored network is then scored with every set of sensors on the test split; the scores go into
the file (`presence.scores`), the card beside it and benchmarks/results/weights_tiny.json.
"""

from __future__ import annotations

import argparse
import dataclasses
from itertools import combinations
from operator import ge, le
from pathlib import Path
from typing import Any

from results import bar, write

from mmsam_ros.training.evaluate import EvalConfig, Evaluation
from mmsam_ros.weights import Score, Spec, load_model, save_model

RECIPE = "benchmarks/train_weights.sh"
SENSITIVE = ("temperature", "level_embed")  # beside statistics, scales and biases
MIN_MIOU, MAX_MIB, COMMON = 50.0, 24.0, 0.5  # COMMON: % of the pixels
HERE = Path(__file__).parent


def main() -> None:
    """Store, score, store again with the scores, and write card and results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="of the finished run")
    parser.add_argument("--root", type=Path, required=True, help="data set with a test split")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    args = parser.parse_args()
    model, spec = load_model(args.weights)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.ndim > 1 and not name.endswith(SENSITIVE):
            tensor.data = tensor.data.half()
    save_model(args.out, model, spec)
    rows = [_row(args.out, args.root, spec, kept) for kept in _sets(spec.sources)]
    scores = {
        row["sensors"]: Score(row["all"], f"synthetic, {row['frames']} frames of test")
        for row in rows
    }
    presence = dataclasses.replace(spec.presence, scores=scores)
    recipe = spec.provenance.recipe.removeprefix(f"{RECIPE}: ")
    spec = dataclasses.replace(
        spec, provenance=dataclasses.replace(spec.provenance, recipe=f"{RECIPE}: {recipe}")
    )
    save_model(args.out, model, dataclasses.replace(spec, presence=presence))
    size = args.out.stat().st_size / 2**20
    best = rows[-1]
    low = min(v for name, v in best["iou"].items() if best["share"][name] > COMMON)
    bars = [
        bar("mIoU with all sensors", best["all"], "%", MIN_MIOU, ge),
        bar("least IoU of a class above 0.5 % of the pixels", low, "%", 0.1, ge),
        bar("size of the file", round(size, 1), "MiB", MAX_MIB, le),
    ]
    print(write("weights_tiny", rows, bars))
    card = args.out.with_suffix(".md")
    card.write_text(_card(args.out.name, spec, rows, size))
    print(card)


def _sets(sources: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every set of sensors besides the camera, the whole one last."""
    return [kept for n in range(len(sources) + 1) for kept in combinations(sources, n)]


def _row(weights: Path, root: Path, spec: Spec, kept: tuple[str, ...]) -> dict[str, Any]:
    """Scores with the camera and the sensors `kept`."""
    drop = tuple(source for source in spec.sources if source not in kept)
    evaluation = Evaluation(EvalConfig(str(weights), str(root), drop=drop, geometry="native"))
    matrices = evaluation.run()
    found = matrices.scores([info.name for info in spec.classes])
    truth = matrices.matrix().sum(1).double()
    row = {
        "sensors": "+".join(("camera", *kept)),
        "frames": found["all"].frames,
        "hard frames": found["difficulty=hard"].frames,
        **{name.rpartition("=")[2]: round(score.miou, 2) for name, score in found.items()},
        "iou": {k: round(v or 0.0, 1) for k, v in found["all"].to_dict()["iou"].items()},
        "share": {
            info.name: round(float(100 * n / truth.sum()), 2)
            for info, n in zip(spec.classes, truth, strict=True)
        },
    }
    print({k: v for k, v in row.items() if k not in ("iou", "share")}, flush=True)
    return row


def _card(name: str, spec: Spec, rows: list[dict[str, Any]], size: float) -> str:
    words = [k for k in rows[0] if k not in ("sensors", "frames", "hard frames", "iou", "share")]
    best = rows[-1]
    height, width = spec.config.image_size
    lines = [
        f"# {name}",
        "",
        "A small network for the demo and for tests. **Trained on synthetic scenes only: not for a",
        "road.** Use it to see what the node does, or to start training on data of your own.",
        "",
        f"* Network: `tiny`, camera, {', '.join(spec.sources)}; any of the latter may be absent.",
        f"  {sum(v.numel() for v in load_model(HERE.parent / 'models' / name)[0].parameters()):,}"
        f" parameters, input {width}x{height}, {size:.1f} MiB in half precision.",
        f"* Data: {spec.provenance.data}, made by `mmsam synth` (own world, own classes).",
        "  The RGB part was pretrained on other worlds (train seeds from 100000 on, 1200 frames);",
        "  training has the train seeds from 0 on, the scores below the test seeds from 0 on. No",
        "  split shares a seed, or a cell that colours and textures are drawn from, with another.",
        f"* Recipe and commands: `{spec.provenance.recipe}`, seed {spec.provenance.seed}. Made",
        "  into this file by `benchmarks/release_weights.py`.",
        "",
        f"mIoU (%) on {best['frames']} frames of test worlds ({best['hard frames']} hard ones), by"
        " the node's own way",
        "from points and thermal counts to labels:",
        "",
        "| sensors | " + " | ".join(words) + " |",
        "|---|" + "---:|" * len(words),
        *(f"| {row['sensors']} | " + " | ".join(f"{row[k]:.1f}" for k in words) + " |"
          for row in rows),
        "",
        "IoU by class with all sensors: "
        + ", ".join(f"{k} {v:.0f}" for k, v in best["iou"].items()) + ".",
        "",
        "LiDAR carries most of it; what is thin or small at this resolution (poles, people,",
        "bicycles) is often missed.",
        "",
        "Limits: simple shapes, one kind of town, one sensor rig (camera 75 degrees wide, LiDAR of",
        "32 beams, thermal camera 64 degrees wide). On real recordings it is poor:",
        "[what it makes of them](../docs/synthetic.md#on-real-recordings).",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
