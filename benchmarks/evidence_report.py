# SPDX-License-Identifier: Apache-2.0
"""Evaluations and tables of `evidence.py`: sensors missing, exposure, what the gate selects."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from itertools import combinations
from operator import ge, gt
from pathlib import Path
from typing import Any

import numpy as np
from evidence import MODALITIES, ORDERS, OUT, SEEDS, runs
from results import bar, write

DOCS = Path(__file__).parents[1] / "docs"
PAIRS = ("rgb_lidar", "rgb_thermal")
FULL = ("all", "all_dropout")
EXPOSURES = ("underexposure", "overexposure")
SPLITS = {"easy": "difficulty=easy", "hard": "difficulty=hard"}
Row = dict[str, Any]


def evaluate(out: Path) -> None:
    """Whatever of the finished runs has not been evaluated yet."""
    for name in MODALITIES:
        for seed in SEEDS:
            weights = out / "runs" / name / f"seed{seed}" / "best.safetensors"
            if not (weights.parent / "result.json").is_file():
                print(f"{name}, seed {seed}: not trained yet")
                continue
            for corrupt in EXPOSURES:
                _once(out, f"{name}_{seed}_{corrupt}", _scores, weights, (), corrupt)
            if name in FULL:
                for drop in (("lidar",), ("thermal",), ("lidar", "thermal")):
                    key = f"{name}_{seed}_without_{'_'.join(drop)}"
                    _once(out, key, _scores, weights, drop, "")
                _once(out, f"{name}_{seed}_gate", _gate, out, weights, seed)


def _once(out: Path, key: str, work: Callable[..., Any], *args: Any) -> None:
    path = out / "evaluations" / f"{key}.json"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(work(*args)) + "\n")
        print(path, flush=True)


def _scores(weights: Path, drop: tuple[str, ...], corrupt: str) -> dict[str, float]:
    """mIoU by subset on the test split."""
    from mmsam_ros.training.evaluate import EvalConfig, Evaluation

    changed = (corrupt,) if corrupt else ()
    evaluation = Evaluation(EvalConfig(str(weights), str(OUT / "set"), drop=drop, corrupt=changed))
    names = [info.name for info in evaluation.spec.classes]
    return {key: score.miou for key, score in evaluation.run().scores(names).items()}


def _gate(out: Path, weights: Path, seed: int) -> list[Row]:
    """By frame: mean gate of every level, and the share of pixels that RGB alone gets wrong."""
    from mmsam_ros.training.evaluate import EvalConfig, Evaluation

    root = str(out / "set")
    full = Evaluation(EvalConfig(str(weights), root))
    camera = out / "runs" / "rgb" / f"seed{seed}" / "best.safetensors"
    rgb = Evaluation(EvalConfig(str(camera), root))
    seen: list[Any] = []
    prior = full.segmenter.model.prior
    assert prior is not None
    prior.register_forward_hook(lambda *a: seen.append(a[2].gates))
    rows = []
    for i, record in enumerate(full.frames.records):
        sample = full.frames[i]
        full.predict(sample)
        guess, truth = rgb.predict(sample)
        assert truth is not None
        wrong = float((guess != truth).float().mean())
        gates = [float(g.mean()) for g in seen.pop()]
        rows.append({**record.subsets, "name": record.name, "gates": gates, "wrong": wrong})
    return rows


def report(out: Path) -> None:
    """Write benchmarks/results/evidence.json of all that is finished."""
    results = {
        (name, seed): json.loads(path.read_text())["scores"]
        for name, seed in runs()
        if (path := out / "runs" / name / f"seed{seed}" / "result.json").is_file()
    }
    rows = [_run_row(name, results) for name in (*MODALITIES, *ORDERS)]
    rows += _evaluation_rows(out)
    missing = [f"{name}, seed {seed}" for name, seed in runs() if (name, seed) not in results]
    rows.append({"what": "not run (python benchmarks/evidence.py train)", "runs": missing})
    print(write("evidence", rows, _bars(results, out)))


def _run_row(name: str, results: Mapping[tuple[str, int], Any]) -> Row:
    """Mean over the seeds of all subsets."""
    found = [results[name, seed] for seed in SEEDS if (name, seed) in results]
    keys = found[0] if found else {}
    means = {k: round(statistics.mean(f[k]["miou"] for f in found), 2) for k in keys}
    return {"what": "trained", "network": name, "seeds": len(found), **means}


def _evaluation_rows(out: Path) -> list[Row]:
    groups: dict[str, list[Any]] = {}
    for path in sorted((out / "evaluations").glob("*.json")):
        name, _, kind = path.stem.partition("_0_")
        for seed in SEEDS[1:]:
            if not kind:
                name, _, kind = path.stem.partition(f"_{seed}_")
        groups.setdefault(f"{name}, {kind}", []).append(json.loads(path.read_text()))
    rows = []
    for title, found in groups.items():
        if title.endswith("gate"):
            rows.append({"what": "gate", "network": title, **_gate_row(found)})
            continue
        means = {k: round(statistics.mean(f[k] for f in found), 2) for k in found[0]}
        rows.append({"what": "evaluated", "network": title, "seeds": len(found), **means})
    return rows


def _gate_row(found: list[list[Row]]) -> Row:
    """Mean gate (all levels) by subset, and its correlation with the camera-only error."""
    frames = [row for rows in found for row in rows]
    mean = np.array([np.mean(row["gates"]) for row in frames])
    row: Row = {"seeds": len(found)}
    for key in ("difficulty", "weather", "case"):
        words = np.array([frame[key] for frame in frames])
        for word in sorted(set(words)):
            row[f"{key}={word}"] = round(float(mean[words == word].mean()), 4)
    wrong = np.array([frame["wrong"] for frame in frames])
    row["correlation with the camera-only error"] = round(float(np.corrcoef(mean, wrong)[0, 1]), 3)
    return row


def _bars(results: Mapping[tuple[str, int], Any], out: Path) -> list[Row]:
    """The issue's bars, of seed-paired differences."""
    reason = "not all seeds are trained"

    def paired(one: str, two: str, subset: str) -> list[float]:
        found = [(results.get((one, s)), results.get((two, s))) for s in SEEDS]
        return [a[subset]["miou"] - b[subset]["miou"] for a, b in found if a and b]

    def full(one: str, two: str, subset: str) -> list[float] | None:
        values = paired(one, two, subset)
        return values if len(values) == len(SEEDS) else None

    bars = []
    for name in FULL:
        worst = [full(name, pair, SPLITS["hard"]) for pair in PAIRS]
        margin = None
        if all(worst):
            gains = min((w for w in worst if w), key=statistics.mean)
            margin = round(statistics.mean(gains) - statistics.stdev(gains), 2)
        title = f"{name} over the best pair on hard, mean less spread"
        bars.append(bar(title, margin, "mIoU", 0.0, gt, reason))
        easy = full(name, "rgb", SPLITS["easy"])
        value = round(statistics.mean(easy), 2) if easy else None
        bars.append(bar(f"{name} over RGB on easy", value, "mIoU", 0.0, ge, reason))
    kinds = ["_".join(d) for n in (1, 2) for d in combinations(("lidar", "thermal"), n)]
    for kind in kinds:
        gaps = []
        for seed in SEEDS:
            path = out / "evaluations" / f"all_dropout_{seed}_without_{kind}.json"
            if path.is_file() and ("rgb", seed) in results:
                gaps.append(
                    json.loads(path.read_text())["all"] - results["rgb", seed]["all"]["miou"]
                )
        value = round(statistics.mean(gaps), 2) if gaps else None
        title = f"all_dropout without {kind.replace('_', ' and ')}, over RGB"
        bars.append(bar(title, value, "mIoU", -1.0, ge, reason))
    return bars
