# SPDX-License-Identifier: Apache-2.0
"""The published geometries on tensors."""

from __future__ import annotations

import torch

from mmsam_ros.inference.published import slide_windows


def test_muses_windows() -> None:
    windows = slide_windows((1080, 1920), (1024, 1024), (640, 640))
    assert sorted({w[0] for w in windows}) == [0, 56]
    assert sorted({w[2] for w in windows}) == [0, 640, 896]
    seen = torch.zeros(1080, 1920)
    for top, bottom, left, right in windows:
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1
