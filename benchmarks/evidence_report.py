# SPDX-License-Identifier: Apache-2.0
"""What `evidence.py` found: benchmarks/results/evidence.json, tables of docs/evidence.md."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from operator import ge, gt
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from evidence import CONTROLS, FULL, GATED, MODALITIES, ORDERS, SEEDS, TRIED, runs
from evidence_evaluate import (
    DROPS,
    EXPOSURES,
    evaluation_file,
    gate_frames,
    jobs,
    run_folder,
    without,
)
from results import bar, write

DOCS = Path(__file__).parents[1] / "docs"
PAIRS = ("rgb_lidar", "rgb_thermal")
MAIN = {"all": "all", "easy": "difficulty=easy", "hard": "difficulty=hard"}
COMPARED = (
    *((name, pair) for name in GATED for pair in PAIRS),
    *((name, "rgb") for name in (*PAIRS, *GATED)),
    ("all_dropout", "all"),
)
LONG = "_long"
GATE_SCALE = 0.5  # the colours of the picture go from 1 - this to 1 + this
Row = dict[str, Any]
Values = dict[str, float]  # mIoU by subset


class Found:
    """All that is finished, by network and seed."""

    def __init__(self) -> None:
        self.results: dict[tuple[str, int], Row] = {}
        for run in runs():
            path = run_folder(*run) / "result.json"
            if path.is_file():
                self.results[run] = json.loads(path.read_text())

    def trained(self, name: str) -> dict[int, Values]:
        """By seed."""
        return {
            seed: {key: score["miou"] for key, score in result["scores"].items()}
            for (known, seed), result in self.results.items()
            if known == name
        }

    def evaluated(self, name: str, kind: str) -> dict[int, Values]:
        """By seed; of an evaluation that `evidence_evaluate` made."""
        paths = {seed: evaluation_file(name, seed, kind) for seed in SEEDS}
        return {s: json.loads(path.read_text()) for s, path in paths.items() if path.is_file()}

    def parameters(self, name: str) -> float:
        """In millions."""
        result = next(r for (known, _), r in self.results.items() if known == name)
        return float(sum(total for total, _ in result["parameters"].values())) / 1e6


def report() -> None:
    """Write the JSON, the tables and the picture of the gates."""
    found = Found()
    rows = [
        *(
            _mean_row("trained", name, found.trained(name))
            for name in (*MODALITIES, *TRIED, *ORDERS)
        ),
        *(_mean_row(kind, name, found.evaluated(name, kind)) for name, kind in _evaluations()),
        *(_paired_row(found, one, two) for one, two in COMPARED),
        *(_gate_row(found, name) for name in GATED),
        *(_tried_row(found, name) for name in FULL),
    ]
    rows = [row for row in rows if row["seeds"]]
    left = [f"{name}, seed {seed}" for name, seed in runs() if (name, seed) not in found.results]
    late = [path.stem for path, _ in jobs() if not path.is_file()]
    rows.append({"what": "not run; python benchmarks/evidence.py train", "runs": left})
    rows.append({"what": "not run; python benchmarks/evidence.py evaluate", "runs": late})
    bars = _bars(found)
    print(write("evidence", rows, bars))
    if len(found.evaluated(GATED[-1], "gate")) == len(SEEDS):
        quality = [cv2.IMWRITE_JPEG_QUALITY, 85]
        cv2.imwrite(str(DOCS / "gate.jpg"), _gate_picture()[..., ::-1], quality)
    _fill(
        DOCS / "evidence.md",
        {
            "modalities": _modalities(found),
            "differences": _differences(found),
            "missing": _missing(found),
            "exposure": _exposure(found),
            "gate": _gates(found),
            "tried": _tried(found),
            "orders": _orders(found),
            "bars": _bar_table(bars),
            "left": _left("train", left) + "\n" + _left("evaluate", late),
        },
    )


def _evaluations() -> list[tuple[str, str]]:
    exposures = [(name, word) for name in MODALITIES for word in EXPOSURES]
    return exposures + [(name, without(drop)) for name in FULL for drop in DROPS]


def _mean_row(what: str, name: str, by_seed: Mapping[int, Values]) -> Row:
    seeds = [round(values["all"], 2) for values in by_seed.values()]
    means = _means(by_seed)
    return {"what": what, "network": name, "seeds": len(by_seed), "all by seed": seeds, **means}


def _means(by_seed: Mapping[int, Values]) -> Values:
    keys = next(iter(by_seed.values()), {})
    return {k: round(statistics.mean(v[k] for v in by_seed.values()), 2) for k in keys}


def _paired(one: Mapping[int, Values], two: Mapping[int, Values], key: str) -> list[float]:
    """Differences of the runs with the same seed; none where a seed is missing."""
    gaps = _gaps(one, two, key)
    return gaps if len(gaps) == len(SEEDS) else []


def _gaps(one: Mapping[int, Values], two: Mapping[int, Values], key: str) -> list[float]:
    """Differences of the runs with the same seed, as many as there are."""
    seeds = [seed for seed in SEEDS if seed in one and seed in two]
    return [one[seed][key] - two[seed][key] for seed in seeds]


def _paired_row(found: Found, one: str, two: str) -> Row:
    first, second = found.trained(one), found.trained(two)
    seeds = len(_paired(first, second, "all"))
    row: Row = {"what": "seed-paired difference", "network": f"{one} - {two}", "seeds": seeds}
    for key in next(iter(first.values()), {}) if seeds else ():
        values = _paired(first, second, key)
        row[key] = {
            "mean": round(statistics.mean(values), 2),
            "spread": round(statistics.stdev(values), 2),
        }
    return row


def _gate_row(found: Found, name: str) -> Row:
    """Mean gate (all levels) by subset, and its correlation with the camera-only error."""
    by_seed: Mapping[int, Any] = found.evaluated(name, "gate")
    frames = [frame for rows in by_seed.values() for frame in rows]
    row: Row = {"what": "gate", "network": name, "seeds": len(by_seed)}
    if not frames:
        return row
    mean = np.array([np.mean(frame["gates"]) for frame in frames])
    row["all"] = round(float(mean.mean()), 4)
    for key in ("difficulty", "weather", "case"):
        words = np.array([frame[key] for frame in frames])
        for word in sorted(set(words)):
            row[f"{key}={word}"] = round(float(mean[words == word].mean()), 4)
    levels = np.array([frame["gates"] for frame in frames]).mean(0)
    row["by level"] = [round(float(level), 4) for level in levels]
    row["correlation with the camera-only error, by seed"] = [
        round(_correlation(rows), 3) for rows in by_seed.values()
    ]
    return row


def _correlation(frames: Sequence[Row]) -> float:
    gates = [np.mean(frame["gates"]) for frame in frames]
    return float(np.corrcoef(gates, [frame["wrong"] for frame in frames])[0, 1])


def _bars(found: Found) -> list[Row]:
    """The bars that were set, of seed-paired differences."""
    reason = "not all seeds are trained and evaluated"
    rgb = found.trained("rgb")
    bars = []
    for name in GATED:
        gains = [_paired(found.trained(name), found.trained(p), MAIN["hard"]) for p in PAIRS]
        margin = None
        if all(gains):
            least = min(gains, key=statistics.mean)
            margin = round(statistics.mean(least) - statistics.stdev(least), 2)
        title = f"{name} over the best pair on hard, mean less spread"
        bars.append(bar(title, margin, "mIoU", 0.0, gt, reason))
        easy = _mean(_paired(found.trained(name), rgb, MAIN["easy"]))
        bars.append(bar(f"{name} over rgb on easy", easy, "mIoU", 0.0, ge, reason))
        for drop in DROPS:
            gaps = _paired(found.evaluated(name, without(drop)), rgb, "all")
            worst = round(min(gaps), 2) if gaps else None
            title = f"{name} without {' and '.join(drop)} over rgb, worst seed"
            bars.append(bar(title, worst, "mIoU", -1.0, ge, reason))
    hard = next((r["scores"][MAIN["hard"]]["frames"] for r in found.results.values()), None)
    bars.append(bar("hard frames in the test set", hard, "frames", 300, ge, "nothing trained yet"))
    return bars


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.mean(values), 2) if values else None


def _modalities(found: Found) -> str:
    lines = [(name, found.trained(name)) for name in MODALITIES]
    keys = [key for key in next(iter(found.trained("rgb").values()), {}) if key not in MAIN]
    keys = list(dict.fromkeys([*MAIN.values(), *keys]))
    head = ["network", "seeds", *(key.partition("=")[2] or key for key in keys)]
    body = [
        [name, str(len(runs)), *(f"{_means(runs)[key]:.1f}" for key in keys)]
        for name, runs in lines
        if runs
    ]
    return _table(head, body)


def _differences(found: Found) -> str:
    rows = [_paired_row(found, one, two) for one, two in COMPARED]
    body = [
        [
            row["network"],
            *(f"{row[k]['mean']:+.2f} ± {row[k]['spread']:.2f}" for k in MAIN.values()),
        ]
        for row in rows
        if row["seeds"]
    ]
    return _table(["difference", *MAIN], body)


def _plus_minus(values: Sequence[float]) -> str:
    """Mean and spread; one value has no spread."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):+.2f}{spread}"


def _tried_row(found: Found, name: str) -> Row:
    """What the bars ask of a network, by seed, against networks that trained as long."""
    length = LONG if name.endswith(LONG) else ""
    rgb, pair = found.trained("rgb" + length), found.trained(PAIRS[0] + length)
    own = found.trained(name)
    gaps = {
        "over rgb_lidar on hard": _gaps(own, pair, MAIN["hard"]),
        "over rgb": _gaps(own, rgb, "all"),
    }
    for drop in DROPS:
        title = f"without {' and '.join(drop)} over rgb"
        gaps[title] = _gaps(found.evaluated(name, without(drop)), rgb, "all")
    rounded = {title: [round(gap, 2) for gap in found] for title, found in gaps.items()}
    return {"what": "tried", "network": name, "seeds": len(own), **rounded}


def _tried(found: Found) -> str:
    rows = [row for name in FULL if (row := _tried_row(found, name))["seeds"]]
    if not rows:
        return "Not evaluated yet."
    head = [key for key in rows[0] if key != "what"]
    body = [
        [row["network"], str(row["seeds"]), *(_plus_minus(row[key]) for key in head[2:])]
        for row in rows
    ]
    return _table(head, body)


def _missing(found: Found) -> str:
    rgb, body = found.trained("rgb"), []
    for name in GATED:
        sets = [("camera, lidar, thermal", found.trained(name))]
        for drop in DROPS:
            left = [s for s in ("camera", "lidar", "thermal") if s not in drop]
            sets.append((", ".join(left), found.evaluated(name, without(drop))))
        for title, by_seed in sets:
            if by_seed and (values := _paired(by_seed, rgb, "all")):
                means = [f"{_means(by_seed)[key]:.1f}" for key in MAIN.values()]
                body.append([name, title, *means, _plus_minus(values)])
    return _table(["network", "sensors there", *MAIN, "over rgb, all"], body)


