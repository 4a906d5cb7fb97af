# SPDX-License-Identifier: Apache-2.0
"""Weights files written by earlier versions, in today's form; nothing else knows the old one."""

from collections.abc import Mapping
from typing import Any

from mmsam_ros.weights.spec import WeightsError

ADDED = ("seen",)  # keys that earlier versions did not write
_FIXED_GEOMETRY = {"interpolation": ("bilinear",), "keep_ratio": (True, False)}


def upgrade(values: Mapping[str, Any]) -> dict[str, Any]:
    """A file's metadata in today's form; WeightsError names what is no longer supported."""
    config = dict(_mapping(values, "config"))
    config.pop("empty", None)  # follows from the inputs
    encoder = dict(_mapping(config, "encoder"))
    if encoder.pop("patch_size", 16) != 16:
        raise WeightsError("config.encoder.patch_size: expected 16, found another")
    if not encoder.get("lora_rank"):
        encoder.pop("lora_targets", None)  # of no adapters; the default is another now
    geometry = dict(_mapping(values, "geometry"))
    for key, known in _FIXED_GEOMETRY.items():
        if (found := geometry.pop(key, known[0])) not in known:
            raise WeightsError(f"geometry.{key}: found {found!r}, expected {known[0]!r}")
    inputs = _mapping(values, "inputs")
    return {
        **values,
        "config": config | {"encoder": encoder},
        "inputs": {name: _modality(name, _mapping(inputs, name)) for name in inputs},
        "geometry": geometry,
    }


def _modality(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Its channels were pairs of source and field, its encodings by source."""
    modality = dict(values)
    if "channels" not in modality:
        return modality
    sensor, found = "camera" if name == "rgb" else name, modality.pop("channels")
    if not isinstance(found, list):
        raise WeightsError(f"inputs.{name}.channels: found {found!r}, expected a list")
    channels = [_mapping({"channel": channel}, "channel") for channel in found]
    sources = {str(channel.get("source")) for channel in channels}
    if sources != {sensor}:
        raise WeightsError(
            f"inputs.{name}: made of {', '.join(sorted(sources))}, expected {sensor} alone: a "
            "modality reads one sensor, train a network with several auxiliaries instead"
        )
    modality["fields"] = [channel.get("field") for channel in channels]
    modality["encoding"] = _mapping(modality, "encoding").get(sensor)
    modality["point_size"] = modality.pop("growth", 1)
    return modality


def _mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    if not isinstance(found, Mapping):
        raise WeightsError(f"{key}: found {found!r}, expected keys with values")
    return found
