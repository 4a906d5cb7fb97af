# SPDX-License-Identifier: Apache-2.0
"""The published recipe (arXiv 2509.10408): loss, parameter groups and learning rates.

Layers nearer to the image learn slower: the rate is scaled by decay^(depth + 1 - layer). Layer 0 is
the encoder's embedding and all ConvNeXt trunks, layer i + 1 its block i, all else the last.
The groups are those of the published code, which differ from the paper's text.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros._util import require
from mmsam_ros.model import MMSAMAdapter
from mmsam_ros.model.common import at_least_float32
from mmsam_ros.sensors import NO_LABEL
from mmsam_ros.training.config import LossConfig, ScheduleConfig, TrainConfig, TrainingError


class OhemCrossEntropy(nn.Module):
    """Mean cross-entropy over the pixels that the network finds hard (OHEM).

    With p the softmax probability of the true class over all valid pixels of the batch, sorted
    ascending, the cut is max(p[min(min_kept, n - 1)], threshold); pixels with p < cut count.
    `weight` has factors (classes,) on the pixels' losses; the mean stays over the number of pixels.
    With `frames` the batch is cut into groups of so many, and the loss is the mean over them: as if
    a device of its own had each.

    A label from the number of classes on means one of `sets`, ids of classes: its probability is
    the sum over the set. Its factor is the mean of theirs.
    """

    weight: Tensor | None

    def __init__(
        self, threshold: float = 0.7, min_kept: int = 100_000, weight: Tensor | None = None,
        frames: int = 0, sets: Sequence[Sequence[int]] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.threshold, self.min_kept, self.frames = threshold, min_kept, frames
        self.sets = [list(ids) for ids in sets]
        if weight is not None:
            weight = torch.cat([weight, *(weight[ids].mean()[None] for ids in self.sets)])
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, classes, h, w), resized to the labels (B, H, W) -> scalar.

        Labels of 255 do not count. Without a pixel to count (all ignored, or none strictly below
        the cut) the loss is 0 and keeps the graph.
        """
        if 0 < self.frames < len(labels):
            groups = zip(logits.split(self.frames), labels.split(self.frames), strict=True)
            shares = [self(some, theirs) * len(theirs) for some, theirs in groups]
            return torch.stack(shares).sum() / len(labels)
        labels = labels.long()
        logits = F.interpolate(
            at_least_float32(logits), size=labels.shape[-2:], mode="bilinear", align_corners=False
        )
        valid = labels != NO_LABEL
        if not bool(valid.any()):
            return logits.sum() * 0.0
        log_p = logits.log_softmax(dim=1)
        of_sets = [log_p[:, ids].logsumexp(dim=1, keepdim=True) for ids in self.sets]
        log_p = torch.cat([log_p, *of_sets], dim=1) if of_sets else log_p
        losses = F.nll_loss(log_p, labels, self.weight, ignore_index=NO_LABEL, reduction="none")
        with torch.no_grad():
            target = labels.masked_fill(~valid, 0)[:, None]
            p = log_p.gather(1, target)[:, 0][valid].exp()
            k = min(self.min_kept, p.numel() - 1)
            cut = p.kthvalue(k + 1).values.clamp(min=self.threshold)
            hard = p < cut
        losses = losses[valid]
        return losses[hard].mean() if bool(hard.any()) else losses.sum() * 0.0


def loss_function(config: LossConfig, sets: Sequence[Sequence[int]] = ()) -> OhemCrossEntropy:
    """OHEM, or plain cross-entropy: OHEM with a threshold that every pixel is below."""
    weight = torch.tensor(config.class_weights) if config.class_weights else None
    if config.kind == "ce":
        return OhemCrossEntropy(math.inf, min_kept=0, weight=weight, sets=sets)
    return OhemCrossEntropy(config.threshold, config.min_kept, weight, config.frames, sets)


def parameter_groups(model: MMSAMAdapter, config: TrainConfig) -> list[dict[str, Any]]:
    """Groups of what trains: `params`, `lr`, `weight_decay`, a `name` (layer and decay) and the
    `scale` of the learning rate. TrainingError where nothing trains.
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
    expected = "parameters that are left to train"
    require(bool(groups), "start.freeze", [*config.start.freeze], expected, TrainingError)
    return [groups[key] for key in sorted(groups)]


def _layer(name: str, depth: int) -> int:
    """0 for the image's side, i + 1 for the encoder's block i, depth + 1 for all else."""
    if block := re.match(r"encoder\.blocks\.(\d+)\.", name):
        return int(block[1]) + 1
    first = ("encoder.pos_embed", "encoder.patch_embed.", "prior.trunks.")
    return 0 if name.startswith(first) else depth + 1


def _decays(name: str, p: nn.Parameter) -> bool:
    """In the trunks everything decays, in the fusion and LoRA nothing; elsewhere not biases and
    vectors.
    """
    if ".lora_" in name:
        return False
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
