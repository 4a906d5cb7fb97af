# SPDX-License-Identifier: Apache-2.0
"""The published geometries on tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from mmsam_ros.inference.published import slide_windows, whole, whole_padded


def quarter(image: Tensor) -> Tensor:
    """A stand-in network: the first two channels at a quarter of the size."""
    return image[:, :2, ::4, ::4]


def test_whole_resizes_twice() -> None:
    image = torch.randn(1, 3, 64, 64)
    expected = torch.nn.functional.interpolate(quarter(image), size=(64, 64), mode="bilinear")
    assert torch.equal(whole(quarter, image, (64, 64)), expected)
    expected = torch.nn.functional.interpolate(expected, size=(48, 80), mode="bilinear")
    assert torch.equal(whole(quarter, image, (48, 80)), expected)


def test_whole_padded_keeps_the_top_left() -> None:
    image = torch.randn(1, 3, 64, 64)
    full = whole(quarter, image, (64, 64))
    assert torch.equal(whole_padded(quarter, image, (48, 60)), full[:, :, :48, :60])


def test_muses_windows() -> None:
    windows = slide_windows((1080, 1920), (1024, 1024), (640, 640))
    assert sorted({w[0] for w in windows}) == [0, 56]
    assert sorted({w[2] for w in windows}) == [0, 640, 896]
    seen = torch.zeros(1080, 1920)
    for top, bottom, left, right in windows:
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1
