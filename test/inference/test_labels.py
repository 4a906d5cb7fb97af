# SPDX-License-Identifier: Apache-2.0
"""Labels and confidence at the camera's size against passes over all classes there."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmsam_ros.inference.geometry import Size
from mmsam_ros.inference.labels import class_probabilities, label_image, plain_label_image


def noise(classes: int, size: Size) -> Tensor:
    return 4 * torch.randn(1, classes, *size)


def smooth(classes: int, size: Size) -> Tensor:
    few = 6 * torch.randn(1, classes, 5, 7)
    return F.interpolate(few, size=size, mode="bicubic")


def tied(classes: int, size: Size) -> Tensor:
    """Whole regions in which the largest value is that of several classes."""
    return torch.randint(0, 3, (1, classes, *size)).float()


def steep(classes: int, size: Size) -> Tensor:
    """exp of any difference is 0 or infinite."""
    return 1e4 * torch.randn(1, classes, *size)


def padded(classes: int, size: Size) -> Tensor:
    """A canvas within a larger tensor."""
    return noise(classes, (size[0] + 9, size[1] + 7))[..., : size[0], : size[1]]


def check(logits: Tensor, size: Size) -> None:
    labels, confidence = label_image(logits, size, confidence=True)
    plain, expected = plain_label_image(logits, size, confidence=True)
    assert confidence is not None
    assert expected is not None
    assert labels.shape == confidence.shape == size
    assert labels.dtype == confidence.dtype == torch.uint8
    assert (confidence.int() - expected.int()).abs().max() <= 1
    full = F.interpolate(logits.double(), size=size, mode="bilinear").amax(dim=1)[0]
    single = F.interpolate(logits, size=size, mode="bilinear")[0]
    for found in (labels, plain):  # never less than the largest by more than rounding
        chosen = single.gather(0, found[None].long())[0]
        assert (full - chosen).max() <= 2e-6 * logits.abs().max() * max(logits.shape[-2:])
    assert (labels != plain).sum() <= 2e-5 * labels.numel() + 1


@pytest.mark.parametrize("make", [noise, smooth, tied, steep, padded])
@pytest.mark.parametrize("classes", [1, 14, 150])
@pytest.mark.parametrize(
    ("canvas", "size"),
    [
        ((24, 43), (81, 129)),
        ((24, 43), (24, 43)),  # the same
        ((24, 43), (11, 20)),  # smaller
        ((24, 43), (10, 301)),  # smaller and larger
        ((1, 5), (37, 64)),
        ((1, 1), (9, 9)),
    ],
)
def test_as_with_all_classes_at_full_size(
    make: type[noise], classes: int, canvas: Size, size: Size
) -> None:
    torch.manual_seed(classes)
    logits = make(classes, canvas)
    if make is not tied:
        check(logits, size)
        return
    labels, _ = label_image(logits, size)
    full = F.interpolate(logits.double(), size=size, mode="bilinear")[0]
    chosen = full.gather(0, labels[None].long())[0]
    assert (full.amax(dim=0) - chosen).max() < 1e-4


def test_of_equal_classes_the_first_wins() -> None:
    """Everywhere, also between pixels and at the borders."""
    torch.manual_seed(0)
    one = smooth(4, (24, 43))
    labels, _ = label_image(torch.cat((one, one, one), dim=1), (108, 192))
    assert torch.equal(labels, label_image(one, (108, 192))[0])
    assert labels.unique().tolist() == [0, 1, 2, 3]
    assert not label_image(torch.zeros(1, 25, 24, 43), (108, 192))[0].any()


def test_a_class_that_wins_between_pixels_alone() -> None:
    """Second at both neighbours, it is the first half-way."""
    logits = torch.tensor([[9.0, 0.0], [0.0, 9.0], [6.0, 6.0]])[None, :, None]
    labels, _ = label_image(logits, (1, 16))
    assert labels.tolist() == [[0] * 7 + [2] * 2 + [1] * 7]


def test_unsure_pixels_have_no_label() -> None:
    """Below the threshold, by the confidence that is published."""
    torch.manual_seed(2)
    logits = smooth(14, (24, 43))
    labels, confidence = label_image(logits, (81, 129), confidence=True)
    sure, same = label_image(logits, (81, 129), threshold=0.6)
    assert confidence is not None
    assert same is not None
    assert torch.equal(same, confidence)
    kept = confidence >= 153
    assert 0.1 < kept.float().mean() < 0.9
    assert torch.equal(sure[kept], labels[kept])
    assert (sure[~kept] == 255).all()
    assert torch.equal(label_image(logits, (81, 129), threshold=0.0)[0], labels)


@pytest.mark.parametrize(("size", "quarter"), [((96, 172), (24, 43)), ((97, 170), (25, 43))])
def test_probabilities_are_the_softmax_at_a_quarter(size: Size, quarter: Size) -> None:
    torch.manual_seed(3)
    logits = noise(5, (24, 43))
    found = class_probabilities(logits, size)
    assert found.shape == (*quarter, 5)
    assert found.is_contiguous()
    exact = F.interpolate(logits.double(), quarter, mode="bilinear").exp()[0]
    assert torch.allclose(found.double().permute(2, 0, 1), exact / exact.sum(dim=0), atol=1e-5)
