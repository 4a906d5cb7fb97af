# SPDX-License-Identifier: Apache-2.0
"""Foreign checkpoints, read safely: SAM and ConvNeXt to start from, the released MM SAM-adapter."""

import hashlib
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmsam_ros._util import first_line
from mmsam_ros.model import MMSAMAdapter, ModelConfig, build_model
from mmsam_ros.model.convnext import ConvNeXtTrunk
from mmsam_ros.model.prior import SpatialPrior
from mmsam_ros.weights.files import State, check_state
from mmsam_ros.weights.spec import WeightsError

SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
SAM_MD5 = {"sam_vit_b": "01ec64", "sam_vit_l": "0b3195", "sam_vit_h": "4b8939"}  # first digits

# What a damaged file makes the unpickler raise.
BROKEN = (
    AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, SystemError,
    TypeError, ValueError, struct.error,
)  # fmt: skip


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a `.safetensors`, `.pth` or `.pt` file, on the CPU.

    Pickles are read with `weights_only=True` and inert numpy types allowed besides. A wrapping
    dictionary ("state_dict", "model", "model_state") is unwrapped. WeightsError where there is no
    such file, it names a class that is not allowed, or there are no tensors inside.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"{path}: not a safetensors file ({error})") from error
    try:
        with torch.serialization.safe_globals(_inert_numpy_types()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = f"refused by the safe unpickler: {first_line(error)}"
        if named := re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", str(error)):
            reason = f"refused: the pickle names the class {named[1]}, which is not a tensor, "
            reason += "plain value or inert numpy type"
        raise WeightsError(f"{path}: {reason}") from error
    except BROKEN as error:
        raise WeightsError(f"{path}: not a PyTorch checkpoint ({error})") from error
    return _unwrap(content, path)


def _inert_numpy_types() -> list[Any]:
    """What mmcv's metadata pickles besides plain values: numpy scalars and arrays, no code."""
    types: list[Any] = [np.ndarray, np.dtype, *(type(np.dtype(code)) for code in "?bBhHiIlLefd")]
    functions: list[Any] = [np.float64().__reduce__()[0], np.zeros(1).__reduce__()[0]]
    for function in functions:
        # numpy 1 and 2 name different modules, whichever reads the file
        for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            types.append((function, f"{module}.{function.__name__}"))
    return types


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model_state", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: holds no state dict, found {type(content).__name__}")
    if strange := [str(k) for k, v in content.items() if not isinstance(v, Tensor)]:
        raise WeightsError(f"{path}: not tensors: {', '.join(strange[:5])}")
    if strange := [str(k) for k, v in content.items() if not _is_plain(v)]:
        raise WeightsError(
            f"{path}: tensors without values of their own (sparse, nested, on no device): "
            f"{', '.join(strange[:5])}; expected dense ones, as state_dict() gives them"
        )
    return {str(k): v for k, v in content.items()}


def _is_plain(tensor: Tensor) -> bool:
    """Whether its values are there, one by one."""
    dense = tensor.layout == torch.strided and not tensor.is_nested
    return dense and tensor.device.type == "cpu"


def load_sam_encoder(model: MMSAMAdapter, source: str | Path) -> None:
    """Load an official SAM checkpoint's image encoder (B, L or H) into the network's encoder.

    The neck, prompt encoder and mask decoder are left out; LoRA's parameters stay as they are.

    Args:
        source: the file (an mmsam weights file will do), or its name (`sam_vit_b`, `sam_vit_l`,
            `sam_vit_h`), which is downloaded once into torch.hub's folder.

    Raises:
        WeightsError: no such file, a download that fails or whose hash is not the published one,
            or lists missing, unexpected and misshapen keys.
    """
    path = _official_sam(str(source)) if str(source) in SAM_MD5 else Path(source)
    state = _below(read_checkpoint(path), "image_encoder.", "fallback.", "encoder.")
    state = {n: v for n, v in state.items() if not n.startswith("neck.")}
    encoder = (model.fallback or model).encoder
    state |= {n: v for n, v in encoder.state_dict().items() if ".lora_" in n}
    _load_part(encoder, state, f"{path}: SAM image encoder")


