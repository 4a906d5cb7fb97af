# SPDX-License-Identifier: Apache-2.0
"""Parameter groups and learning rates of the published recipe (arXiv 2509.10408).

Layers nearer to the image learn slower: the rate is scaled by decay^(depth + 1 - layer). Layer 0 is
the encoder's embedding and all ConvNeXt trunks, layer i + 1 its block i, all else the last.
The groups are those of the published code, which differ from the paper's text.
"""

import re
from typing import Any

from torch import nn

from mmsam_ros.model import MMSAMAdapter
from mmsam_ros.training.config import ScheduleConfig, TrainConfig


def parameter_groups(model: MMSAMAdapter, config: TrainConfig) -> list[dict[str, Any]]:
    """Groups of what trains: `params`, `lr`, `weight_decay`, a `name` (layer and decay) and the
    `scale` of the learning rate.
    """
    depth, optimiser = model.config.encoder.depth, config.optimiser
    groups: dict[str, dict[str, Any]] = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        layer, decays = _layer(name, depth), _decays(name, p)
        key = f"layer_{layer:02d}" + ("" if decays else "_no_decay")
        scale = optimiser.layer_decay ** (depth + 1 - layer)
        rates = {"lr": optimiser.lr * scale, "weight_decay": optimiser.weight_decay * decays}
        group = groups.setdefault(key, {"name": key, "params": [], "scale": scale, **rates})
        group["params"].append(p)
    return [groups[key] for key in sorted(groups)]


def _layer(name: str, depth: int) -> int:
    """0 for the image's side, i + 1 for the encoder's block i, depth + 1 for all else."""
    if block := re.match(r"encoder\.blocks\.(\d+)\.", name):
        return int(block[1]) + 1
    first = ("encoder.pos_embed", "encoder.patch_embed.", "prior.trunks.")
    return 0 if name.startswith(first) else depth + 1


def _decays(name: str, p: nn.Parameter) -> bool:
    """In the trunks everything decays, in the fusion nothing; elsewhere not biases and vectors."""
    if name.startswith(("prior.trunks.", "prior.fusion.")):
        return name.startswith("prior.trunks.")
    return p.ndim > 1 and not name.endswith(".bias")


def lr_factor(step: int, steps_per_epoch: int, schedule: ScheduleConfig) -> float:
    """What the learning rate of `step` (counted from 0 over the run) is multiplied by.

    (1 - e / E)^power in epoch e of E; in the warm-up times ratio^(1 - step / its steps).
    """
    factor = (1 - (step // steps_per_epoch) / schedule.epochs) ** schedule.power
    warm_up = schedule.warmup_epochs * steps_per_epoch
    if step < warm_up:
        factor *= schedule.warmup_ratio ** (1 - step / warm_up)
    return float(factor)
