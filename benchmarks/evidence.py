# SPDX-License-Identifier: Apache-2.0
"""What several sensors are worth, and whether one network does for every set of them.

`nano` at 192x128 on the synthetic world; docs/evidence.md has the commands of the trainings. Then

    python benchmarks/evidence.py evaluate  # sensors missing, and the gate
    python benchmarks/evidence.py report    # results/evidence.json, and the tables of the page
    python benchmarks/evidence.py tables    # the tables alone

What is finished is not repeated.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from operator import ge, gt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from results import RESULTS, ROOT, Row, bar, markdown_table, write
from torch import nn

from mmsam_ros._util import write_atomic
from mmsam_ros.inference import TorchEngine, tune_allocator
from mmsam_ros.inference.geometry import Plan
from mmsam_ros.inference.prepare import prepare
from mmsam_ros.sensors import NO_LABEL
from mmsam_ros.training.evaluate import EvalConfig, Evaluation, FrameResult
from mmsam_ros.weights import load_model, save_model

OUT, PAGE = Path("out/evidence"), ROOT / "docs/evidence.md"
SEEDS = (0, 1, 2)
# sets of sensors, each as what is missing, and the network that has learnt with this set alone
MODES = {
    "all": (), "no LiDAR": ("lidar",), "no thermal": ("thermal",),
    "camera alone": ("lidar", "thermal"),
}  # fmt: skip
SPECIALISTS = dict(zip(MODES, ("all", "rgb_thermal", "rgb_lidar", "rgb"), strict=True))
PAIRS = ("rgb_lidar", "rgb_thermal")
# The network for every set that the package offers, trained once; the suffix marks the one with
# `give_statistics`.
OWN = "_own_norms"
ONE = ("fallback", f"fallback{OWN}")
EVERY = ("all", "all_dropout", *ONE)  # networks with all sensors
NETWORKS = ("rgb", *PAIRS, *EVERY)
FAILURES = (0.05, 0.1, 0.2)  # probabilities that an auxiliary fails, each independently
MAIN = {"all": "all", "easy": "difficulty=easy", "hard": "difficulty=hard"}
HARD_PIXEL = 0.7  # OHEM's threshold
BATCHES = 50  # of 8 frames, for statistics
BINS = 2000  # of gates in (0, 2), for the area under the ROC curve
NOT_RUN = "not run"
BySeed = list[float | None]


def result_file(name: str, seed: int) -> Path:
    """Of a network's training run."""
    return OUT / "runs" / name.removesuffix(OWN) / f"seed{seed}" / "result.json"


def evaluations() -> dict[tuple[str, str, int], Path]:
    """File of each evaluation by network, set of sensors and seed: every set, or, of networks with
    fewer sensors, all that they have.
    """
    modes = [(name, mode) for name in NETWORKS for mode in (MODES if name in EVERY else ("all",))]
    file = "{}.seed{}.{}.json"
    return {
        (name, mode, seed): OUT / "evaluations" / file.format(name, seed, mode.replace(" ", "_"))
        for name, mode in modes
        for seed in SEEDS
    }


def evaluate() -> None:
    """Evaluate what has not been evaluated yet, of the runs that are finished."""
    tune_allocator()
    for (name, mode, seed), path in evaluations().items():
        ready = all(result_file(n, seed).is_file() for n in (name, "rgb"))
        if ready and not path.is_file():
            print(path, flush=True)
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, json.dumps(Watch(name, mode, seed).content()) + "\n")


def weights_file(name: str, seed: int) -> Path:
    """Of a network's training run."""
    return result_file(name, seed).with_name("best.safetensors")


def open_run(weights: Path, drop: tuple[str, ...] = (), split: str = "test") -> Evaluation:
    """Evaluation of a run's weights, as `mmsam eval --drop` does it."""
    root, precision = str(OUT / "set"), "bf16"
    config = EvalConfig(str(weights), root, split, drop=drop, workers=1, precision=precision)
    return Evaluation(config)


