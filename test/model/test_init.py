# SPDX-License-Identifier: Apache-2.0
"""The network starts as published."""

from __future__ import annotations

import math

import pytest
import torch

from mmsam_ros.model import MMSAMAdapter, ModelConfig, build_model


@pytest.fixture(scope="module")
def model() -> MMSAMAdapter:
    torch.manual_seed(0)
    return build_model(ModelConfig.preset("tiny", num_classes=14))


def std(tensor: torch.Tensor) -> float:
    return tensor.detach().std().item()


def test_scales(model: MMSAMAdapter) -> None:
    dim = model.config.encoder.embed_dim
    assert std(model.up.weight) == pytest.approx(math.sqrt(2 / (4 * dim)), rel=0.05)
    fc = model.prior.projections[2]
    assert std(fc.weight) == pytest.approx(math.sqrt(2 / dim), rel=0.05)
    extractor = model.interactions[0].extractor
    assert std(extractor.ffn.dwconv.weight) == pytest.approx(math.sqrt(2 / 9), rel=0.1)
    assert std(extractor.ffn.fc1.weight) == pytest.approx(0.02, rel=0.1)
    assert std(model.encoder.blocks[0].attn.qkv.weight) == pytest.approx(0.02, rel=0.05)
    assert std(model.head.classifier.weight) == pytest.approx(0.01, rel=0.1)
    assert std(model.level_embed) == pytest.approx(1.0, rel=0.15)
    patch = model.encoder.patch_embed.proj
    assert std(patch.weight) == pytest.approx(math.sqrt(2 / (256 * dim)), rel=0.05)


def test_constants(model: MMSAMAdapter) -> None:
    assert all(bool((i.injector.gamma == 1e-6).all()) for i in model.interactions)
    for trunk in model.prior.trunks.values():
        assert all(bool((b.gamma == 1).all()) for s in trunk.stages for b in s.blocks)
    for fusion in model.prior.fusion["lidar"]:
        zeros = (fusion.local_rgb.scale, fusion.cross.gamma_rgb, fusion.cross.gamma_aux)
        ones = (fusion.global_scale, fusion.detail_scale, fusion.global_aux.residual_scale)
        assert all(z.item() == 0 for z in zeros)
        assert all(o.item() == 1 for o in ones)
    for bias in (model.up.bias, model.head.classifier.bias, model.prior.projections[0].bias):
        assert not bias.any()


def test_offsets_start_on_rays(model: MMSAMAdapter) -> None:
    attention = model.interactions[0].injector.attn
    heads, levels, points = attention.num_heads, attention.num_levels, attention.num_points
    assert not attention.sampling_offsets.weight.any()
    assert not attention.attention_weights.weight.any()
    bias = attention.sampling_offsets.bias.view(heads, levels, points, 2)
    for head in range(heads):
        angle = 2 * math.pi * head / heads
        ray = torch.tensor([math.cos(angle), math.sin(angle)])
        ray = ray / ray.abs().max()
        for point in range(points):
            expected = (ray * (point + 1)).expand(levels, 2)
            torch.testing.assert_close(bias[head, :, point], expected)
