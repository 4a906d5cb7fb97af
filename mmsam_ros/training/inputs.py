# SPDX-License-Identifier: Apache-2.0
"""A sample to what the network takes."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from mmsam_ros.data.frames import Sample
from mmsam_ros.inference.prepare import normalise, without_blank
from mmsam_ros.sensors import NO_LABEL, RGB
from mmsam_ros.weights import Spec


def network_inputs(sample: Sample, spec: Spec) -> dict[str, Tensor]:
    """Normalised images (3, h, w) by modality, at the sample's size; as `inference.prepare`'s."""
    inputs = {RGB: normalise(sample["rgb"].as_subclass(Tensor), spec.inputs[RGB])}
    for sensor, modality in spec.modalities.items():
        if sensor not in sample["planes"]:
            continue
        planes = sample["planes"][sensor].as_subclass(Tensor)
        blank = bool((planes.amax((1, 2)) == planes.amin((1, 2))).all())
        if not (blank and without_blank(spec)):
            inputs[sensor] = normalise(planes, modality)
    return inputs


def pad_to(
    inputs: Mapping[str, Tensor], label: Tensor, size: tuple[int, int]
) -> tuple[dict[str, Tensor], Tensor]:
    """Pad at the bottom and right to `size`: normalised images with 0, the label with 255."""
    bottom, right = size[0] - label.shape[-2], size[1] - label.shape[-1]
    padding = (0, right, 0, bottom)
    padded = {name: F.pad(image, padding) for name, image in inputs.items()}
    return padded, F.pad(label.as_subclass(Tensor), padding, value=NO_LABEL)
