# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy with online hard example mining (OHEM), as the published recipe has it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros.model.common import at_least_float32
from mmsam_ros.sensors import NO_LABEL
from mmsam_ros.training.config import LossConfig


class OhemCrossEntropy(nn.Module):
    """Mean cross-entropy over the pixels that the network finds hard.

    With p the softmax probability of the true class over all valid pixels of the batch, sorted
    ascending, the cut is max(p[min(min_kept, n - 1)], threshold); pixels with p < cut count.
    `weight` has factors (classes,) on the pixels' losses; the mean stays over the number of pixels.
    """

    weight: Tensor | None

    def __init__(
        self, threshold: float = 0.7, min_kept: int = 100_000, weight: Tensor | None = None
    ) -> None:
        super().__init__()
        self.threshold, self.min_kept = threshold, min_kept
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, classes, h, w), resized to the labels (B, H, W) -> scalar.

        Labels of 255 do not count. Without a pixel to count (all ignored, or none strictly below
        the cut) the loss is 0 and keeps the graph.
        """
        labels = labels.long()
        logits = F.interpolate(
            at_least_float32(logits), size=labels.shape[-2:], mode="bilinear", align_corners=False
        )
        valid = labels != NO_LABEL
        if not bool(valid.any()):
            return logits.sum() * 0.0
        log_p = logits.log_softmax(dim=1)
        losses = F.nll_loss(log_p, labels, self.weight, ignore_index=NO_LABEL, reduction="none")
        with torch.no_grad():
            target = labels.masked_fill(~valid, 0)[:, None]
            p = log_p.gather(1, target)[:, 0][valid].exp()
            k = min(self.min_kept, p.numel() - 1)
            cut = p.kthvalue(k + 1).values.clamp(min=self.threshold)
            hard = p < cut
        losses = losses[valid]
        return losses[hard].mean() if bool(hard.any()) else losses.sum() * 0.0


def loss_function(config: LossConfig) -> OhemCrossEntropy:
    """OHEM, or plain cross-entropy: OHEM with a threshold that every pixel is below."""
    if config.kind == "ce":
        return OhemCrossEntropy(math.inf, min_kept=0)
    return OhemCrossEntropy(config.threshold, config.min_kept)