def _exposure(found: Found) -> str:
    body = []
    for name in MODALITIES:
        sets = [found.trained(name), *(found.evaluated(name, word) for word in EXPOSURES)]
        seeds = [seed for seed in SEEDS if all(seed in by_seed for by_seed in sets)]
        if seeds:
            means = [statistics.mean(by_seed[s]["all"] for s in seeds) for by_seed in sets]
            body.append([name, str(len(seeds)), *(f"{mean:.1f}" for mean in means)])
    return _table(["network", "seeds", "as it is", *EXPOSURES], body)


def _gates(found: Found) -> str:
    rows = [row for name in GATED if (row := _gate_row(found, name))["seeds"]]
    if not rows:
        return "Not evaluated yet."
    keys = [key for key in rows[0] if "=" in key or key == "all"]
    last = "correlation with the camera-only error, by seed"
    body = [[key, *(f"{row[key]:.3f}" for row in rows)] for key in keys]
    body.append([last, *(", ".join(f"{value:+.2f}" for value in row[last]) for row in rows)])
    return _table(["mean gate on", *(row["network"] for row in rows)], body)


def _orders(found: Found) -> str:
    body, seed = [], SEEDS[0]
    for name in ORDERS:
        values = found.trained(name).get(seed)
        control = found.trained(CONTROLS.get(name, "fused")).get(seed)
        if values and control:
            means = [f"{values[key]:.1f}" for key in MAIN.values()]
            gain = f"{values['all'] - control['all']:+.1f}"
            body.append([name, f"{found.parameters(name):.2f}", *means, gain])
    return _table(["network", "parameters, M", *MAIN, "over its control, all"], body)


def _bar_table(bars: Sequence[Row]) -> str:
    words = {True: "holds", False: "**fails**", None: "not measured"}
    body = [
        [b["name"], "-" if b["value"] is None else f"{b['value']:g}", f"{b['bar']:g}",
         words[b["holds"]]]
        for b in bars
    ]  # fmt: skip
    return _table(["bar", "measured", "at least", ""], body)


def _left(part: str, missing: Sequence[str]) -> str:
    listed = "; ".join(missing) or "nothing is left"
    return f"* `python benchmarks/evidence.py {part}`: {listed}."


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _fill(path: Path, blocks: Mapping[str, str]) -> None:
    """Put every block between its markers `<!-- name -->` and `<!-- /name -->`."""
    text = path.read_text()
    for name, block in blocks.items():
        marked = re.compile(f"<!-- {name} -->\n.*?<!-- /{name} -->", re.DOTALL)
        if len(marked.findall(text)) != 1:
            raise SystemExit(f"{path}: expected one block {name!r}")
        before, after = marked.split(text)
        text = f"{before}<!-- {name} -->\n{block}\n<!-- /{name} -->{after}"
    path.write_text(text)


def _gate_picture() -> np.ndarray:
    """Picture, truth and gate of five frames: blue leans away from the camera, red towards it."""
    from mmsam_ros.inference.draw import colorise
    from mmsam_ros.sensors import palette
    from mmsam_ros.world import CLASSES

    rows = []
    for caption, picture, truth, gate in gate_frames(GATED[-1], SEEDS[0]):
        level = np.clip((gate - 1) / GATE_SCALE, -1, 1)
        red, blue = np.clip(1 + level, 0, 1), np.clip(1 - level, 0, 1)
        colours = np.stack([red, np.minimum(red, blue), blue], 2)
        panels = [picture, colorise(truth, palette(CLASSES)), (255 * colours).astype(np.uint8)]
        row = np.hstack([cv2.resize(p, None, fx=2, fy=2, interpolation=0) for p in panels])
        text = f"{caption}; mean gate {gate.mean():.2f}"
        cv2.rectangle(row, (0, 0), (10 + 8 * len(text), 26), (0, 0, 0), -1)
        cv2.putText(row, text, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1)
        rows.append(row)
    return np.vstack(rows)
