# SPDX-License-Identifier: Apache-2.0
"""The network prepared for inference is the same function as the plain one."""

from __future__ import annotations

import copy
from itertools import combinations
from typing import Any

import pytest
import torch
from support.randomise import randomise

from mmsam_ros.model import MMSAMAdapter, ModelConfig, build_model
from mmsam_ros.model.prepared import prepare

SEVERAL = ("rgb", "lidar", "thermal")
CASES: dict[str, dict[str, Any]] = {
    "published": {},
    "rgb": {"modalities": ("rgb",)},
    "masked": {"modalities": SEVERAL, "combine": {"absent": "masked", "gate": True}},
    "fallback": {"modalities": SEVERAL, "combine": {"absent": "fallback", "gate": True}},
    "no gate": {"modalities": SEVERAL, "combine": {"absent": "fallback"}},
    "concat": {"fusion": {"kind": "concat"}},
    "add": {"fusion": {"kind": "add"}},
    "shared": {"prior": {"shared": True}},
    "auxiliary": {"prior": {"reads_rgb": False}},
    "plain": {"modalities": ("rgb",), "prior": {"kind": "conv"}},
    "sam_head": {"modalities": ("rgb",), "prior": {"kind": "none"}},
    "entry": {"interaction": {"kind": "entry"}},
    "no_extractor": {"interaction": {"extractor": False}},
    "lora": {"encoder": {"lora_rank": 3, "lora_targets": ("q", "v", "lin2")}},
}


def network(case: str, preset: str = "nano", **encoder: Any) -> MMSAMAdapter:
    """A network on which every branch shows; windows of 5 do not fit the grid of 8 x 12."""
    values = ModelConfig.preset(preset, num_classes=5).to_dict()
    for key, change in ({"encoder": {"window_size": 5} | encoder} | CASES[case]).items():
        values[key] = values[key] | change if isinstance(change, dict) else change
    model = build_model(ModelConfig.from_dict(values))
    randomise(model, seed=5)
    return model.eval()


def images(names: tuple[str, ...], size: tuple[int, int], batch: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    return {n: torch.randn(batch, 3, *size, generator=generator) for n in names}


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_plain_network(case: str) -> None:
    """For every set of modalities, at another size of the same area, too."""
    model = network(case)
    before = copy.deepcopy(model.state_dict())
    prepared = prepare(model)
    auxiliaries = model.config.auxiliaries
    for count in range(len(auxiliaries) + 1):
        for some in combinations(auxiliaries, count):
            for size in ((128, 192), (96, 256)):
                given = images(("rgb", *some), size)
                expected = model(given)
                assert expected.std() > 0.05
                torch.testing.assert_close(prepared(given), expected, rtol=1e-8, atol=1e-8)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
