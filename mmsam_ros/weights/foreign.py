# SPDX-License-Identifier: Apache-2.0
"""Reading foreign checkpoint files safely, and start weights for the encoder and the trunks."""

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

from mmsam_ros.model import MMSAMAdapter
from mmsam_ros.model.prior import ConvNeXtTrunk, SpatialPrior
from mmsam_ros.weights.errors import WeightsError
from mmsam_ros.weights.released import check_shapes

SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
SAM_FILES = {  # a name ends in the first digits of the file's MD5
    "sam_vit_b": "sam_vit_b_01ec64.pth",
    "sam_vit_l": "sam_vit_l_0b3195.pth",
    "sam_vit_h": "sam_vit_h_4b8939.pth",
}

# What a damaged file makes the unpickler raise.
_BROKEN = (
    AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, ValueError,
    struct.error,
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
        raise WeightsError(f"{path}: {_refused(error)}") from error
    except _BROKEN as error:
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


def _refused(error: pickle.UnpicklingError) -> str:
    """The reason in one line, with the classes that were refused."""
    if named := re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", str(error)):
        allowed = "a tensor, plain value or inert numpy type"
        return f"refused: the pickle names the class {named[1]}, which is not {allowed}"
    return f"refused by the safe unpickler: {str(error).splitlines()[0]}"


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model_state", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: holds no state dict, found {type(content).__name__}")
    if strange := [str(k) for k, v in content.items() if not isinstance(v, Tensor)]:
        raise WeightsError(f"{path}: not tensors: {', '.join(strange[:5])}")
    return {str(k): v for k, v in content.items()}


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
    path = _official_sam(str(source)) if str(source) in SAM_FILES else Path(source)
    state = read_checkpoint(path)
    for prefix in ("image_encoder.", "encoder."):
        state = _below(prefix, state) or state
    state = {n: v for n, v in state.items() if not n.startswith("neck.")}
    state |= {n: v for n, v in model.encoder.state_dict().items() if ".lora_" in n}
    _load_part(model.encoder, state, f"{path}: SAM image encoder")


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}


def _official_sam(name: str) -> Path:
    """The official file of a name, downloaded unless it is there."""
    file = SAM_FILES[name]
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
    published = path.stem.rsplit("_", 1)[1]
    if not digest.startswith(published):
        raise WeightsError(f"{path}: MD5 is {digest}, expected {published}…; remove the file")
    return path


def load_convnext(model: MMSAMAdapter, source: str) -> None:
    """Load ConvNeXt weights into every trunk; the output norms stay as they are.

    Args:
        source: a checkpoint file (timm's, the original authors' or mmpretrain's names, or an mmsam
            weights file, whose RGB trunk is taken), or a timm model name, which timm downloads.

    WeightsError lists missing, unexpected and misshapen keys.
    """
    if not isinstance(model.prior, SpatialPrior):
        raise WeightsError(f"{source}: the network has no ConvNeXt trunk (prior.kind)")
    if Path(source).suffix in {".pth", ".pt", ".safetensors"} or Path(source).exists():
        from timm.models.convnext import checkpoint_filter_fn

        state = read_checkpoint(source)
        for prefix in ("prior.trunks.rgb.", "prior.trunks.shared."):
            state = _below(prefix, state) or state
        # mmpretrain's names for what the original authors call dwconv and pwconv
        for long, short in (("depthwise_conv", "dwconv"), ("pointwise_conv", "pwconv")):
            state = {n.removeprefix("backbone.").replace(long, short): v for n, v in state.items()}
        if "downsample_layers.0.0.weight" in state:  # the original authors' names
            try:
                state = checkpoint_filter_fn(state, next(iter(model.prior.trunks.values())))
            except KeyError as error:
                raise WeightsError(f"{source}: unexpected key {error}") from error
    else:
        import timm

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


def _load_part(module: torch.nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    own = module.state_dict()
    # the family's smallest members have 1x1 convolutions for what the others have as linear layers
    state = {
        n: v.flatten(1) if n in own and own[n].ndim == 2 and v.ndim == 4 else v
        for n, v in state.items()
    }
    check_shapes(state, {n: tuple(v.shape) for n, v in own.items()}, what=what)
    module.load_state_dict(dict(state))
