# SPDX-License-Identifier: Apache-2.0
"""The network rewritten for inference: the same function with fewer and larger operations.

Each rewrite is exact; its docstring has the algebra. New weights are computed in float64.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mmsam_ros.model.convnext import ConvNeXtBlock
from mmsam_ros.model.deformable import DeformableAttention
from mmsam_ros.model.encoder import Block, LoRALinear
from mmsam_ros.model.fusion import RoadFusion
from mmsam_ros.model.network import MMSAMAdapter
from mmsam_ros.model.rewritten import (
    EXACT,
    PLAIN,
    LeanBlock,
    LeanDeformable,
    LeanFusion,
    NormedProduct,
    Operations,
    SplitHead,
    conv_of,
    linear_of,
)


@torch.no_grad()
def prepare(model: MMSAMAdapter, operations: Operations = PLAIN) -> MMSAMAdapter:
    """A copy for inference alone; training needs the given network, and so do weights files.

    Parameters that no rewrite touches are shared with the given network, which stays as it is.
    `operations` are those of PyTorch, or kernels of a device.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    net: MMSAMAdapter = copy.deepcopy(model, shared).eval()
    for name, module in reversed(list(net.named_modules())):  # of a network in training
        if (inner := getattr(module, "_checkpoint_wrapped_module", None)) is not None:
            net.set_submodule(name, inner)
    for network in (net, net.fallback):  # in this order: the first reads the second's weights
        if network is not None:
            join_head(network)
            append_values(network)
    for name, module in list(net.named_modules()):
        if isinstance(module, LoRALinear):
            net.set_submodule(name, merge_lora(module))
    for name, module in list(net.named_modules()):
        if isinstance(module, ConvNeXtBlock):
            merge_layer_scale(module)
        elif isinstance(module, Block):
            net.set_submodule(name, LeanBlock(module, operations))
        elif isinstance(module, DeformableAttention):
            net.set_submodule(name, LeanDeformable(module, operations))
        elif isinstance(module, RoadFusion):
            net.set_submodule(name, LeanFusion(module))
    return net


@torch.no_grad()
def store_halved(net: MMSAMAdapter) -> None:
    """Keep the weights that autocast would cast in bfloat16, in place, so that no pass casts them.

    `net` is a prepared one. What computes in float32 whatever the precision stays as it is.
    """
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            if name.rpartition(".")[2] in EXACT:
                continue
            for key, parameter in list(layer.named_parameters(recurse=False)):
                half = nn.Parameter(parameter.bfloat16(), requires_grad=False)
                layer.register_parameter(key, half)


def merge_lora(layer: LoRALinear) -> nn.Linear:
    """(W + B A) x in the place of W x + B A x."""
    weight, count = layer.weight.to(torch.float64, copy=True), len(layer.ranges)
    pairs = zip(layer.ranges, layer.lora_a.chunk(count), layer.lora_b.chunk(count), strict=True)
    for part, a, b in pairs:
        weight[part] += b.double() @ a.double()
    return linear_of(weight, layer.bias, layer.weight)


def merge_layer_scale(block: Any) -> None:
    """gamma (W x + b) = (gamma W) x + gamma b."""
    layer, gamma = block.mlp.fc2, block.gamma
    block.mlp.fc2 = linear_of(layer.weight * gamma[:, None], layer.bias * gamma, gamma)
    block.gamma = None


def join_head(net: Any) -> None:
    """The maps' norms, and the head's own, become part of the head's convolutions.

    At stride 4, where it costs most, the head's convolution T moves before the sum of what it
    reads: T (P m + U c + up(x)) = (T P) m + (T U) c + up(T x). Bilinear weights sum to one and
    gates are one value a pixel, so both commute with T.
    """
    joined = []
    for norm, level in zip(net.norms, net.head.levels, strict=True):
        (scale, shift), (out_scale, out_shift) = map(_scale_shift, (norm, level.norm))
        weight = out_scale[:, None] * _matrix(level.conv)
        joined.append((weight * scale, weight @ shift + out_shift))
    (weight, bias), *others = joined
    like = net.head.classifier.weight
    if net.up is None:
        net.reads[0] = conv_of(weight, bias, like)
    else:
        net.reads[0] = conv_of(weight, None, like)
        net.prior.projections[0] = _after(weight, net.prior.projections[0])
        net.up = _up_after(weight, bias, net.up)
        if net.fallback is not None:
            first, *rest = net.fallback.prior.projections
            net.camera_projections = nn.ModuleList([_after(weight, first), *rest])
    net.norms = nn.ModuleList(nn.Identity() for _ in net.norms)
    net.head = SplitHead(net.head, [conv_of(*pair, like) for pair in others])


def append_values(net: Any) -> None:
    """The first injector's values come from the projections' narrower input: V (P m) = (V P) m.

    The norm between them divides by what is known of P m alone, see `NormedProduct`. Whatever
    happens to tokens before the injector is linear, so the products are appended to the tokens.
    """
    if net.level_embed is None:
        return
    injector = net.interactions[0].injector
    norm, layer = injector.feat_norm, injector.attn.value_proj
    wide = layer.weight.double() * norm.weight.double()
    weight = torch.cat([torch.eye(wide.shape[1], dtype=wide.dtype, device=wide.device), wide])
    projections = net.prior.projections
    for some in (projections, net.camera_projections):
        for i in range(1, len(some or ())):
            some[i] = _after(weight, some[i])
    embed = net.level_embed
    net.level_embed = nn.Parameter((embed.double() @ weight.T).to(embed.dtype))
    injector.feat_norm, injector.attn.value_proj = NormedProduct(norm, layer), nn.Identity()


def _after(weight: Tensor, conv: Any) -> nn.Conv2d:
    """A 1x1 convolution whose result is multiplied by `weight`, as one convolution."""
    return conv_of(weight @ _matrix(conv), weight @ conv.bias.double(), conv.weight)


def _up_after(weight: Tensor, bias: Tensor, up: Any) -> nn.ConvTranspose2d:
    """A transposed convolution, then `weight` and `bias` on its result, as one."""
    joined = nn.ConvTranspose2d(up.in_channels, len(weight), 2, stride=2, device="meta")
    kernel = torch.einsum("oc,icyx->ioyx", weight, up.weight.double())
    joined.weight = nn.Parameter(kernel.to(up.weight.dtype))
    joined.bias = nn.Parameter((weight @ up.bias.double() + bias).to(up.weight.dtype))
    return joined


def _matrix(conv: Any) -> Tensor:
    return conv.weight.flatten(1).double()


def _scale_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """A batch norm in eval mode as x * scale + shift."""
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale
