# SPDX-License-Identifier: Apache-2.0
"""Online hard example mining by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from mmsam_ros.training.config import LossConfig
from mmsam_ros.training.recipe import OhemCrossEntropy, loss_function

# probability of the true class of six pixels, in a row; the last one has no label
P = (0.95, 0.6, 0.9, 0.2, 0.75, 0.5)


def frame() -> tuple[Tensor, Tensor]:
    """Logits (1, 2, 1, 6) with these probabilities of class 0, and labels."""
    p = torch.tensor(P)
    logits = torch.stack([p.log(), (1 - p).log()])[None, :, None]
    labels = torch.zeros(1, 1, 6, dtype=torch.uint8)
    labels[..., 5] = 255
    return logits, labels


def mean(*pixels: float) -> float:
    return sum(-math.log(p) for p in pixels) / len(pixels)


@pytest.mark.parametrize(
    ("min_kept", "threshold", "kept"),
    [
        # the cut is the threshold: 0.2 and 0.6 lie below
        (1, 0.7, (0.6, 0.2)),
        (0, 0.7, (0.6, 0.2)),
        # the cut is p at index 3 of (0.2, 0.6, 0.75, 0.9, 0.95): what lies strictly below counts
        (3, 0.7, (0.6, 0.2, 0.75)),
        # more wanted than there are: the cut is the largest p, and itself not below it
        (100, 0.7, (0.6, 0.9, 0.2, 0.75)),
        (100, 0.99, (0.95, 0.6, 0.9, 0.2, 0.75)),
    ],
)
def test_pixels_below_the_cut_count(
    min_kept: int, threshold: float, kept: tuple[float, ...]
) -> None:
    loss = OhemCrossEntropy(threshold, min_kept)(*frame())
    assert loss.item() == pytest.approx(mean(*kept), abs=1e-6)


def test_a_set_of_classes_has_their_probabilities_together() -> None:
    """Three classes; the label 3 means the second or the third of them."""
    p = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.05, 0.9, 0.05]])  # by pixel
    logits = p.log().T[None, :, None].clone().requires_grad_()
    labels = torch.tensor([[[3, 0, 3]]], dtype=torch.uint8)
    loss = loss_function(LossConfig(kind="ce"), sets=[(1, 2)])(logits, labels)
    assert loss.item() == pytest.approx(mean(0.8, 0.6, 0.95), abs=1e-6)
    loss.backward()
    assert logits.grad is not None
    # p - p / (p of the set) within a set, p outside; over three pixels
    expected = torch.tensor(
        [
            [0.2, 0.5 - 0.5 / 0.8, 0.3 - 0.3 / 0.8],
            [0.6 - 1, 0.1, 0.3],
            [0.05, -0.9 / 19, -0.05 / 19],
        ]
    )
    torch.testing.assert_close(logits.grad[0, :, 0].T, expected / 3)
    # OHEM keeps what lies below the cut by the probability of the set: 0.8 and 0.95 do not
    assert OhemCrossEntropy(0.7, 0, sets=[(1, 2)])(logits, labels).item() == pytest.approx(
        mean(0.6), abs=1e-6
    )


def test_labels_of_one_class_have_the_loss_that_they_had() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 4, 4), torch.randint(0, 5, (2, 16, 16)).byte()
    labels[0, :3] = 255
    plain, sets = (OhemCrossEntropy(0.7, 50, sets=some) for some in ((), [(0, 1), (2, 3, 4)]))
    assert torch.equal(plain(logits, labels), sets(logits, labels))


def test_nothing_to_count_is_zero_with_a_graph() -> None:
    logits, labels = frame()
    logits.requires_grad_()
    for given in (
        torch.full_like(labels, 255),  # no pixel has a label
        torch.where(torch.arange(6) == 0, labels, 255),  # one does, and nothing lies below it
    ):
        loss = OhemCrossEntropy()(logits, given)
        assert loss.item() == 0
        loss.backward()
        assert logits.grad is not None
        assert not logits.grad.any()


def test_groups_and_factors_hold_for_sets_too() -> None:
    """Two frames of one pixel each: 1 or 2 (a set), and class 0."""
    p = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
    logits, labels = p.log()[:, :, None, None], torch.tensor([[[3]], [[0]]], dtype=torch.uint8)
    config = LossConfig(kind="ohem", threshold=0.9, frames=1, class_weights=(1.0, 2.0, 6.0))
    loss = loss_function(config, sets=[(1, 2)])(logits, labels)
    # the factor of the set is the mean of its classes'
    assert loss.item() == pytest.approx((4 * -math.log(0.8) - math.log(0.6)) / 2, abs=1e-6)
    low = dataclasses.replace(config, threshold=0.7)  # 0.8 is easy, and alone in its group
    loss = loss_function(low, sets=[(1, 2)])(logits, labels)
    assert loss.item() == pytest.approx(-math.log(0.6) / 2, abs=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_groups_are_as_devices_of_their_own(frames: int) -> None:
    """Loss and gradient of a batch are the means over the groups; a rest counts by frame."""
    draw = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 9.0, 3.0, 1.0, 6.0])[:, None, None, None]  # hard and easy frames
    logits = torch.randn(5, 4, 6, 8, generator=draw) * scale
    labels = torch.randint(0, 4, (5, 6, 8), generator=draw, dtype=torch.uint8)
    labels[3] = 255  # nothing to count: 0, as on a device of its own
    found, apart = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = OhemCrossEntropy(0.3, 20, frames=frames)(found, labels)
    whole = OhemCrossEntropy(0.3, 20)
    starts = range(0, 5, frames)
    parts = [
        (whole(apart[i : i + frames], labels[i : i + frames]), min(frames, 5 - i)) for i in starts
    ]
    expected = sum(part * count for part, count in parts) / 5
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(found.grad, apart.grad)
    together = whole(logits, labels)
    assert torch.isclose(loss, together) == (frames == 5)


@pytest.mark.parametrize(
    ("kind", "kept"), [("ohem", (0.6, 0.2)), ("ce", (0.95, 0.6, 0.9, 0.2, 0.75))]
)
def test_class_weights_multiply_the_pixels_of_their_class(
    kind: Literal["ohem", "ce"], kept: tuple[float, ...]
) -> None:
    """0.2 is of class 1, and twice as dear; which pixels are hard stays as it was."""
    logits, labels = frame()
    logits[..., 3], labels[..., 3] = logits[:, [1, 0], :, 3], 1
    loss = loss_function(LossConfig(kind, min_kept=1, class_weights=(3.0, 6.0)))(logits, labels)
    expected = 3 * mean(*kept) + 3 * -math.log(0.2) / len(kept)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
