# SPDX-License-Identifier: Apache-2.0
"""The configuration that the golden tensors were made with, in our terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmsam_ros.model import ModelConfig


def config_from_released(facts: Mapping[str, Any]) -> ModelConfig:
    """`facts` holds the released code's dictionaries of `backbone` and `head`."""
    backbone, head = facts["backbone"], facts["head"]
    side, pretrained = backbone["img_size"], backbone["pretrained_size"]
    trunk, fusion = backbone["convnext"], backbone["fusion"]
    plain = ("embed_dim", "depth", "num_heads", "mlp_ratio", "window_size", "global_attn_indexes")
    encoder = {key: backbone[key] for key in plain}
    return ModelConfig.from_dict({
        "num_classes": head["num_classes"],
        "modalities": backbone["modalities"],
        "image_size": (side, side),
        "encoder": encoder | {"pretrained_size": (pretrained, pretrained)},
        "trunk": {"depths": trunk["depths"], "widths": trunk["channels"]},
        "fusion": {
            "num_heads": fusion["attn_heads"],
            "groups": fusion["conv_groups"],
            "norm_groups": fusion["gn_groups"],
        },
        "interaction": {
            "block_ranges": backbone["interaction_indexes"],
            "num_heads": backbone["deform_num_heads"],
            "num_points": backbone["n_points"],
            "value_ratio": backbone["deform_ratio"],
            "ffn_ratio": backbone["cffn_ratio"],
            "num_extra_extractors": 2 if backbone["use_extra_extractor"] else 0,
        },
        "head": {"channels": head["channels"]},
    })  # fmt: skip
