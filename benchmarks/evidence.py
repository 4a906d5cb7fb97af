# SPDX-License-Identifier: Apache-2.0
"""What several sensors, modality dropout, the gate and the parts of the method are worth.

`nano` at 192x128 on the synthetic world. All runs start from one pretraining on other worlds:

    synth="mmsam synth folder --size 192x128 --per-scene 4"
    $synth out/evidence/pretrain_set --frames train=1500,val=32 --first 200000
    $synth out/evidence/set --frames train=2000,val=64,test=720 --first 10000
    $synth out/evidence/third --frames train=700,val=64,test=720 --first 10000
    export OMP_NUM_THREADS=1  # so that several of these can run at a time
    mmsam train --config evidence_pretrain --data.root out/evidence/pretrain_set
    run="mmsam experiments run --out out/evidence/runs"
    $run config/experiments/evidence/sensors/*.yaml --seeds 0 1 2 --data.root out/evidence/set
    $run config/experiments/evidence/dropout/*.yaml --data.root out/evidence/set
    $run config/experiments/evidence/ablations/*.yaml --data.root out/evidence/third
    python benchmarks/evidence.py evaluate  # sensors missing, other exposures, the gate
    python benchmarks/evidence.py report    # results/evidence.json, docs/gate.jpg, docs/evidence.md
    python benchmarks/evidence.py tables    # docs/evidence.md alone, from results/evidence.json

What is finished is not repeated.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from operator import ge, gt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import cv2
import numpy as np
import torch
from results import RESULTS, ROOT, Row, bar, markdown_table, write

from mmsam_ros._util import write_atomic
from mmsam_ros.inference import TorchEngine, tune_allocator
from mmsam_ros.inference.draw import colorise
from mmsam_ros.sensors import palette
from mmsam_ros.training.evaluate import EvalConfig, Evaluation

OUT, DOCS = Path("out/evidence"), ROOT / "docs"
SEEDS = (0, 1, 2)
SENSORS = ("rgb", "rgb_lidar", "rgb_thermal", "all", "all_dropout")
LONG = ("rgb_long", "rgb_lidar_long", "all_dropout_long")
DROPOUT = ("all_dropout_15", "all_dropout_45")
# the ablations, each with the network that it is compared with
CONTROLS = {
    "fused": "fused", "convnext_rgb": "fused", "no_extractor": "fused", "fusion_add": "fused",
    "fusion_concat": "fused", "auxiliary_only": "fused", "no_adapter": "convnext_rgb",
    "sam_frozen": "fused", "from_scratch": "fused", "trunks_1": "trunks_1",
    "trunks_2_symmetric": "trunks_1", "trunks_1_4": "trunks_1", "trunks_1_2": "trunks_1",
    "trunks_4": "trunks_1", "conv_prior_rgb": "convnext_rgb", "shared_encoder": "fused",
}  # fmt: skip
GATED, PAIRS = ("all", "all_dropout"), ("rgb_lidar", "rgb_thermal")
FULL = (*GATED, *DROPOUT, "all_dropout_long")  # networks with all sensors
COMPARED = (
    *(f"{name} - {pair}" for name in GATED for pair in PAIRS),
    *(f"{name} - rgb" for name in (*PAIRS, *GATED)),
    "all_dropout - all",
)
TRAINED, PAIRED, NOT_RUN = "trained", "seed-paired difference", "not run"
EXPOSURES = ("underexposure", "overexposure")
DROPS = {"without_" + "_".join(d): d for d in (("lidar",), ("thermal",), ("lidar", "thermal"))}
OVER_RGB = {kind: f"without {' and '.join(drop)} over rgb" for kind, drop in DROPS.items()}
EASY, HARD = "difficulty=easy", "difficulty=hard"
MAIN = {"all": "all", "easy": EASY, "hard": HARD}
CORRELATION = "correlation with the camera-only error, by seed"
SHOWN = ("ordinary", "motionblur", "overexposure", "underexposure", "thermallowres")
Scores = dict[int, dict[str, float]]  # mIoU by seed and subset


def runs() -> list[tuple[str, int]]:
    """Name and seed of every training run."""
    every = [(name, seed) for seed in SEEDS for name in (*SENSORS, *LONG)]
    return every + [(name, SEEDS[0]) for name in (*DROPOUT, *CONTROLS)]


def evaluations() -> list[tuple[str, int, str]]:
    """Name, seed and kind of every further evaluation."""
    networks = dict.fromkeys(EXPOSURES, SENSORS) | dict.fromkeys(DROPS, FULL) | {"gate": GATED}
    return [(n, s, kind) for n, s in runs() for kind, names in networks.items() if n in names]


def result_file(name: str, seed: int, kind: str = TRAINED) -> Path:
    """Results of a run: its own, or those of a further evaluation."""
    if kind == TRAINED:
        return OUT / "runs" / name / f"seed{seed}" / "result.json"
    return OUT / "evaluations" / f"{name}.seed{seed}.{kind}.json"


def evaluate() -> None:
    """Evaluate what has not been evaluated yet, of the runs that are finished."""
    tune_allocator()
    for name, seed, kind in evaluations():
        path, needed = result_file(name, seed, kind), {name, "rgb"} if kind == "gate" else {name}
        if path.is_file() or not all(result_file(n, seed).is_file() for n in needed):
            continue
        print(path, flush=True)
        if kind == "gate":
            content: Any = gates(name, seed)
        else:
            evaluation = open_run(name, seed, kind)
            names = [info.name for info in evaluation.spec.classes]
            found = evaluation.run().scores(names)
            content = {"scores": {key: vars(score) for key, score in found.items()}}
        write_atomic(path, json.dumps(content) + "\n")


def open_run(name: str, seed: int, kind: str = TRAINED) -> Evaluation:
    """Evaluation of a run on the test split, as `mmsam eval --drop` and `--corrupt` do it."""
    weights = str(result_file(name, seed).with_name("best.safetensors"))
    drop, corrupt = DROPS.get(kind, ()), (kind,) if kind in EXPOSURES else ()
    config = EvalConfig(weights, str(OUT / "set"), drop=drop, corrupt=corrupt, precision="bf16")
    return Evaluation(config)


def watch_gates(evaluation: Evaluation) -> list[list[torch.Tensor]]:
    """A list to which every forward pass appends its gates, by level."""
    seen: list[list[torch.Tensor]] = []
    assert isinstance(evaluation.segmenter.engine, TorchEngine)
    prior: Any = evaluation.segmenter.engine.model.prior
    prior.register_forward_hook(lambda module, inputs, maps: seen.append(maps.gates))
    return seen


@torch.no_grad()
def gates(name: str, seed: int) -> list[Row]:
    """By frame: every level's mean gate, and the share of pixels that RGB alone gets wrong."""
    full, rgb = open_run(name, seed), open_run("rgb", seed)
    seen, rows = watch_gates(full), []
    for i, record in enumerate(full.frames.records):
        item = full.frames[i]
        full.predict(item)
        guess, truth = rgb.predict(item)
        assert truth is not None
        wrong = float(torch.ne(guess, truth).float().mean())
        means = [float(gate.mean()) for gate in seen.pop()]
        rows.append({**record.subsets, "name": record.name, "gates": means, "wrong": wrong})
    return rows


