# SPDX-License-Identifier: Apache-2.0
"""Reading, converting, verifying and naming weights."""

from mmsam_ros.weights.errors import WeightsError
from mmsam_ros.weights.files import file_sha256, load_model, read_spec, save_model
from mmsam_ros.weights.foreign import load_convnext, load_sam_encoder, read_checkpoint
from mmsam_ros.weights.released import convert_released
from mmsam_ros.weights.settings import (
    BY_PRESENCE,
    SETTINGS,
    Setting,
    find_setting,
    folder_setting,
    make_spec,
    setting_config,
)
from mmsam_ros.weights.shipped import default_weights, package_file
from mmsam_ros.weights.spec import (
    Channel,
    Geometry,
    ModalityInput,
    Presence,
    Provenance,
    Score,
    Spec,
)

__all__ = [
    "BY_PRESENCE",
    "SETTINGS",
    "Channel",
    "Geometry",
    "ModalityInput",
    "Presence",
    "Provenance",
    "Score",
    "Setting",
    "Spec",
    "WeightsError",
    "convert_released",
    "default_weights",
    "file_sha256",
    "find_setting",
    "folder_setting",
    "load_convnext",
    "load_model",
    "load_sam_encoder",
    "make_spec",
    "package_file",
    "read_checkpoint",
    "read_spec",
    "save_model",
    "setting_config",
]
