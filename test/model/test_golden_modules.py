# SPDX-License-Identifier: Apache-2.0
"""Single units against the published ones' golden tensors."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmsam_ros.inference.geometry import Window, average_windows, slide_windows
from mmsam_ros.model.config import FusionConfig, HeadConfig, InteractionConfig, TrunkConfig
from mmsam_ros.model.convnext import ConvNeXtTrunk
from mmsam_ros.model.deformable import deformable_sample, reference_points
from mmsam_ros.model.encoder import Block, relative_positions, resize_pos_embed
from mmsam_ros.model.fusion import RoadFusion
from mmsam_ros.model.head import SegFormerHead
from mmsam_ros.model.interaction import ConvFFN, Extractor, Injector, TokenGrids
from mmsam_ros.training.recipe import OhemCrossEntropy
from mmsam_ros.weights.foreign import released_name

TOLERANCE = 2e-5
FUSION_LEVEL = "backbone.spm.smart_fusion."


class Units:
    """The golden file: facts and tensors of each unit."""

    def __init__(self, folder: Any) -> None:
        self.facts = json.loads((folder / "reference/golden_modules.json").read_text())
        self.tensors = load_file(folder / "reference/golden_modules.safetensors")

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        return tensor.double() if tensor.is_floating_point() else tensor

    def state(self, unit: str) -> dict[str, Tensor]:
        prefix = f"{unit}.state."
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def units(shared: Any) -> Units:
    return Units(shared)


def close(ours: Tensor, expected: Tensor) -> None:
    """Within float32's rounding of the expected values, which were stored so."""
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("case", ["msda_core_3lvl", "msda_core_1lvl"])
def test_deformable_core(units: Units, case: str) -> None:
    shapes = [tuple(s) for s in units.facts[case]["spatial_shapes_hw"]]
    out = deformable_sample(
        units[f"{case}.value"],
        shapes,
        units[f"{case}.sampling_locations"],
        units[f"{case}.attention_weights"],
    )
    close(out, units[f"{case}.output"])


def grids_of(fact: dict[str, Any]) -> TokenGrids:
    return TokenGrids(16 * fact["H"], 16 * fact["W"], torch.device("cpu"))


def interaction_config(fact: dict[str, Any]) -> InteractionConfig:
    return InteractionConfig(
        num_heads=fact["heads"], num_points=fact["points"], value_ratio=fact["ratio"]
    )


@torch.no_grad()
def test_injector(units: Units) -> None:
    fact = units.facts["injector"]
    grids = grids_of(fact)
    close(grids.encoder_points.double(), units["injector.reference_points"])
    injector = Injector(fact["dim"], interaction_config(fact)).eval()
    injector.load_state_dict(units.state("injector"))
    close(injector(units["injector.x"], units["injector.c"], grids), units["injector.out"])


@torch.no_grad()
def test_extractor(units: Units) -> None:
    fact = units.facts["extractor"]
    grids = grids_of(fact)
    points = reference_points(grids.adapter, torch.device("cpu"))
    close(points.double(), units["extractor.reference_points"])
    extractor = Extractor(fact["dim"], interaction_config(fact)).eval()
    state = {k.replace("dwconv.dwconv", "dwconv"): v for k, v in units.state("extractor").items()}
    extractor.load_state_dict(state)
    close(extractor(units["extractor.c"], units["extractor.x"], grids), units["extractor.out"])


@torch.no_grad()
def test_conv_ffn(units: Units) -> None:
    fact = units.facts["convffn"]
    ffn = ConvFFN(fact["in_features"], fact["hidden"]).eval()
    state = {k.replace("dwconv.dwconv", "dwconv"): v for k, v in units.state("convffn").items()}
    ffn.load_state_dict(state)
    close(ffn(units["convffn.x"], grids_of(fact).adapter), units["convffn.out"])


@pytest.mark.parametrize("case", ["sam_window", "sam_global", "sam_global_same"])
@torch.no_grad()
def test_sam_block(units: Units, case: str) -> None:
    fact = units.facts[case]
    grid = tuple(fact.get("trained_hw", (0, 0)))
    block = Block(fact["dim"], fact["heads"], 4.0, fact.get("window", 0), grid).eval()
    block.load_state_dict(units.state(case.removesuffix("_same")))
    out = block(units[f"{case}.x"].unflatten(1, (fact["H"], fact["W"]))).flatten(1, 2)
    close(out, units[f"{case}.out"])


@pytest.mark.parametrize("size", [10, 13, 16, 25])
def test_relative_position_tables(units: Units, size: int) -> None:
    close(
        relative_positions(units[f"relpos_{size}_{size}.table"], size),
        units[f"relpos_{size}_{size}.out"],
    )


