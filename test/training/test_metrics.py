# SPDX-License-Identifier: Apache-2.0
"""Scores against sums by hand."""

from __future__ import annotations

import pytest
import torch

from mmsam_ros.training.metrics import Scores, SubsetMatrices

NAMES = ("road", "car", "bicycle")


def test_absent_class_counts_zero_in_the_official_mean_alone() -> None:
    """road: 3 of 4 found; car: 2 of 2 found and one too many; bicycle: nowhere."""
    matrices = SubsetMatrices(3)
    target = torch.tensor([[0, 0, 0, 0, 1, 1, 255, 255]])
    prediction = torch.tensor([[0, 0, 0, 1, 1, 1, 0, 2]])
    own = matrices.update(prediction, target, {})
    assert own.tolist() == [[3, 1, 0], [0, 2, 0], [0, 0, 0]]
    scores = matrices.scores(NAMES)["all"]
    road, car = 100 * 3 / 4, 100 * 2 / 3
    assert scores.iou == {"road": road, "car": pytest.approx(car), "bicycle": None}
    assert scores.miou == pytest.approx((road + car) / 3)
    assert scores.miou_present == pytest.approx((road + car) / 2)
    assert scores.macc == pytest.approx((75 + 100) / 3)
    assert scores.aacc == pytest.approx(100 * 5 / 6)
    assert (scores.frames, scores.absent) == (1, ["bicycle"])


def test_a_false_find_of_an_absent_class_changes_no_mean_over_present_classes() -> None:
    matrices = SubsetMatrices(3)
    matrices.update(torch.tensor([[0, 2]]), torch.tensor([[0, 0]]), {})
    scores = matrices.scores(NAMES)["all"]
    assert list(scores.iou.values()) == [50, None, None]
    assert scores.miou_present == 50
    assert scores.miou == pytest.approx(50 / 3)


def test_subsets_are_pooled() -> None:
    """Pixels are summed over frames: neither a mean over frames nor one over subsets."""
    subsets = [
        {"weather": "fog", "case": "ordinary"},
        {"weather": "fog", "case": "motionblur"},
        {"weather": "sun"},
    ]
    matrices = SubsetMatrices(2, [*subsets, {"weather": "rain"}])  # of a frame without label
    right = torch.zeros(1, 8, dtype=torch.uint8)
    half = torch.tensor([[0, 1]], dtype=torch.uint8)
    matrices.update(right, right, subsets[0])
    matrices.update(half, torch.zeros_like(half), subsets[1])
    matrices.update(half, half, subsets[2])
    scores = matrices.scores(("a", "b"))
    assert list(scores) == ["all", "case=motionblur", "case=ordinary", "weather=fog", "weather=sun"]
    assert scores["weather=fog"].iou == {"a": 90, "b": None}
    assert scores["case=motionblur"].iou == {"a": 50, "b": None}
    assert scores["weather=sun"].iou == {"a": 100, "b": 100}
    assert scores["all"].iou == {"a": pytest.approx(100 * 10 / 11), "b": 50}
    assert [s.frames for s in scores.values()] == [3, 1, 1, 2, 1]


def test_nothing_labelled_scores_zero() -> None:
    scores = Scores.of(torch.zeros(3, 3, dtype=torch.long), 0, NAMES)
    assert (scores.miou, scores.miou_present, scores.macc, scores.aacc) == (0, 0, 0, 0)
    assert scores.absent == [*NAMES]
