# SPDX-License-Identifier: Apache-2.0
"""What the frozen network of RGB alone, the fallback, teaches the network that has it: where it can
be relied on, and its classes where they may be right (not in the paper, see docs/network.md).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros.model import MMSAMAdapter
from mmsam_ros.model.common import at_least_float32
from mmsam_ros.model.network import without_auxiliary
from mmsam_ros.model.prior import SpatialPrior
from mmsam_ros.sensors import NO_LABEL
from mmsam_ros.training.recipe import OhemCrossEntropy


class FallbackLoss(nn.Module):
    """`criterion`, and two terms of the network's last pass, over the samples with an auxiliary.

    `gate` times the squared error of the gates. A gate g says that the fallback is right here with
    probability g / 2. Pixels where it is right and pixels where it is wrong count the same, so that
    g is 1, and changes nothing, where the image does not tell.

    `keep` times the divergence KL(fallback || network) where labels leave the class open (none, or
    one that means a set of classes) and do not say that the fallback is wrong; the mean over all
    pixels, of which the others count 0. So an auxiliary changes nothing without a reason.

    Forward hooks on `net` see the pass: they run in every wrapper that trains it.
    """

    def __init__(
        self, criterion: OhemCrossEntropy, net: MMSAMAdapter, gate: float, keep: float
    ) -> None:
        super().__init__()
        self.criterion, self.gate, self.keep = criterion, gate, keep
        self._alone: Tensor | None = None  # the fallback's logits (n, classes, h, w) of `_rows`
        self._gates: list[Tensor] = []
        assert isinstance(net.prior, SpatialPrior)
        net.register_forward_pre_hook(lambda *_: self._forget())
        net.prior.register_forward_hook(self._see_gates)
        net.register_forward_hook(self._see_inputs)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of `criterion`, plus the two terms."""
        loss: Tensor = self.criterion(logits, labels)
        alone, gates = self._alone, self._gates
        self._forget()
        if alone is None or not len(alone):
            return loss
        labels = labels[self._rows].long()
        right = self._right(alone, labels)
        if self.gate and gates:
            errors = [_squared_error(gate / 2, right) for gate in gates]
            loss = loss + self.gate * torch.stack(errors).mean()
        if self.keep:
            left = (labels >= alone.shape[1])[:, None] * (1 - right[:, 1:])
            loss = loss + self.keep * _divergence(logits[self._rows], alone, left)
        return loss

    def _forget(self) -> None:
        self._alone, self._gates = None, []

    def _see_gates(self, prior: nn.Module, _: Any, maps: Any) -> None:
        if prior.training:
            self._gates = [gate.float() for gate in maps.gates]

    @torch.no_grad()
    def _see_inputs(self, net: Any, given: Any, _: Any) -> None:
        if net.training:
            inputs, present = given
            self._rows = ~without_auxiliary(inputs, present)
            if self._rows.any():
                self._alone = net.fallback({"rgb": inputs["rgb"][self._rows]})

    def _right(self, alone: Tensor, labels: Tensor) -> Tensor:
        """(n, 2, H, W) of 0 and 1: the labelled pixels where RGB alone is right, and wrong."""
        size = labels.shape[-2:]
        guess = F.interpolate(alone.float(), size=size, mode="bilinear").argmax(dim=1)
        right = guess == labels
        for code, ids in enumerate(self.criterion.sets, start=alone.shape[1]):
            right |= (labels == code) & torch.isin(guess, guess.new_tensor(ids))
        return torch.stack([right, ~right], dim=1) * (labels != NO_LABEL)[:, None].float()


def _squared_error(p: Tensor, right: Tensor) -> Tensor:
    """Squared error of probabilities (n, 1, h, w): mean over the right pixels, and over the wrong
    ones.
    """
    shares = F.adaptive_avg_pool2d(right, (p.shape[-2], p.shape[-1]))
    errors = torch.cat([(1 - p).square(), p.square()], dim=1)
    return ((shares * errors).sum((0, 2, 3)) / shares.sum((0, 2, 3)).clamp(min=1e-6)).mean()


def _divergence(logits: Tensor, alone: Tensor, where: Tensor) -> Tensor:
    """KL(alone || logits) of logits (n, classes, h, w): mean over all pixels, weighted by `where`
    (n, 1, H, W).
    """
    own, target = (at_least_float32(x).log_softmax(dim=1) for x in (logits, alone))
    divergence = F.kl_div(own, target, reduction="none", log_target=True).sum(dim=1, keepdim=True)
    share = F.adaptive_avg_pool2d(where, (logits.shape[-2], logits.shape[-1]))
    return (share * divergence).mean()
