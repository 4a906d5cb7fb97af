# SPDX-License-Identifier: Apache-2.0
"""Weights files of earlier versions keep loading."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from support.networks import spec_of

from mmsam_ros.weights import Spec, WeightsError
from mmsam_ros.weights.legacy import upgrade


def as_before(spec: Spec) -> dict[str, Any]:
    """The metadata of a spec as version 0.1.0 wrote it."""
    values: dict[str, Any] = json.loads(json.dumps(spec.to_dict()))
    values["config"]["empty"] = list(spec.config.empty)
    values["config"]["encoder"] |= {"patch_size": 16, "lora_targets": ["qkv", "proj"]}
    resized = values["geometry"]["mode"] == "resize"
    values["geometry"] |= {"keep_ratio": not resized, "interpolation": "bilinear"}
    for name, given in values["inputs"].items():
        sensor = "camera" if name == "rgb" else name
        fields = given.pop("fields")
        given["channels"] = [{"source": sensor, "field": field} for field in fields]
        given["encoding"] = {sensor: given["encoding"]}
        given["growth"] = given.pop("point_size")
    return values


@pytest.mark.parametrize(
    "name", ["muses_rgb_lidar", "fmb_rgb_thermal", "synthetic_rgb_lidar_thermal"]
)
def test_what_was_written_before_is_read_as_the_same(name: str) -> None:
    spec = spec_of(name)
    before = as_before(spec)
    untouched = copy.deepcopy(before)
    assert Spec.from_dict(upgrade(before)) == spec
    assert before == untouched
    today = json.loads(json.dumps(spec.to_dict()))
    assert Spec.from_dict(upgrade(today)) == spec


def test_adapters_of_before_stay_where_they_are() -> None:
    values = as_before(spec_of("muses_rgb_lidar"))
    values["config"]["encoder"]["lora_rank"] = 4
    encoder = Spec.from_dict(upgrade(values)).config.encoder
    assert (encoder.lora_rank, encoder.lora_targets) == (4, ("qkv", "proj"))


def test_what_is_gone_is_refused_with_a_reason() -> None:
    values = as_before(spec_of("muses_rgb_lidar"))
    values["inputs"]["lidar"]["channels"][2]["source"] = "thermal"
    with pytest.raises(WeightsError, match=r"inputs.lidar: made of lidar, thermal, expected lidar"):
        upgrade(values)
    values = as_before(spec_of("muses_rgb_lidar"))
    values["config"]["encoder"]["patch_size"] = 8
    with pytest.raises(WeightsError, match=r"config.encoder.patch_size"):
        upgrade(values)
    values = as_before(spec_of("muses_rgb_lidar"))
    values["geometry"]["interpolation"] = "cubic"
    with pytest.raises(WeightsError, match=r"geometry.interpolation: found 'cubic'"):
        upgrade(values)
    values["inputs"] = None
    with pytest.raises(WeightsError, match=r"inputs|geometry"):
        upgrade(values)
