# SPDX-License-Identifier: Apache-2.0
"""What teaches the reliability gates where RGB can be relied on (not in the paper, see
docs/network.md).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros.model import MMSAMAdapter
from mmsam_ros.model.network import without_auxiliary
from mmsam_ros.model.prior import SpatialPrior
from mmsam_ros.sensors import NO_LABEL
from mmsam_ros.training.recipe import OhemCrossEntropy


class GateLoss(nn.Module):
    """`criterion`, and `weight` times the squared error of the gates of the network's last pass.

    A gate g says that the fallback, the network of RGB alone, is right here with probability g / 2.
    Pixels where it is right and pixels where it is wrong count the same, so that g is 1, and
    changes nothing, where the image does not tell. Forward hooks on `net` see the pass: they run
    in every wrapper that trains it. Samples without any auxiliary have no gates.
    """

    def __init__(self, criterion: OhemCrossEntropy, net: MMSAMAdapter, weight: float) -> None:
        super().__init__()
        self.criterion, self.weight = criterion, weight
        self._gates: list[Tensor] = []
        assert isinstance(net.prior, SpatialPrior)
        net.register_forward_pre_hook(lambda *_: self._gates.clear())
        net.prior.register_forward_hook(self._see_gates)
        net.register_forward_hook(self._see_inputs)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """As of `criterion`."""
        loss: Tensor = self.criterion(logits, labels)
        gates, self._gates = self._gates, []
        if not gates:
            return loss
        right = self._right(labels[self._rows].long())
        errors = [_squared_error(gate / 2, right) for gate in gates]
        return loss + self.weight * torch.stack(errors).mean()

    def _see_gates(self, prior: nn.Module, _: Any, maps: Any) -> None:
        if prior.training:
            self._gates = [gate.float() for gate in maps.gates]

    @torch.no_grad()
    def _see_inputs(self, net: Any, given: Any, _: Any) -> None:
        if self._gates:
            inputs, present = given
            self._rows = ~without_auxiliary(inputs, present)
            self._alone: Tensor = net.fallback({"rgb": inputs["rgb"][self._rows]})

    def _right(self, labels: Tensor) -> Tensor:
        """(n, 2, H, W) of 0 and 1: the labelled pixels where RGB alone is right, and wrong."""
        size = labels.shape[-2:]
        guess = F.interpolate(self._alone.float(), size=size, mode="bilinear").argmax(dim=1)
        right = guess == labels
        for code, ids in enumerate(self.criterion.sets, start=self._alone.shape[1]):
            right |= (labels == code) & torch.isin(guess, guess.new_tensor(ids))
        return torch.stack([right, ~right], dim=1) * (labels != NO_LABEL)[:, None].float()


def _squared_error(p: Tensor, right: Tensor) -> Tensor:
    """Of probabilities (n, 1, h, w): mean over the right pixels, and over the wrong ones."""
    shares = F.adaptive_avg_pool2d(right, (p.shape[-2], p.shape[-1]))
    errors = torch.cat([(1 - p).square(), p.square()], dim=1)
    return ((shares * errors).sum((0, 2, 3)) / shares.sum((0, 2, 3)).clamp(min=1e-6)).mean()
