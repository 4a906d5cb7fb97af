# SPDX-License-Identifier: Apache-2.0
"""The released code's configuration of the network, in our terms."""

from collections.abc import Mapping
from typing import Any

from mmsam_ros._util import from_mapping, require
from mmsam_ros.model.config import PATCH_SIZE, ModelConfig, ModelError

_ENCODER = ("embed_dim", "depth", "num_heads", "mlp_ratio", "window_size", "global_attn_indexes")


def config_from_released(backbone: Mapping[str, Any], head: Mapping[str, Any]) -> ModelConfig:
    """The configuration that the released code's two dictionaries describe.

    Args:
        backbone: `img_size`, `pretrained_size`, `embed_dim`, `convnext`, `fusion`, `modalities` …
        head: `channels`, `num_classes`, `in_channels` of the SegFormer head.

    Raises:
        ModelError: a setting that the published network does not have, or a missing one.
    """
    switches = ("qkv_bias", "use_abs_pos", "use_rel_pos", "with_cffn", "add_vit_feature")
    fixed = {"in_chans": 3, "modality_channels": (3, 3), "patch_size": PATCH_SIZE}
    fixed |= dict.fromkeys(switches, True)
    for key, expected in fixed.items():
        found = backbone.get(key, expected)
        found = tuple(found) if isinstance(found, list) else found
        require(found == expected, f"backbone.{key}", found, repr(expected), ModelError)
    try:
        side, pretrained = backbone["img_size"], backbone["pretrained_size"]
        trunk, fusion = backbone["convnext"], backbone["fusion"]
        values = {
            "num_classes": head["num_classes"],
            "modalities": backbone["modalities"],
            "image_size": (side, side),
            "encoder": {
                **{key: backbone[key] for key in _ENCODER},
                "pretrained_size": (pretrained, pretrained),
            },
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
        }
    except KeyError as error:
        raise ModelError(f"released configuration: key {error} is missing") from error
    return from_mapping(ModelConfig, values)