def network(name: str, seed: int, mode: str) -> Path:
    """Weights of a network with the mode's sensors."""
    trained = weights_file(name, seed)
    if not name.endswith(OWN):
        return trained
    out = OUT / "evaluations" / f"{name}.seed{seed}.{mode.replace(' ', '_')}.safetensors"
    give_statistics(trained, MODES[mode], out)
    return out


def give_statistics(weights: Path, drop: tuple[str, ...], out: Path) -> None:
    """Write the network with batch norms after the fusion that have the statistics of training
    frames with this set of sensors.
    """
    frames = open_run(weights, drop, "train").frames
    model, spec = load_model(weights)
    for norm in (*model.norms.modules(), *model.head.modules()):
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
    plan = Plan.of(spec.geometry, frames[0].frame.size)
    chosen = range(0, len(frames), len(frames) // (8 * BATCHES))
    with torch.inference_mode():
        for first in range(0, 8 * BATCHES, 8):
            some = [frames[index].frame for index in chosen[first : first + 8]]
            inputs = [prepare(frame, spec, plan, torch.device("cpu")).inputs for frame in some]
            model({m: torch.cat([image[m] for image in inputs]) for m in inputs[0]})
    save_model(out, model.eval(), spec)


class Watch:
    """An evaluation that also counts hard pixels and, with all sensors, reads the gates."""

    def __init__(self, name: str, mode: str, seed: int) -> None:
        self.evaluation = open_run(network(name, seed, mode), MODES[mode])
        self.rgb = open_run(weights_file("rgb", seed)) if name in EVERY and mode == "all" else None
        engine = self.evaluation.segmenter.engine
        assert isinstance(engine, TorchEngine)
        model: Any = engine.model
        model.register_forward_hook(self._see_logits)
        model.prior.register_forward_hook(self._see_gates)
        self.counts = np.zeros(2)  # hard pixels, labelled pixels
        self.gates = torch.zeros(2, BINS)  # pixels by gate, where RGB alone is wrong, and right

    def content(self) -> Row:
        scores = self.evaluation.run(self._on_frame).scores(self.evaluation.names)
        found: Row = {"miou": {key: score.miou for key, score in scores.items()}}
        found["hard"] = 100 * self.counts[0] / self.counts[1]
        if self.rgb is not None:
            found["gate"] = gate_scores(self.gates.numpy())
        return found

    def _see_logits(self, _: object, __: object, logits: torch.Tensor) -> None:
        self.logits = logits.float()

    def _see_gates(self, _: object, __: object, maps: Any) -> None:
        self.levels = maps.gates

    def _on_frame(self, result: FrameResult) -> None:
        target, size = result.target, result.prediction.shape
        assert target is not None
        known = target != NO_LABEL
        p = F.interpolate(self.logits, size=size, mode="bilinear").softmax(1)[0]
        p_true = p.gather(0, target.long().where(known, 0)[None])[0][known]
        self.counts += (int((p_true < HARD_PIXEL).sum()), len(p_true))
        if self.rgb is None:
            return
        levels = [F.interpolate(g.float(), size=size, mode="bilinear") for g in self.levels]
        gate = torch.stack(levels).mean(0)[0, 0]
        right = self.rgb.predict(result.item)[0] == target
        for row, pixels in zip(self.gates, (known & ~right, known & right), strict=True):
            row += torch.histc(gate[pixels], BINS, 0, 2)


def gate_scores(counts: np.ndarray) -> dict[str, float]:
    """Area under the ROC curve of gates (2, bins) against whether RGB alone is right, and means."""
    wrong, right = counts / counts.sum(1, keepdims=True)
    below = np.cumsum(wrong) - wrong / 2  # equal gates count half
    centres = (np.arange(counts.shape[1]) + 0.5) * 2 / counts.shape[1]
    means = {"right": float(right @ centres), "wrong": float(wrong @ centres)}
    return {"auroc": float(right @ below), **means}


def report() -> None:
    """Write results/evidence.json, then the tables."""
    files = evaluations()
    rows: list[Row] = []
    for name, mode in dict.fromkeys((name, mode) for name, mode, _ in files):
        own = [files[name, mode, seed] for seed in SEEDS]
        found = [json.loads(file.read_text()) if file.is_file() else None for file in own]
        if some := [content for content in found if content]:
            row: Row = {"network": name, "mode": mode}
            row["miou"] = {k: _rounded(f and f["miou"][k] for f in found) for k in some[0]["miou"]}
            row["hard pixels"] = _rounded(f and f["hard"] for f in found)
            for key in some[0].get("gate", ()):
                row[f"gate {key}"] = _rounded((f and f["gate"][key] for f in found), 3)
            rows.append(row)
    left = {
        n: [s for s in SEEDS if not result_file(n, s).is_file()] for n in NETWORKS if OWN not in n
    }
    rows.append({"what": NOT_RUN, "runs": left})
    write("evidence", rows, bars(rows))
    write_tables()


def _rounded(values: Any, digits: int = 2) -> BySeed:
    return [None if value is None else round(value, digits) for value in values]


class Found:
    """What results/evidence.json holds, by seed; None for what is not run."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = {(row["network"], row["mode"]): row for row in rows if "mode" in row}
        self.left: Row = next((row["runs"] for row in rows if row.get("what") == NOT_RUN), {})

    def get(self, network: str, mode: str, key: str) -> BySeed:
        row: Row = self.rows.get((network, mode), {})
        return row.get(key) or row.get("miou", {}).get(key) or [None] * len(SEEDS)

    def modes(self, network: str, key: str = "all") -> dict[str, BySeed]:
        """mIoU by set of sensors; of `specialists`, each set's own network."""
        alone = network == "specialists"
        return {
            mode: self.get(own, "all", key) if alone else self.get(network, mode, key)
            for mode, own in SPECIALISTS.items()
        }

    def expected(self, network: str, p: float) -> BySeed:
        """mIoU where each auxiliary is missing with probability p."""
        there = (1 - p) ** 2, p * (1 - p), p * (1 - p), p**2
        by_seed = zip(*self.modes(network).values(), strict=True)
        return [None if None in own else float(np.dot(there, own)) for own in by_seed]


def gaps(one: BySeed, two: BySeed) -> BySeed:
    """Differences of the runs with the same seed."""
    pairs = zip(one, two, strict=True)
    return [None if a is None or b is None else a - b for a, b in pairs]


def bars(rows: Sequence[Row]) -> list[Row]:
    """The bars of every network for every set; not measured unless all seeds are there."""
    found, special = Found(rows), "specialists"
    entries = []
    pairs = [found.get(pair, "all", MAIN["hard"]) for pair in PAIRS]
    best = max(pairs, key=lambda values: mean(v or 0 for v in values))
    for name in ONE:
        own, others = found.modes(name), found.modes(special)
        asked = [
            (f"{mode}, over its specialist", gaps(own[mode], others[mode]), -1.0, ge)
            for mode in ("all", "no LiDAR", "no thermal")
        ]
        asked.append(
            (
                "camera alone, over RGB",
                gaps(own["camera alone"], found.get("rgb", "all", "all")),
                0.0,
                ge,
            )
        )
        hard = found.get(name, "all", MAIN["hard"])
        asked.append(("all on hard, over the best pair", gaps(hard, best), 0.0, gt))
        for p in FAILURES:
            both = [found.expected(n, p) for n in (name, special)]
            asked.append((f"expected at p = {p}, over the specialists", gaps(*both), -0.5, ge))
        asked.append(
            ("gate, area under the ROC curve", found.get(name, "all", "gate auroc"), 0.75, ge)
        )
        for title, values, limit, holds in asked:
            known = [value for value in values if value is not None]
            value = round(mean(known), 3) if len(known) == len(SEEDS) else None
            entry = bar(title, value, "", limit, holds, "not all seeds are run")
            spread = round(stdev(known), 3) if value is not None else None
            entries.append({"network": name, **entry, "spread": spread})
    return entries


def write_tables() -> None:
    """Fill the blocks `<!-- name -->` to `<!-- /name -->` of docs/evidence.md."""
    text = PAGE.read_text()
    for name, block in tables(json.loads((RESULTS / "evidence.json").read_text())).items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not end:
            raise SystemExit(f"{PAGE}: expected a block {name!r}")
        text = f"{before}{begin}{block}\n{end}{after}"
    PAGE.write_text(text)


def tables(content: Mapping[str, Any]) -> dict[str, str]:
    """Markdown by block of docs/evidence.md, from results/evidence.json."""
    found = Found(content["rows"])
    subsets = [key for key in found.rows.get(("rgb", "all"), {}).get("miou", ()) if "=" in key]
    subsets = [key for key in subsets if key not in MAIN.values()]
    words = [key.partition("=")[2] for key in subsets]
    sensors: list[Sequence[object]] = [["network", "seeds", *MAIN, *words]]
    for name in NETWORKS[:4]:
        cells = [_mean(found.get(name, "all", key)) for key in (*MAIN.values(), *subsets)]
        sensors.append([name, _seeds(found.get(name, "all", "all")), *cells])
    expected = [f"expected, p = {p}" for p in FAILURES]
    modes: list[Sequence[object]] = [["network", "seeds", *MODES, *expected]]
    pixels: list[Sequence[object]] = [
        [
            "network",
            *(f"hard: {mode}" for mode in MODES),
            "gate: area",
            "where right",
            "where wrong",
        ]
    ]
    for name in ("specialists", *EVERY):
        own = found.modes(name)
        at = [_mean(found.expected(name, p)) for p in FAILURES]
        modes.append([name, min(map(_seeds, own.values())), *map(_mean, own.values()), *at])
        gate = [found.get(name, "all", key) for key in ("gate auroc", "gate right", "gate wrong")]
        shares = found.modes(name, "hard pixels").values()
        cells = ["-"] * 3 if name == "specialists" else [_mean(values) for values in gate]
        pixels.append([name, *map(_mean, shares), *cells])
    left = [f"{n} ({', '.join(map(str, seeds))})" for n, seeds in found.left.items() if seeds]
    blocks = {"sensors": sensors, "modes": modes, "pixels": pixels}
    blocks["bars"] = _bars_table(content["bars"])
    return {name: markdown_table(block) for name, block in blocks.items()} | {
        "left": f"{', '.join(left) or 'none'}."
    }


def _bars_table(entries: Sequence[Row]) -> list[Sequence[object]]:
    """A row for every bar, a column for every network."""
    cells = {(e["name"], e["network"]): e for e in entries}
    rows: list[Sequence[object]] = [["bar", "at least", *ONE]]
    for name, limit in dict.fromkeys((e["name"], e["bar"]) for e in entries):
        row = [cells[name, network] for network in ONE]
        rows.append([name, f"{limit:g}", *map(_bar_cell, row)])
    return rows


def _bar_cell(entry: Row) -> str:
    if entry["value"] is None:
        return NOT_RUN
    text = f"{entry['value']:.2f} ± {entry['spread']:.2f}"
    return text if entry["holds"] else f"**{text}**"


def _mean(values: BySeed) -> str:
    known = [value for value in values if value is not None]
    return f"{mean(known):.2f}" if known else NOT_RUN


def _seeds(values: BySeed) -> int:
    return sum(value is not None for value in values)


PARTS = {"evaluate": evaluate, "report": report, "tables": write_tables}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    PARTS[parser.parse_args().part]()
