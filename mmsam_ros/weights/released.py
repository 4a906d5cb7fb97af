# SPDX-License-Identifier: Apache-2.0
"""The released MM SAM-adapter's weights under our names; names and shapes of state dicts."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmsam_ros.model import ModelConfig, build_model
from mmsam_ros.weights.errors import WeightsError

State = Mapping[str, Tensor]
Shape = tuple[int, ...]

# Released name -> ours, tried in order; {aux} is the auxiliary's name in the configuration. The
# twin ConvNeXt calls RGB x and the auxiliary y, Road-Fusion calls the auxiliary "sne".
_TWIN, _ROAD = r"backbone\.spm\.twin_conv\.", r"backbone\.spm\.smart_fusion\."
_RELEASED_RULES: list[tuple[str, str]] = [
    (r"backbone\.(pos_embed|patch_embed\..*|blocks\..*)", r"encoder.\1"),
    (r"backbone\.level_embed", "level_embed"),
    (r"backbone\.up\.(.*)", r"up.\1"),
    (r"backbone\.norm([1-4])\.(.*)", r"norms.<\1>.\2"),
    (r"backbone\.spm\.fc([1-4])\.(.*)", r"prior.projections.<\1>.\2"),
    (r"backbone\.interactions\.(.*?)dwconv\.dwconv(.*)", r"interactions.\1dwconv\2"),
    (r"backbone\.interactions\.(.*)", r"interactions.\1"),
    (_TWIN + r"downsample_layers_([xy])\.0\.(.*)", r"prior.trunks.@\1.stem.\2"),
    (_TWIN + r"downsample_layers_([xy])\.(\d)\.(.*)", r"prior.trunks.@\1.stages.\2.downsample.\3"),
    (_TWIN + r"stages_([xy])\.(\d)\.(\d+)\.(.*)", r"prior.trunks.@\1.stages.\2.blocks.\3.\4"),
    (_TWIN + r"norm_([xy])(\d)\.(.*)", r"prior.trunks.@\1.norms.\2.\3"),
    (
        _ROAD + r"(global|local)_feature_encoder_(rgb|sne)\.(\d)\.(.*)",
        r"prior.fusion.{aux}.\3.\1_\2.\4",
    ),
    (_ROAD + r"fuse_blocks\.(\d)\.(.*)", r"prior.fusion.{aux}.\1.cross.\2"),
    (_ROAD + r"detail_feature_extractions\.(\d)\.(.*)", r"prior.fusion.{aux}.\1.detail.\2"),
    (_ROAD + r"enhance_blocks\.(\d)\.conv_atten\.(.*)", r"prior.fusion.{aux}.\1.recalibration.\2"),
    (_ROAD + r"scale_layers\.(\d)\.(scale[12])", r"prior.fusion.{aux}.\1.\2"),
    (_ROAD + r"ca_blocks\.(\d)\.coord_atten\.(.*)", r"prior.fusion.{aux}.\1.coordinate.\2"),
    (r"decode_head\.convs\.(\d)\.(.*)", r"head.levels.\1.\2"),
    (r"decode_head\.fusion_conv\.(.*)", r"head.fuse.\1"),
    (r"decode_head\.conv_seg\.(.*)", r"head.classifier.\1"),
]

# Parts of names that differ below the units.
_RENAMES: list[tuple[str, str]] = [
    (r"_sne\.", "_aux."),
    (r"\.depthwise_conv\.", ".conv_dw."),
    (r"\.pointwise_conv([12])\.", r".mlp.fc\1."),
    (r"\.norm1\.body\.", ".norm."),
    (r"\.attn\.qkv1\.", ".qkv."),
    (r"\.attn\.qkv2\.", ".qkv_conv."),
    (r"(global_\w+)\.attn\.proj\.", r"\1.proj."),
    (r"(global_\w+)\.attn\.scale2$", r"\1.residual_scale"),
    (r"(global_\w+)\.attn\.scale$", r"\1.temperature"),
    (r"\.bottleneckBlock\.0\.", ".expand."),
    (r"\.bottleneckBlock\.2\.", ".depthwise."),
    (r"\.bottleneckBlock\.4\.", ".reduce."),
    (r"\.gammax\.scale$", ".gamma_rgb"),
    (r"\.gammay\.scale$", ".gamma_aux"),
    (r"(fusion\.\w+\.\d)\.scale1$", r"\1.global_scale"),
    (r"(fusion\.\w+\.\d)\.scale2$", r"\1.detail_scale"),
    (r"\.detail\.dwconv\.", ".detail.conv."),
    (r"\.recalibration\.gn\.", ".recalibration.norm."),
    (r"\.coordinate\.conv1\.", ".coordinate.reduce."),
    (r"\.coordinate\.bn1\.", ".coordinate.norm."),
    (r"\.coordinate\.conv_([hw])\.", r".coordinate.gate_\1."),
    (r"(head\.[\w.]+)\.bn\.", r"\1.norm."),
]


def released_name(name: str, auxiliary: str) -> str:
    """Our name of a released key ("backbone.…", "decode_head.…"); WeightsError without a rule."""
    for pattern, replacement in _RELEASED_RULES:
        if match := re.fullmatch(pattern, name):
            ours = match.expand(replacement)
            break
    else:
        raise WeightsError(f"unexpected key {name!r} in a released MM SAM-adapter state")
    ours = re.sub(r"<(\d)>", lambda m: str(int(m[1]) - 1), ours)  # released levels count from 1
    ours = ours.replace("@x", "rgb").replace("@y", auxiliary).replace("{aux}", auxiliary)
    if ours.startswith(("prior.", "head.")):
        for pattern, replacement in _RENAMES:
            ours = re.sub(pattern, replacement, ours)
    return ours


def convert_released(state: State, config: ModelConfig) -> dict[str, Tensor]:
    """The released MM SAM-adapter's state dict under our names, in float32.

    Keys may have `module.` in front. WeightsError lists every key that is missing, unexpected or
    misshapen for the network of `config`.
    """
    if len(config.auxiliaries) != 1:
        raise WeightsError(f"released weights have one auxiliary, found {config.auxiliaries}")
    converted: dict[str, Tensor] = {}
    unexpected = []
    for name, value in state.items():
        try:
            ours = released_name(name.removeprefix("module."), config.auxiliaries[0])
        except WeightsError:
            unexpected.append(name)
            continue
        converted[ours] = value.float() if value.is_floating_point() else value
    check_shapes(converted, expected_shapes(config), what="released state", unexpected=unexpected)
    return converted


def expected_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of a network, without allocating it."""
    with torch.device("meta"):
        model = build_model(config)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def check_state(state: State, config: ModelConfig, *, what: str) -> None:
    """`check_shapes` of a whole network's state."""
    check_shapes(state, expected_shapes(config), what=what)


def check_shapes(
    state: State, expected: Mapping[str, Shape], *, what: str, unexpected: Sequence[str] = ()
) -> None:
    """WeightsError that lists every missing, unexpected (also those given) and misshapen key."""
    found = {name: tuple(value.shape) for name, value in state.items()}
    differences = {
        "missing": [n for n in expected if n not in found],
        "unexpected": [*unexpected, *(n for n in found if n not in expected)],
        "misshapen": [
            f"{n} (found {found[n]}, expected {shape})"
            for n, shape in expected.items()
            if found.get(n, shape) != shape
        ],
    }
    parts = [
        f"{len(names)} {kind}: {', '.join(names)}" for kind, names in differences.items() if names
    ]
    if parts:
        raise WeightsError(f"{what} does not fit the configuration; " + "; ".join(parts))
