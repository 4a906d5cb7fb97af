# SPDX-License-Identifier: Apache-2.0
"""Scores by hand: absent classes, ignored pixels, pooled subsets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmsam_ros.training.metrics import SubsetMatrices

NAMES = ("a", "b", "c")


def image(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8)[None]


def test_by_hand() -> None:
    matrices = SubsetMatrices(3)
    own = matrices.update(image(0, 0, 1, 1, 2, 0), image(0, 0, 0, 1, 1, 255), {})
    assert own.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]
    scores = matrices.scores(NAMES)["all"]
    # a: 2 of 3; b: 1 of 3; c: predicted once, never there
    assert scores.iou == (pytest.approx(200 / 3), pytest.approx(100 / 3), None)
    assert scores.absent == ("c",)
    assert scores.miou == pytest.approx(100 / 3)  # c counts 0
    assert scores.miou_present == pytest.approx(50)
    assert scores.macc == pytest.approx((200 / 3 + 50) / 3)
    assert scores.aacc == pytest.approx(60)
    assert scores.frames == 1


def test_a_class_that_nobody_names_counts_zero_in_the_official_mean() -> None:
    matrices = SubsetMatrices(3)
    matrices.update(image(0, 1), image(0, 1), {})
    scores = matrices.scores(NAMES)["all"]
    assert scores.miou == pytest.approx(200 / 3)
    assert scores.miou_present == 100
    assert scores.to_dict()["iou"] == {"a": 100, "b": 100, "c": None}


def test_subsets_are_pooled() -> None:
    matrices = SubsetMatrices(3)
    matrices.update(image(0, 0, 0, 1), image(0, 0, 0, 0), {"weather": "fog", "case": "x"})
    matrices.update(image(1), image(0), {"weather": "fog", "case": "y"})
    matrices.update(image(2, 2), image(2, 255), {"weather": "sun", "case": "x"})
    scores = matrices.scores(NAMES)
    assert list(scores) == ["all", "case=x", "case=y", "weather=fog", "weather=sun"]
    assert scores["weather=fog"].iou[0] == pytest.approx(60)  # 3 of 5, not the mean of 75 and 0
    assert [scores[n].frames for n in scores] == [3, 2, 1, 2, 1]
    total = matrices.matrix("weather=fog") + matrices.matrix("weather=sun")
    assert torch.equal(total, matrices.matrix())


def test_nothing_labelled_scores_nothing() -> None:
    matrices = SubsetMatrices(3)
    matrices.update(image(0, 1), image(255, 255), {})
    scores = matrices.scores(NAMES)["all"]
    assert (scores.miou, scores.miou_present, scores.aacc) == (0, 0, 0)
    assert scores.absent == NAMES
