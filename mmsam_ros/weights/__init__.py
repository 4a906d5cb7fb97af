# SPDX-License-Identifier: Apache-2.0
"""Reading, converting, verifying and naming weights."""

from mmsam_ros.weights.files import load_model, read_spec, save_model, save_spec
from mmsam_ros.weights.foreign import (
    convert_released,
    load_convnext,
    load_sam_encoder,
    read_checkpoint,
)
from mmsam_ros.weights.registry import default_weights, file_sha256, package_file, weights_file
from mmsam_ros.weights.spec import Geometry, Presence, Score, Spec, WeightsError, make_spec

__all__ = [
    "Geometry", "Presence", "Score", "Spec", "WeightsError", "convert_released", "default_weights",
    "file_sha256", "load_convnext", "load_model", "load_sam_encoder", "make_spec", "package_file",
    "read_checkpoint", "read_spec", "save_model", "save_spec", "weights_file",
]  # fmt: skip