def _below(state: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """The part below each prefix in turn, without it; a prefix that no name has changes nothing."""
    for prefix in prefixes:
        below = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
        state = below or state
    return state


def _official_sam(name: str) -> Path:
    """The official file of a name, downloaded unless it is there."""
    file = f"{name}_{SAM_MD5[name]}.pth"
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(SAM_URL + file, str(path))
        except OSError as error:
            found = f"{name}: {SAM_URL}{file} cannot be downloaded ({error})"
            raise WeightsError(f"{found}; download it elsewhere and give the file") from error
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "md5").hexdigest()
    if not digest.startswith(SAM_MD5[name]):
        raise WeightsError(f"{path}: MD5 is {digest}, expected {SAM_MD5[name]}…; remove the file")
    return path


def load_convnext(model: MMSAMAdapter, source: str) -> None:
    """Load ConvNeXt weights into every trunk; the output norms stay as they are.

    Args:
        source: a checkpoint file (timm's, the original authors' or mmpretrain's names, or an mmsam
            weights file, whose RGB trunk is taken), or a timm model name, which timm downloads.

    WeightsError lists missing, unexpected and misshapen keys.
    """
    import timm  # with torchvision and torch._dynamo, more than torch itself: not for every node
    from timm.models.convnext import checkpoint_filter_fn

    if not isinstance(model.prior, SpatialPrior):
        raise WeightsError(f"{source}: the network has no ConvNeXt trunk (prior.kind)")
    if Path(source).suffix in {".pth", ".pt", ".safetensors"} or Path(source).is_file():
        state = _below(
            read_checkpoint(source), "fallback.", "prior.trunks.rgb.", "prior.trunks.shared."
        )
        # mmpretrain's names for what the original authors call dwconv and pwconv
        for long, short in (("depthwise_conv", "dwconv"), ("pointwise_conv", "pwconv")):
            state = {n.removeprefix("backbone.").replace(long, short): v for n, v in state.items()}
        if "downsample_layers.0.0.weight" in state:  # the original authors' names
            try:
                state = checkpoint_filter_fn(state, next(iter(model.prior.trunks.values())))
            except KeyError as error:
                raise WeightsError(f"{source}: unexpected key {error}") from error
    else:
        if not timm.is_model(source):
            raise WeightsError(f"{source!r} is neither a file nor a timm model name")
        try:
            state = timm.create_model(source, pretrained=True).state_dict()
        except (RuntimeError, OSError, ValueError) as error:  # no network, no such weights
            raise WeightsError(f"{source}: timm has no weights of it here ({error})") from error
    state = {n: v for n, v in state.items() if n.startswith(("stem.", "stages."))}
    for name, trunk in model.prior.trunks.items():
        assert isinstance(trunk, ConvNeXtTrunk)
        norms = {f"norms.{k}": v for k, v in trunk.norms.state_dict().items()}
        _load_part(trunk, {**state, **norms}, f"{source}: ConvNeXt trunk {name!r}")


def _load_part(module: torch.nn.Module, state: State, what: str) -> None:
    own = module.state_dict()
    # the family's smallest members have 1x1 convolutions for what the others have as linear layers
    state = {
        n: v.flatten(1) if n in own and own[n].ndim == 2 and v.ndim == 4 else v
        for n, v in state.items()
    }
    check_state(state, own, what=what)
    module.load_state_dict(dict(state))


# Released name -> ours, tried in order; {aux} is the auxiliary's name in the configuration. The
# twin ConvNeXt calls RGB x and the auxiliary y, Road-Fusion calls the auxiliary "sne".
_TWIN, _ROAD = r"backbone\.spm\.twin_conv\.", r"backbone\.spm\.smart_fusion\."
_RELEASED_RULES: list[tuple[str, str]] = [
    (r"backbone\.(pos_embed|patch_embed\..*|blocks\..*)", r"encoder.\1"),
    (r"backbone\.(level_embed|up\..*|interactions\..*)", r"\1"),
    (r"backbone\.norm([1-4])\.(.*)", r"norms.<\1>.\2"),
    (r"backbone\.spm\.fc([1-4])\.(.*)", r"prior.projections.<\1>.\2"),
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
    (r"\.dwconv\.dwconv\.", ".dwconv."),
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
        converted[ours] = value
    with torch.device("meta"):
        own = build_model(config).state_dict()
    check_state(converted, own, what="released state", unexpected=unexpected)
    # not before: a view that repeats one value may have any size
    return {n: v.float() if v.is_floating_point() else v for n, v in converted.items()}
