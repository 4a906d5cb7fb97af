# SPDX-License-Identifier: Apache-2.0
"""The MM SAM-adapter (arXiv 2509.10408): network and configuration, without files or devices."""

from mmsam_ros.model.config import (
    CombineConfig,
    EncoderConfig,
    FusionConfig,
    HeadConfig,
    InteractionConfig,
    ModelConfig,
    ModelError,
    PriorConfig,
    TrunkConfig,
)
from mmsam_ros.model.network import MMSAMAdapter, build_model, rgb_alone
from mmsam_ros.model.packed import pack, packing_pays
from mmsam_ros.model.prepared import prepare, store_halved
from mmsam_ros.model.rewritten import PLAIN, Operations

__all__ = [
    "PLAIN", "CombineConfig", "EncoderConfig", "FusionConfig", "HeadConfig", "InteractionConfig",
    "MMSAMAdapter", "ModelConfig", "ModelError", "Operations", "PriorConfig", "TrunkConfig",
    "build_model", "pack", "packing_pays", "prepare", "rgb_alone",
    "store_halved",
]  # fmt: skip
