# SPDX-License-Identifier: Apache-2.0
"""Evaluations of `evidence.py`: sensors missing, other exposures, what the gate selects."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import FULL, GATED, MODALITIES, OUT, SEEDS, runs
from torch import Tensor

EXPOSURES = ("underexposure", "overexposure")
DROPS = (("lidar",), ("thermal",), ("lidar", "thermal"))
CASES_SHOWN = ("ordinary", "motionblur", "overexposure", "underexposure", "thermallowres")
Row = dict[str, Any]
Job = tuple[Path, Callable[[], Any]]


def evaluate(share: int, of: int) -> None:
    """This share of what has not been evaluated yet, of the runs that are finished."""
    from mmsam_ros.inference import tune_allocator

    tune_allocator()
    for path, work in jobs()[share::of]:
        if path.is_file():
            continue
        if not all((folder / "result.json").is_file() for folder in _needed(path)):
            print(f"{path.stem}: not trained yet")
            continue
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(".part")
        with torch.no_grad():
            part.write_text(json.dumps(work()) + "\n")
        part.replace(path)
        print(path, flush=True)


def evaluation_file(name: str, seed: int, kind: str) -> Path:
    """Where an evaluation of a network and seed is kept."""
    return OUT / "evaluations" / f"{name}.seed{seed}.{kind}.json"


def without(drop: tuple[str, ...]) -> str:
    """The name of the evaluation without these sensors."""
    return "without_" + "_".join(drop)


def jobs() -> list[Job]:
    """Every evaluation: its file, and what makes the content."""
    found: list[Job] = []
    for name, seed in runs():
        run = run_folder(name, seed)
        kinds: dict[str, Callable[[], Any]] = {}
        if name in MODALITIES:
            kinds |= {word: partial(_scores, run, (), (word,)) for word in EXPOSURES}
        if name in FULL:
            kinds |= {without(drop): partial(_scores, run, drop, ()) for drop in DROPS}
        if name in GATED:
            kinds["gate"] = partial(_gate, run, run_folder("rgb", seed))
        found += [(evaluation_file(name, seed, kind), work) for kind, work in kinds.items()]
    return sorted(found, key=_comes_late)


def _comes_late(job: Job) -> bool:
    """Exposure with further seeds, which changes the least."""
    _, seed, kind = job[0].stem.split(".")
    return kind in EXPOSURES and seed != f"seed{SEEDS[0]}"


def run_folder(name: str, seed: int) -> Path:
    """The folder of a training run."""
    return OUT / "runs" / name / f"seed{seed}"


def _needed(path: Path) -> list[Path]:
    name, seed, kind = path.stem.split(".")
    number = int(seed.removeprefix("seed"))
    return [run_folder(n, number) for n in ((name, "rgb") if kind == "gate" else (name,))]


def _open(run: Path, drop: tuple[str, ...] = (), corrupt: tuple[str, ...] = ()) -> Any:
    from mmsam_ros.training.evaluate import EvalConfig, Evaluation

    weights, root = str(run / "best.safetensors"), str(OUT / "set")
    return Evaluation(EvalConfig(weights, root, drop=drop, corrupt=corrupt, precision="bf16"))


def _scores(run: Path, drop: tuple[str, ...], corrupt: tuple[str, ...]) -> dict[str, float]:
    """mIoU by subset on the test split."""
    evaluation = _open(run, drop, corrupt)
    names = [info.name for info in evaluation.spec.classes]
    return {key: score.miou for key, score in evaluation.run().scores(names).items()}


def _gate(run: Path, camera: Path) -> list[Row]:
    """By frame: every level's mean gate, and the share of pixels that RGB alone gets wrong."""
    full, rgb = _open(run), _open(camera)
    gates = _watch(full)
    rows = []
    for i, record in enumerate(full.frames.records):
        sample = full.frames[i]
        full.predict(sample)
        guess, truth = rgb.predict(sample)
        wrong = float((guess != truth).float().mean())
        means = [float(gate.mean()) for gate in gates.pop()]
        rows.append({**record.subsets, "name": record.name, "gates": means, "wrong": wrong})
    return rows


def _watch(evaluation: Any) -> list[list[Tensor]]:
    """A list to which every forward pass appends its gates, by level."""
    seen: list[list[Tensor]] = []
    prior = evaluation.segmenter.model.prior
    prior.register_forward_hook(lambda module, inputs, maps: seen.append(maps.gates))
    return seen


@torch.no_grad()
def gate_frames(name: str, seed: int) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Caption, picture (h, w, 3), truth (h, w) and gate (h, w) of one frame of each case.

    The first ones, hard where it is the exposure that is wrong and easy where not.
    """
    evaluation = _open(run_folder(name, seed))
    gates, found = _watch(evaluation), []
    first: dict[str, int] = {}
    for i, record in enumerate(evaluation.frames.records):
        case = record.subsets["case"]
        if record.subsets["difficulty"] == ("hard" if case in EXPOSURES else "easy"):
            first.setdefault(case, i)
    for i in (first[case] for case in CASES_SHOWN):
        record = evaluation.frames.records[i]
        sample = evaluation.frames[i]
        evaluation.predict(sample)
        size = tuple(sample["rgb"].shape[-2:])
        levels = [
            torch.nn.functional.interpolate(gate.float(), size, mode="bilinear")[0, 0]
            for gate in gates.pop()
        ]
        gate = torch.stack(levels).mean(0).numpy()
        words = record.subsets
        caption = f"{words['weather']}, {words['case']}: {words['difficulty']}"
        picture = sample["rgb"].permute(1, 2, 0).numpy()
        found.append((caption, picture, sample["label"].numpy(), gate))
    return found
