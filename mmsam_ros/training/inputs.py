# SPDX-License-Identifier: Apache-2.0
"""A sample to what the network takes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmsam_ros.data.frames import Sample
from mmsam_ros.inference.normalise import compose, is_blank, normalise
from mmsam_ros.sensors import NO_LABEL, scale_thermal
from mmsam_ros.weights import ModalityInput, Spec


def network_inputs(sample: Sample, spec: Spec) -> dict[str, Tensor]:
    """Normalised images (3, h, w) by modality, at the sample's size.

    As `inference.prepare` leaves them: a modality none of whose sources is there is left out, and
    a blank one, where the network masks what is absent.
    """
    rgb = sample["rgb"].as_subclass(Tensor)
    inputs = {"rgb": normalise(rgb.float(), spec.inputs["rgb"])}
    for name in spec.config.auxiliaries:
        given = spec.inputs[name]
        planes = {s: _scaled(s, sample, given) for s in given.sources if s in sample["sources"]}
        if not planes:
            continue
        raster = compose(planes, given, (rgb.shape[-2], rgb.shape[-1]))
        if spec.config.combine.absent == "empty" or not is_blank(raster):
            inputs[name] = normalise(raster, given)
    return inputs


def pad_to(
    inputs: Mapping[str, Tensor], label: Tensor, size: tuple[int, int]
) -> tuple[dict[str, Tensor], Tensor]:
    """Pad at the bottom and right to `size`: normalised images with 0, the label with 255."""
    bottom, right = size[0] - label.shape[-2], size[1] - label.shape[-1]
    padding = (0, right, 0, bottom)
    padded = {name: F.pad(image, padding) for name, image in inputs.items()}
    return padded, F.pad(label.as_subclass(Tensor), padding, value=NO_LABEL)


def _scaled(source: str, sample: Sample, given: ModalityInput) -> Tensor:
    """Channel values (C, h, w); 16-bit thermal counts brought to 0..255."""
    planes = sample["sources"][source].as_subclass(Tensor)
    if given.encoding[source] != "mono16":
        return planes
    counts = np.rint(planes[0].numpy()).astype(np.uint16)
    return torch.from_numpy(scale_thermal(counts, "mono16", given.limits))[None]
