# SPDX-License-Identifier: Apache-2.0
"""What several modalities, dropout, the gate and the paper's parts are worth, in the small.

    python benchmarks/evidence.py data                  # worlds to train, validate and test on
    python benchmarks/evidence.py pretrain              # the RGB part, on worlds apart
    python benchmarks/evidence.py train --share 0 of 2  # all runs, in two processes
    python benchmarks/evidence.py train --share 1 of 2
    python benchmarks/evidence.py evaluate              # sensors missing, exposure, the gate
    python benchmarks/evidence.py report                # results/evidence.json, docs/evidence.md

`nano` at 192x128 on the synthetic world, everything from one pretraining on worlds apart. Whatever
is finished is not repeated, what was interrupted goes on. A share uses a single thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

OUT = Path("out/evidence")
SEEDS = (0, 1, 2)
PAIR, ALL = "folder_rgb_lidar", "folder_rgb_lidar_thermal"
MASKED = {"model.combine.absent": "masked", "model.combine.gate": True}
MODALITIES: dict[str, Mapping[str, Any]] = {
    "rgb": {"setting": ALL, "model.inputs": "rgb"},
    "rgb_lidar": {"setting": PAIR},
    "rgb_thermal": {"setting": "folder_rgb_thermal"},
    "all": {"setting": ALL, **MASKED},
    "all_dropout": {"setting": ALL, **MASKED, "modality_dropout": 0.3},
}
# RGB and LiDAR in the published network, on a third of the frames; in the order of their worth.
# Trunks of other sizes cannot take the pretrained ones, and have widths that 8 groups divide.
SIZES = {"start.convnext": "scratch", "model.fusion.groups": 8, "model.fusion.norm_groups": 8}
ORDERS: dict[str, Mapping[str, Any]] = {
    "fused": {},
    "convnext_rgb": {"model.inputs": "rgb"},
    "no_extractor": {"model.interaction.extractor": False},
    "fusion_add": {"model.fusion.kind": "add"},
    "fusion_concat": {"model.fusion.kind": "concat"},
    "auxiliary_only": {"model.prior.reads_rgb": False},
    "no_adapter": {"model.inputs": "rgb", "model.prior.kind": "none"},
    "sam_frozen": {"start.freeze": ["encoder"]},
    "from_scratch": {"start.sam": "scratch"},
    "trunks_1": SIZES,
    "trunks_2_symmetric": {**SIZES, "model.trunk.widths": [24, 48, 88, 136]},
    "trunks_1_4": {**SIZES, "model.trunk.widths": [8, 16, 32, 48]},
    "trunks_1_2": {**SIZES, "model.trunk.widths": [16, 24, 40, 72]},
    "trunks_4": {**SIZES, "model.trunk.widths": [32, 64, 128, 192]},
    "conv_prior_rgb": {"model.inputs": "rgb", "model.prior.kind": "conv"},
    "shared_encoder": {"model.prior.shared": True},
}
# Tried for the bars that all_dropout misses: other probabilities, and twice the training, also of
# what it is compared with.
TRIED: dict[str, Mapping[str, Any]] = {
    "all_dropout_15": {"setting": ALL, **MASKED, "modality_dropout": 0.15},
    "all_dropout_45": {"setting": ALL, **MASKED, "modality_dropout": 0.45},
    **{
        f"{name}_long": {**MODALITIES[name], "schedule.epochs": 6}
        for name in ("rgb", "rgb_lidar", "all_dropout")
    },
}
GATED = ("all", "all_dropout")
FULL = (*GATED, "all_dropout_15", "all_dropout_45", "all_dropout_long")
# what an order is compared with, where that is not `fused`
CONTROLS = {"no_adapter": "convnext_rgb", "conv_prior_rgb": "convnext_rgb"} | {
    name: "trunks_1" for name in ORDERS if name.startswith("trunks_")
}
THIRD = 700  # frames
SIZE = {"augment.base_size": [128, 192], "augment.crop": [128, 192], "augment.scale": [0.75, 1.75]}
COMMON: dict[str, Any] = {
    **SIZE, "data.workers": 1, "model.preset": "nano", "optimiser.lr": 8e-4,
    "optimiser.weight_decay": 0.05, "optimiser.layer_decay": 0.95, "schedule.warmup_epochs": 1,
    "schedule.warmup_ratio": 0.3, "schedule.epochs": 3, "batch.effective": 8,
    "batch.per_device": 8, "loss.min_kept": 30_000,
    "device.precision": "bf16-mixed", "device.checkpointing": False, "log.validate_every": 4,
    "log.pictures": 0,
}  # fmt: skip
PRETRAIN = {
    **COMMON, "setting": ALL, "model.inputs": "rgb", "start.sam": "scratch",
    "start.convnext": "scratch", "schedule.epochs": 5, "optimiser.layer_decay": 1.0,
}  # fmt: skip


def main() -> None:
    """Run the chosen part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("data", "pretrain", "train", "evaluate", "report"))
    parser.add_argument("--share", nargs=3, default=["0", "of", "1"], metavar=("I", "of", "N"))
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if args.part == "data":
        make_data()
    elif args.part == "pretrain":
        pretrain()
    elif args.part == "train":
        train(int(args.share[0]), int(args.share[2]))
    elif args.part == "evaluate":
        from evidence_evaluate import evaluate

        evaluate(int(args.share[0]), int(args.share[2]))
    else:
        from evidence_report import report

        report()


def make_data() -> None:
    """Worlds for the runs, and others to pretrain on."""
    for name, frames, first in (
        ("pretrain_set", "train=1500,val=32", 200_000),
        ("set", "train=2000,val=64,test=720", 10_000),
    ):
        options = ["--frames", frames, "--first", str(first), "--per-scene", "4"]
        if not (OUT / name).exists():
            _mmsam("synth", "folder", str(OUT / name), "--size", "192x128", *options)
    whole, part = OUT / "set", OUT / "third"
    part.mkdir(exist_ok=True)
    for path in whole.iterdir():
        if path.name != "meta.json" and not (part / path.name).exists():
            (part / path.name).symlink_to(path.resolve())
    meta = json.loads((whole / "meta.json").read_text())
    left_out = set(meta["splits"]["train"][THIRD:])
    meta["splits"]["train"] = meta["splits"]["train"][:THIRD]
    for words in meta["subsets"].values():
        for name in left_out:
            del words[name]
    (part / "meta.json").write_text(json.dumps(meta))


def pretrain() -> None:
    """The RGB part, on worlds that it does not see again."""
    folder = OUT / "pretrain"
    if (folder / "config.yaml").is_file():
        _mmsam("train", "--resume", str(folder))
    else:
        root = f"--data.root={OUT / 'pretrain_set'}"
        _mmsam("train", *_options(PRETRAIN), root, f"--out={folder}")


def train(share: int, of: int) -> None:
    """This share of all runs, in the order of their worth."""
    pretrained = OUT / "pretrain" / "last.safetensors"
    if not pretrained.is_file():
        raise SystemExit(f"{pretrained} is not there; evidence.py pretrain makes it")
    for name, seed in runs()[share::of]:
        if not (OUT / "runs" / name / f"seed{seed}" / "result.json").is_file():
            file = _experiment(name, str(pretrained))
            _mmsam("experiments", "run", str(file), f"--seeds={seed}", f"--out={OUT / 'runs'}",
                   f"--data.root={OUT / ('third' if name in ORDERS else 'set')}")  # fmt: skip


def runs() -> list[tuple[str, int]]:
    """All runs: the paper's orders and other probabilities with one seed, else every seed."""
    first = [(name, seed) for seed in SEEDS for name in MODALITIES]
    once = [name for name in (*ORDERS, *TRIED) if not name.endswith("_long")]
    longer = [(name, seed) for seed in SEEDS for name in TRIED if name.endswith("_long")]
    return [*first, *((name, SEEDS[0]) for name in once), *longer]


def _experiment(name: str, start: str) -> Path:
    """The run's file for `mmsam experiments run`."""
    base = {"setting": PAIR, "start.sam": start, "start.convnext": start}
    options = COMMON | base | dict((MODALITIES | TRIED | ORDERS)[name])
    content = {"title": name.replace("_", " "), "base": _base(), "options": options}
    path = OUT / "experiments" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def _base() -> str:
    """An empty training configuration: everything is in the options."""
    path = OUT / "base.yaml"
    path.write_text(f"setting: {PAIR}\n")
    return str(path)


def _options(options: Mapping[str, Any]) -> list[str]:
    return [f"--{k}={v if isinstance(v, str) else yaml_text(v)}" for k, v in options.items()]


def yaml_text(value: Any) -> str:
    """A value on one line, as the command line takes it."""
    return yaml.safe_dump(value, default_flow_style=True).split("\n")[0]


def _mmsam(*words: str) -> None:
    command: Sequence[str] = [sys.executable, "-m", "mmsam_ros.cli.main", *words]
    print("$ mmsam", *words, flush=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
