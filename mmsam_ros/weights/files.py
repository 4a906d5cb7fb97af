# SPDX-License-Identifier: Apache-2.0
"""The weights file: one `.safetensors` whose metadata holds the spec as JSON strings."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmsam_ros._util import MmsamError, atomic_path
from mmsam_ros.model import MMSAMAdapter, build_model
from mmsam_ros.weights.errors import WeightsError
from mmsam_ros.weights.legacy import upgrade
from mmsam_ros.weights.released import check_state
from mmsam_ros.weights.spec import FORMAT, KEYS, Spec

_COUNTER = "num_batches_tracked"


def save_model(path: str | Path, model: MMSAMAdapter, spec: Spec) -> None:
    """Write weights and spec, atomically: the file is whole or not there.

    Raises:
        WeightsError: the model is not the one that the spec describes, or `load_model` would refuse
            the spec.
    """
    path = Path(path)
    if model.config != spec.config:
        raise WeightsError(f"{path}: the spec's configuration is not the model's")
    metadata = {"format": json.dumps(FORMAT)}
    metadata |= {key: json.dumps(value) for key, value in spec.to_dict().items()}
    try:
        Spec.from_dict({key: json.loads(metadata[key]) for key in KEYS})
    except MmsamError as error:
        raise WeightsError(f"{path}: {error}") from error
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_path(path) as part:
        save_file(state, part, metadata)
        part.chmod(0o644)


def read_spec(path: str | Path) -> Spec:
    """The spec of a weights file, validated; the tensors are not read.

    Raises:
        WeightsError: not such a file, or a key is missing, unknown or out of range.
    """
    path = Path(path)
    metadata = _metadata(path)
    values: dict[str, Any] = {}
    for key in ("format", *KEYS):
        if key not in metadata:
            raise WeightsError(f"{path}: metadata key {key!r} is missing; not an {FORMAT} file")
        try:
            values[key] = json.loads(metadata[key])
        except json.JSONDecodeError as error:
            raise WeightsError(f"{path}: metadata key {key!r} is not JSON ({error})") from error
    if values.pop("format") != FORMAT:
        raise WeightsError(f"{path}: format is {metadata['format']}, expected {FORMAT!r}")
    try:
        return Spec.from_dict(upgrade(values))
    except MmsamError as error:
        raise WeightsError(f"{path}: {error}") from error


def load_model(path: str | Path) -> tuple[MMSAMAdapter, Spec]:
    """Network (eval mode, float32, on the CPU) and spec of a weights file.

    Raises:
        WeightsError: as `read_spec`, or tensors that do not fit the configuration (all listed) or
            hold what no training ends with: NaN, infinity, a negative variance.
    """
    path = Path(path)
    spec = read_spec(path)
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    check_state(state, spec.config, what=str(path))
    _check_values(path, state)
    with torch.device("meta"):
        model = build_model(spec.config)
    # weights may be stored in half precision, counters as floats
    state = {n: v.long() if n.endswith(_COUNTER) else v.float() for n, v in state.items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval(), spec


def _check_values(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    for name, value in state.items():
        if not (value.is_floating_point() or name.endswith(_COUNTER)):
            raise WeightsError(f"{path}: {name} is {value.dtype}, expected a floating type")
        if not bool(value.float().isfinite().all()):
            raise WeightsError(f"{path}: {name} has values that are not finite")
        if name.endswith("running_var") and bool((value < 0).any()):
            raise WeightsError(f"{path}: {name} has values below 0, expected a variance")


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file ({error})") from error