@torch.no_grad()
def gate_picture() -> np.ndarray:
    """Camera, truth and gate (white 1, blue 0.5, red 1.5) of five frames: the first hard one where
    the exposure is wrong, the first easy one elsewhere.
    """
    evaluation = open_run(GATED[-1], SEEDS[0])
    seen, rows = watch_gates(evaluation), dict[str, np.ndarray]()
    for i, record in enumerate(evaluation.frames.records):
        case, difficulty = record.subsets["case"], record.subsets["difficulty"]
        if case in rows or difficulty != ("hard" if case in EXPOSURES else "easy"):
            continue
        item = evaluation.frames[i]
        assert item.label is not None
        evaluation.predict(item)
        truth = colorise(item.label, palette(evaluation.spec.classes))
        maps = [gate.float()[0, 0].numpy() for gate in seen.pop()]
        gate = np.mean([cv2.resize(level, truth.shape[1::-1]) for level in maps], axis=0)
        red, blue = np.clip(2 * gate - 1, 0, 1), np.clip(3 - 2 * gate, 0, 1)
        colours = (255 * np.stack([red, np.minimum(red, blue), blue], 2)).astype(np.uint8)
        panels = np.hstack([item.frame.rgb, truth, colours])
        rows[case] = cv2.resize(panels, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        text = f"{record.subsets['weather']}, {case}: {difficulty}; mean gate {gate.mean():.2f}"
        cv2.rectangle(rows[case], (0, 0), (10 + 8 * len(text), 26), (0, 0, 0), -1)
        cv2.putText(rows[case], text, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1)
    return np.vstack([rows[case] for case in SHOWN])


def scores(name: str, kind: str = TRAINED) -> Scores:
    """Of what is finished."""
    files = {seed: result_file(name, seed, kind) for seed in SEEDS}
    found = {s: json.loads(f.read_text())["scores"] for s, f in files.items() if f.is_file()}
    return {s: {key: score["miou"] for key, score in own.items()} for s, own in found.items()}


def gaps(one: Scores, two: Scores, key: str = "all") -> list[float]:
    """Differences of the runs with the same seed."""
    return [one[seed][key] - two[seed][key] for seed in SEEDS if seed in one and seed in two]


def report() -> None:
    """Write results/evidence.json and the picture of the gates, then the tables."""
    rows = [
        *(score_row(TRAINED, name) for name in (*SENSORS, *DROPOUT, *LONG, *CONTROLS)),
        *(score_row(kind, name) for name in SENSORS for kind in EXPOSURES),
        *(score_row(kind, name) for name in FULL for kind in DROPS),
        *(paired_row(name) for name in COMPARED),
        *(gate_row(name) for name in GATED),
        *(tried_row(name) for name in FULL),
    ]
    rows = [row for row in rows if row["seeds"]]
    left = {"runs": [r for r in runs() if not result_file(*r).is_file()],
            "evaluations": [e for e in evaluations() if not result_file(*e).is_file()]}  # fmt: skip
    rows.append({"what": NOT_RUN, **left})
    write("evidence", rows, bars(rows))
    if result_file(GATED[-1], SEEDS[0], "gate").is_file():
        quality = [cv2.IMWRITE_JPEG_QUALITY, 85]
        cv2.imwrite(str(DOCS / "gate.jpg"), gate_picture()[..., ::-1], quality)
    write_tables()


def score_row(what: str, name: str) -> Row:
    """Mean over the seeds, by subset."""
    found = scores(name, what)
    row: Row = {"what": what, "network": name, "seeds": len(found)}
    row["all by seed"] = [round(own["all"], 2) for own in found.values()]
    for key in next(iter(found.values()), {}):
        row[key] = round(mean(own[key] for own in found.values()), 2)
    if found and what == TRAINED:
        content = json.loads(result_file(name, next(iter(found))).read_text())
        parameters = sum(total for total, _ in content["parameters"].values())
        row["parameters_m"] = round(parameters / 1e6, 2)
        row["hard frames"] = content["scores"][HARD]["frames"]
    return row


def paired_row(name: str) -> Row:
    """Mean and spread of the differences between runs of the same seed, where all are there."""
    one, two = map(scores, name.split(" - "))
    seeds = len(gaps(one, two))
    row: Row = {"what": PAIRED, "network": name, "seeds": seeds if seeds == len(SEEDS) else 0}
    for key in one[SEEDS[0]] if row["seeds"] else ():
        found = gaps(one, two, key)
        row[key] = {"mean": round(mean(found), 2), "spread": round(stdev(found), 2)}
    return row


def gate_row(name: str) -> Row:
    """Mean gate (all levels) by subset, and its correlation with the camera-only error."""
    files = [result_file(name, seed, "gate") for seed in SEEDS]
    by_seed = [json.loads(file.read_text()) for file in files if file.is_file()]
    row: Row = {"what": "gate", "network": name, "seeds": len(by_seed)}
    if not by_seed:
        return row
    frames = [frame for own in by_seed for frame in own]
    gate = np.array([frame["gates"] for frame in frames])
    row["all"] = round(float(gate.mean()), 4)
    for key in ("difficulty", "weather", "case"):
        words = np.array([frame[key] for frame in frames])
        for word in sorted(set(words)):
            row[f"{key}={word}"] = round(float(gate[words == word].mean()), 4)
    row["by level"] = [round(float(level), 4) for level in gate.mean(0)]
    pairs = [[(np.mean(f["gates"]), f["wrong"]) for f in own] for own in by_seed]
    row[CORRELATION] = [round(float(np.corrcoef(np.transpose(own))[0, 1]), 3) for own in pairs]
    return row


def tried_row(name: str) -> Row:
    """What the bars ask of a network, by seed, against networks that trained as long."""
    length = "_long" if name in LONG else ""
    own, rgb, pair = scores(name), scores("rgb" + length), scores("rgb_lidar" + length)
    found = {"over rgb_lidar on hard": gaps(own, pair, HARD), "over rgb": gaps(own, rgb)}
    found |= {title: gaps(scores(name, kind), rgb) for kind, title in OVER_RGB.items()}
    rounded = {title: [round(gap, 2) for gap in values] for title, values in found.items()}
    return {"what": "tried", "network": name, "seeds": len(own), **rounded}


def bars(rows: Sequence[Row]) -> list[Row]:
    """The bars, of seed-paired differences; not measured unless every seed is there."""
    reason = "not all seeds are trained and evaluated"
    known = {(row["what"], row.get("network")): row for row in rows}
    found = []
    for name in GATED:
        gains = [known[key][HARD] for p in PAIRS if (key := (PAIRED, f"{name} - {p}")) in known]
        least = min(gains, key=lambda gain: gain["mean"]) if len(gains) == len(PAIRS) else None
        margin = round(least["mean"] - least["spread"], 2) if least else None
        title = f"{name} over the best pair on hard, mean less spread"
        found.append(bar(title, margin, "mIoU", 0.0, gt, reason))
        easy = known.get((PAIRED, f"{name} - rgb"), {EASY: {"mean": None}})[EASY]["mean"]
        found.append(bar(f"{name} over rgb on easy", easy, "mIoU", 0.0, ge, reason))
        for title in OVER_RGB.values():
            values = known.get(("tried", name), {title: []})[title]
            worst = min(values) if len(values) == len(SEEDS) else None
            found.append(bar(f"{name} {title}, worst seed", worst, "mIoU", -1.0, ge, reason))
    hard = next((row["hard frames"] for row in rows if "hard frames" in row), None)
    title = "hard frames in the test set"
    return [*found, bar(title, hard, "frames", 300, ge, "nothing is trained yet")]


def write_tables() -> None:
    """Fill the blocks `<!-- name -->` to `<!-- /name -->` of docs/evidence.md."""
    path = DOCS / "evidence.md"
    text = path.read_text()
    for name, block in tables(json.loads((RESULTS / "evidence.json").read_text())).items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not end:
            raise SystemExit(f"{path}: expected a block {name!r}")
        text = f"{before}{begin}{block}\n{end}{after}"
    path.write_text(text)


def tables(content: Mapping[str, Any]) -> dict[str, str]:
    """Markdown by block of docs/evidence.md, from results/evidence.json."""
    rows = {(row["what"], row.get("network", "")): row for row in content["rows"]}

    def of(what: str, *names: str) -> list[Row]:
        return [rows[what, name] for name in names if (what, name) in rows]

    def means(row: Row, keys: Iterable[str] = tuple(MAIN.values())) -> list[str]:
        return [f"{row[key]:.2f}" for key in keys]

    trained, gated, tried = of(TRAINED, *SENSORS), of("gate", *GATED), of("tried", *FULL)
    subsets = dict.fromkeys([*MAIN.values(), *(k for row in trained[:1] for k in row if "=" in k)])
    levels = [key for row in gated[:1] for key in row if key == "all" or "=" in key]
    asked = [key for row in tried[:1] for key in row if " over " in key or key.startswith("over ")]
    blocks: dict[str, list[Sequence[object]]] = {
        "modalities": [["network", "seeds", *(key.rpartition("=")[2] for key in subsets)]],
        "differences": [["difference", *MAIN]],
        "missing": [["network", "sensors there", *MAIN, "over rgb, all"]],
        "exposure": [["network", "seeds", "as it is", *EXPOSURES]],
        "gate": [["mean gate on", *(row["network"] for row in gated)]],
        "tried": [["network", "seeds", *asked]],
        "orders": [["network", "parameters, M", *MAIN, "over its control, all"]],
        "bars": [["bar", "measured", "at least", ""]],
    }
    for row in trained:
        blocks["modalities"].append([row["network"], row["seeds"], *means(row, subsets)])
        changed = [other for kind in EXPOSURES for other in of(kind, row["network"])]
        if len(changed) == len(EXPOSURES):
            three = [f"{other['all']:.2f}" for other in (row, *changed)]
            blocks["exposure"].append([row["network"], changed[-1]["seeds"], *three])
    for row in of(PAIRED, *COMPARED):
        cells = ["{mean:+.2f} ± {spread:.2f}".format(**row[key]) for key in MAIN.values()]
        blocks["differences"].append([row["network"], *cells])
    for name, (kind, drop) in product(GATED, {TRAINED: (), **DROPS}.items()):
        there = ", ".join(s for s in ("camera", "lidar", "thermal") if s not in drop)
        for row, rgb in zip(of(kind, name), of(TRAINED, "rgb"), strict=False):
            pairs = zip(row["all by seed"], rgb["all by seed"], strict=False)
            gain = plus_minus([own - other for own, other in pairs])
            blocks["missing"].append([name, there, *means(row), gain])
    blocks["gate"] += [[key, *(f"{row[key]:.3f}" for row in gated)] for key in levels]
    correlations = [", ".join(f"{v:+.2f}" for v in row[CORRELATION]) for row in gated]
    blocks["gate"].append([CORRELATION, *correlations])
    for row in tried:
        cells = [plus_minus(row[key]) for key in asked]
        blocks["tried"].append([row["network"], row["seeds"], *cells])
    for name, other in CONTROLS.items():
        for row, control in zip(of(TRAINED, name), of(TRAINED, other), strict=False):
            gain, size = f"{row['all'] - control['all']:+.1f}", f"{row['parameters_m']:.2f}"
            blocks["orders"].append([name, size, *means(row), gain])
    words = {True: "holds", False: "**fails**", None: "not measured"}
    for entry in content["bars"]:
        value = "-" if entry["value"] is None else f"{entry['value']:g}"
        blocks["bars"].append([entry["name"], value, f"{entry['bar']:g}", words[entry["holds"]]])
    left = [f"* {part.capitalize()} left: {len(rows[NOT_RUN, ''][part]) or 'none'}."
            for part in ("runs", "evaluations")]  # fmt: skip
    return {name: markdown_table(block) for name, block in blocks.items()} | {
        "left": "\n".join(left)
    }


def plus_minus(values: Sequence[float]) -> str:
    """Mean and spread; one value has no spread."""
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):+.2f}{spread}" if values else "-"


PARTS = {"evaluate": evaluate, "report": report, "tables": write_tables}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    PARTS[parser.parse_args().part]()