@pytest.mark.parametrize("grid", [(6, 6), (7, 12), (10, 10)])
def test_position_embedding(units: Units, grid: tuple[int, int]) -> None:
    name = f"pos_embed_{grid[0]}x{grid[1]}"
    close(resize_pos_embed(units[f"{name}.inp"], grid).flatten(1, 2), units[f"{name}.out"])


@pytest.mark.parametrize("level", [0, 1])
@torch.no_grad()
def test_road_fusion(units: Units, level: int) -> None:
    dim, side = (32, 16) if level == 0 else (64, 8)
    fusion = RoadFusion(dim, side * side, FusionConfig()).eval()
    state = {
        released_name(FUSION_LEVEL + k, "aux").removeprefix(f"prior.fusion.aux.{level}."): v
        for k, v in units.state("fusion").items()
        if k.split(".")[1] == str(level)
    }
    fusion.load_state_dict(state)
    steps: dict[str, Tensor] = {}
    names = {
        "global_rgb": "global_rgb",
        "global_aux": "global_aux",
        "local_rgb": "local_rgb",
        "local_aux": "local_aux",
        "cross": "cross",
        "detail": "detail",
        "recalibration": "recal",
    }
    for ours, theirs in names.items():
        fusion.get_submodule(ours).register_forward_hook(
            lambda _m, _i, out, key=theirs: steps.__setitem__(key, out)
        )
    fusion.coordinate.register_forward_hook(
        lambda _m, inputs, _o: steps.__setitem__("sum", inputs[0])
    )
    rgb, aux = units[f"fusion.in{level}"].chunk(2, dim=1)
    steps["out"] = fusion(rgb, aux)
    for name in (*names.values(), "sum", "out"):
        close(steps[name], units[f"fusion.{level}.{name}"])


@torch.no_grad()
def test_convnext_block(units: Units) -> None:
    dim = units.facts["convnext_block"]["dim"]
    trunk = ConvNeXtTrunk(TrunkConfig(depths=(1, 1, 1, 1), widths=(dim,) * 4)).eval()
    block = trunk.stages[0].blocks[0]
    prefix = "backbone.spm.twin_conv.stages_x.0.0."
    ours = "prior.trunks.rgb.stages.0.blocks.0."
    block.load_state_dict(
        {
            released_name(prefix + k, "aux").removeprefix(ours): v
            for k, v in units.state("convnext_block").items()
        }
    )
    close(block(units["convnext_block.x"]), units["convnext_block.out"])


@torch.no_grad()
def test_head(units: Units) -> None:
    fact = units.facts["head"]
    head = SegFormerHead(fact["in_channels"], fact["num_classes"], HeadConfig(fact["channels"]))
    head.load_state_dict(
        {
            released_name(f"decode_head.{k}", "aux").removeprefix("head."): v
            for k, v in units.state("head").items()
        }
    )
    head.eval()
    close(head([units[f"head.in{i}"] for i in range(4)]), units["head.out"])


@pytest.mark.parametrize(
    "case",
    [
        "default",
        "minkept50",
        "confident_minkept700",
        "confident_minkept50",
        "all_ignored",
        "single_confident_nan",
        "weighted",
    ],
)
def test_ohem(units: Units, case: str) -> None:
    fact = units.facts[f"ohem_{case}"]
    kwargs = dict(fact["kwargs"])
    if "weight" in kwargs:
        kwargs["weight"] = torch.tensor(kwargs["weight"])
    logits = units[f"ohem_{case}.logits"].requires_grad_()
    loss = OhemCrossEntropy(**kwargs)(logits, units[f"ohem_{case}.labels"])
    expected = units[f"ohem_{case}.loss"].item()
    # where the published loss is NaN (no pixel below the cut) ours is 0 and keeps the graph
    assert loss.item() == pytest.approx(0.0 if math.isnan(expected) else expected, abs=TOLERANCE)
    loss.backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def test_sliding_window(units: Units) -> None:
    fact = units.facts["slide"]
    crop, stride = tuple(fact["crop"]), tuple(fact["stride"])

    image = units["slide.image"].float()
    size = (image.shape[-2], image.shape[-1])

    def fake(window: Window) -> Tensor:
        top, bottom, left, right = window
        column = torch.arange(right - left) / 7
        return image[:, :2, top:bottom, left:right] + column

    found = average_windows(fake, slide_windows(size, crop, stride), size)
    close(found.double(), units["slide.out"])


def test_window_positions(units: Units) -> None:
    cases = units.facts["slide_windows"]
    assert len(cases) == 3
    for text, expected in cases.items():
        # "1080x1920 crop (1024, 1024) stride (640, 640)"
        numbers = [int(n) for n in re.findall(r"\d+", text)]
        size, crop, stride = zip(numbers[::2], numbers[1::2], strict=True)
        assert [list(w) for w in slide_windows(size, crop, stride)] == expected
