# SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation against a plain computation: resize, flip, pad, windows, softmax, mean."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluations import prepared
from torch import Tensor

from mmsam_ros.sensors import Frame, SensorImage
from mmsam_ros.training.config import TrainingError
from mmsam_ros.training.evaluate import Evaluation
from mmsam_ros.training.tta import View

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
WINDOW = (128, 192)  # nano's input
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tta")


def up(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)


def starts(length: int, window: int, step: int) -> list[int]:
    """Windows from the left; the last one ends at the border."""
    found = list(range(0, length - window, step))
    return [*found, length - window]


def plain(
    evaluation: Evaluation, canvas: dict[str, Tensor], stride: tuple[int, int], flip: bool
) -> Tensor:
    """Probabilities (1, C, h, w) of normalised images (3, h, w) at the canvas."""
    height, width = canvas["rgb"].shape[1:]
    padding = (0, max(WINDOW[1] - width, 0), 0, max(WINDOW[0] - height, 0))
    inputs = {
        name: F.pad(image.flip(-1) if flip else image, padding)[None]
        for name, image in canvas.items()
    }
    rows, columns = inputs["rgb"].shape[-2:]
    total = torch.zeros(1, len(evaluation.spec.classes), rows, columns)
    count = torch.zeros(rows, columns)
    corners = itertools.product(
        starts(rows, WINDOW[0], stride[0]), starts(columns, WINDOW[1], stride[1])
    )
    for top, left in corners:
        where = (..., slice(top, top + WINDOW[0]), slice(left, left + WINDOW[1]))
        part = {name: image[where] for name, image in inputs.items()}
        total[where] += up(evaluation.segmenter.engine(part), WINDOW)
        count[where[1:]] += 1
    logits = (total / count)[..., :height, :width]
    return logits.flip(-1) if flip else logits


@pytest.mark.parametrize(
    ("views", "scales", "flips"),
    [
        (("flip",), (1.0,), (False, True)),
        (("scales",), SCALES, (False,)),
        (("flip", "scales"), SCALES, (False, True)),
    ],
)
def test_views_are_averaged(
    folder: Path, views: tuple[View, ...], scales: tuple[float, ...], flips: tuple[bool, ...]
) -> None:
    """DeLiVER's geometry: the frame is resized to the network's input and scored there."""
    evaluation = Evaluation(prepared(folder, "deliver", tta=views))
    item = evaluation.frames[0]
    lidar = item.frame.sensors["lidar"]
    assert isinstance(lidar, SensorImage)
    raw, points = (
        torch.from_numpy(np.atleast_3d(x).astype(np.float32)).permute(2, 0, 1)[None]
        for x in (item.frame.rgb, lidar.data)
    )
    total = torch.zeros(())
    for scale in scales:
        size = (round(WINDOW[0] * scale), round(WINDOW[1] * scale))
        canvas = {"rgb": (up(raw, size)[0] / 255 - MEAN) / STD, "lidar": up(points, size)[0] / 255}
        for flip in flips:
            logits = plain(evaluation, canvas, (85, 128), flip)  # two thirds of a window
            total = total + up(logits, WINDOW).softmax(1)
    expected = total.argmax(1)[0]
    prediction, target = evaluation.predict(item)
    assert target is not None
    assert prediction.shape == target.shape == WINDOW
    assert (prediction == expected).float().mean() > 0.999  # but for ties that rounding decides
    single, _ = Evaluation(prepared(folder, "deliver")).predict(item)
    assert (prediction != single).float().mean() > 0.003


def test_windows_keep_their_stride_and_padding_stays_at_the_right(folder: Path) -> None:
    """MUSES: a frame that is narrower than the window, seen mirrored."""
    evaluation = Evaluation(prepared(folder, "muses", split="val", tta=("flip",)))
    rng = np.random.default_rng(0)
    frame = Frame(
        rng.integers(0, 256, (136, 150, 3), np.uint8),
        {"lidar": SensorImage(rng.uniform(0, 30, (136, 150, 3)).astype(np.float32))},
    )
    item = dataclasses.replace(evaluation.frames[0], frame=frame, label=None)
    given = evaluation.spec.inputs["lidar"]
    mean, std = (torch.tensor(values)[:, None, None] for values in (given.mean, given.std))
    lidar = frame.sensors["lidar"]
    assert isinstance(lidar, SensorImage)
    canvas = {
        "rgb": (torch.from_numpy(frame.rgb).permute(2, 0, 1) / 255 - MEAN) / STD,
        "lidar": (torch.from_numpy(lidar.data).permute(2, 0, 1) - mean) / std,
    }
    both = [plain(evaluation, canvas, (80, 120), flip).softmax(1) for flip in (False, True)]
    prediction, _ = evaluation.predict(item)
    assert (prediction == (both[0] + both[1]).argmax(1)[0]).float().mean() > 0.999


def test_unknown_views_are_named(folder: Path) -> None:
    with pytest.raises(TrainingError, match="tta: found 'scale'; did you mean 'scales'"):
        prepared(folder, "deliver", tta=("scale",))
