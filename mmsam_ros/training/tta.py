# SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation: the mean of the class probabilities of several views of a frame."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from mmsam_ros.inference.geometry import Plan
from mmsam_ros.inference.prepare import Prepared
from mmsam_ros.weights import Geometry

View = Literal["flip", "scales"]
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of the canvas


def scaled_plans(plan: Plan, views: Sequence[View]) -> Iterator[Plan]:
    """The plan itself, and with `scales` those of its canvas at the other scales.

    A canvas that is larger than the network's input is seen in windows, with the geometry's stride
    or two thirds of a window; a smaller one is padded.
    """
    for scale in SCALES if "scales" in views else (1.0,):
        if scale == 1:
            yield plan
            continue
        size = plan.geometry.size
        stride = plan.geometry.stride or (2 * size[0] // 3, 2 * size[1] // 3)
        rows, columns = (max(round(length * scale), 1) for length in plan.canvas)
        yield Plan(
            Geometry("slide", size, stride),
            canvas=(rows, columns),
            padded=(max(rows, size[0]), max(columns, size[1])),
            output=plan.output,
        )


def flipped(prepared: Prepared) -> Prepared:
    """Left and right exchanged within the canvas; the padding stays where the network expects it.
    The logits are those of the mirrored frame.
    """
    width = prepared.plan.canvas[1]
    inputs = {
        name: torch.cat((image[..., :width].flip(-1), image[..., width:]), dim=-1)
        for name, image in prepared.inputs.items()
    }
    return dataclasses.replace(prepared, inputs=inputs)
