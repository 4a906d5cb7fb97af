# SPDX-License-Identifier: Apache-2.0
"""The paper's experiments: a training configuration and what differs, run with several seeds."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mmsam_ros._util import MmsamError, from_mapping, write_atomic
from mmsam_ros.model import build_model
from mmsam_ros.training.config import TrainingError
from mmsam_ros.training.configure import find_config, load_config, read_yaml, yaml_text
from mmsam_ros.training.devices import is_first
from mmsam_ros.training.evaluate import check_labels, evaluate_weights
from mmsam_ros.training.loop import BEST, train
from mmsam_ros.training.run import CONFIG, differences, plain
from mmsam_ros.training.start import components, freeze
from mmsam_ros.weights import read_spec

RESULT = "result.json"
# what an experiment is, besides its size in devices and time between log lines
_COMPARED = (
    "dataset", "sensors", "model", "start", "augment", "loss", "optimiser", "schedule",
    "modality_dropout",
)  # fmt: skip
SUBSETS = {"all": "all", "easy": "difficulty=easy", "hard": "difficulty=hard"}
HEADER = (
    "experiment", *(f"{subset}{of}" for subset in SUBSETS for of in ("", " (paper)")),
    "seeds", "parameters, M", "of them trained", "trunks, M",
)  # fmt: skip


@dataclass(frozen=True)
class PaperRow:
    """The paper's table, and its mIoU in percent on DeLiVER's test split, camera and LiDAR."""

    table: str
    all: float
    easy: float
    hard: float


@dataclass(frozen=True)
class Experiment:
    """A configuration of config/train (`base`) and the options that differ from it.

    `{seed}` in an option is the run's seed, as in the path of what a run of that seed begins with.
    """

    title: str
    base: str
    options: Mapping[str, Any] = field(default_factory=dict)
    paper: PaperRow | None = None

    def arguments(self, extra: Sequence[str] = (), seed: int = 0) -> list[str]:
        """What `mmsam train` would be called with; `extra` comes last and wins."""
        options = (f"--{key}={yaml_text(value)}" for key, value in self.options.items())
        own = [text.replace("{seed}", str(seed)) for text in options]
        return [f"--config={self.base}", f"--seed={seed}", *own, *extra]


def load_experiment(name: str) -> Experiment:
    """The experiment of a name or file; TrainingError where there is none, or its file is wrong."""
    path = find_config("experiments", name)
    try:
        return from_mapping(Experiment, read_yaml(path))
    except MmsamError as error:
        raise TrainingError(f"{path}: {error}") from error


def run_experiment(name: str, seed: int, out: Path, extra: Sequence[str] = ()) -> dict[str, Any]:
    """Train and evaluate one experiment with one seed; a finished one is only read.

    The run directory is `<name>/seed<seed>` in `out`. `extra` are further options of `mmsam train`,
    e.g. `--data.root`; if they change the method, the paper's numbers are left out.

    Returns:
        Name, seed, parameters by component, and scores by subset of the test split.
    """
    experiment = load_experiment(name)
    name = Path(name).stem
    folder = out / name / f"seed{seed}"
    result = folder / RESULT
    config = load_config(experiment.arguments([*extra, f"--out={folder}"], seed))
    plan = load_config(experiment.arguments(seed=seed))
    same = all(getattr(config, part) == getattr(plan, part) for part in _COMPARED)
    if result.is_file():
        content = dict(json.loads(result.read_text()))
        if differing := differences(content["config"], plain(config)):
            raise TrainingError(f"{result} is of another run: {'; '.join(differing)}")
        return content
    check_labels(config, "test")  # before days of training, not after
    train(config, resume=folder if (folder / CONFIG).is_file() else None)
    with torch.device("meta"):
        model = build_model(read_spec(folder / BEST).config)
    freeze(model, config.start.freeze)
    content = {
        "experiment": name,
        "title": experiment.title,
        "paper": vars(experiment.paper) if experiment.paper and same else None,
        "seed": seed,
        "config": plain(config),
        "parameters": components(model),
        "scores": evaluate_weights(folder / BEST, config, "test"),
    }
    if is_first():
        write_atomic(result, json.dumps(content, indent=2) + "\n")
    return content


def table_rows(out: Path) -> list[tuple[str, ...]]:
    """A row of `HEADER` for each experiment that has a finished run.

    TrainingError where none has, or seeds of one were trained with different options.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(out.glob(f"*/seed*/{RESULT}")):
        content = json.loads(path.read_text())
        runs = found.setdefault(content["experiment"], [])
        runs.append(content)
        first, own = map(_without_seed, (runs[0], content))
        if differing := "; ".join(differences(first, own)):
            seed = runs[0]["seed"]
            raise TrainingError(f"{path} cannot be averaged with seed {seed}: {differing}")
    if not found:
        raise TrainingError(f"{out}: no finished run")
    return [_row(runs) for runs in found.values()]


def _without_seed(run: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that those with other seeds share."""
    text = json.dumps({**run["config"], "device": None})
    return {**json.loads(text.replace(f"seed{run['seed']}/", "seed{seed}/")), "seed": 0}


def _row(runs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    cells = []
    for short, subset in SUBSETS.items():
        values = [run["scores"][subset]["miou"] for run in runs if subset in run["scores"]]
        paper = runs[0]["paper"]
        cells += [_mean_and_spread(values), f"{paper[short]:.2f}" if paper else "-"]
    parameters = runs[0]["parameters"]
    total, trained = (sum(pair[i] for pair in parameters.values()) / 1e6 for i in (0, 1))
    trunks = [
        f"{modality} {count / 1e6:.2f}"
        for name, (count, _) in parameters.items()
        if (modality := name.removeprefix("prior.trunks.")) != name
    ]
    numbers = (str(len(runs)), f"{total:.2f}", f"{trained:.2f}")
    return (runs[0]["title"], *cells, *numbers, ", ".join(trunks))


def _mean_and_spread(values: Sequence[float]) -> str:
    """Mean and, of several seeds, their standard deviation."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def write_table(out: Path, rows: Sequence[Sequence[str]]) -> Path:
    """Write the rows as Markdown; returns the file."""
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    path = out / "table.md"
    path.write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))
    return path
