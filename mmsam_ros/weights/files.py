# SPDX-License-Identifier: Apache-2.0
"""The weights file: one `.safetensors` whose metadata holds the spec as JSON strings."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmsam_ros._util import MmsamError, atomic_path
from mmsam_ros.model import MMSAMAdapter, build_model
from mmsam_ros.weights.legacy import ADDED, upgrade
from mmsam_ros.weights.registry import weights_file
from mmsam_ros.weights.spec import FORMAT, KEYS, Spec, WeightsError

State = Mapping[str, Tensor]
_COUNTER = "num_batches_tracked"
_FALLBACK, _SHARED = "fallback.", "shared"  # prefix of its tensors; key of the metadata
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def save_model(path: str | Path, model: MMSAMAdapter, spec: Spec) -> None:
    """Write weights and spec, atomically: the file is whole or not there.

    Raises:
        WeightsError: the model is not the one that the spec describes, or `load_model` would refuse
            the spec, or the file cannot be written.
    """
    path = Path(path)
    if model.config != spec.config:
        raise WeightsError(f"{path}: the spec's configuration is not the model's")
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    _write(path, state, spec)


def save_spec(path: str | Path, spec: Spec) -> None:
    """Write another spec into a weights file, atomically; its tensors stay bit for bit.

    Raises:
        WeightsError: as `read_spec`, or the spec is one of another network.
    """
    path = weights_file(path)
    with _opened(path) as file:
        if _spec(path, file).config != spec.config:
            raise WeightsError(f"{path}: the spec's configuration is not the file's")
        state = _tensors(path, file)
    _write(path, state, spec)


def _write(path: Path, state: State, spec: Spec) -> None:
    # what still equals the fallback's is stored once, and named so that nothing else may be missing
    shared = [n for n in state if _FALLBACK + n in state]
    shared = [n for n in shared if torch.equal(state[n], state[_FALLBACK + n])]
    values = {"format": FORMAT, **spec.to_dict()} | ({_SHARED: shared} if shared else {})
    metadata = {key: json.dumps(value) for key, value in values.items()}
    try:
        Spec.from_dict({key: json.loads(metadata[key]) for key in KEYS})
    except MmsamError as error:
        raise WeightsError(f"{path}: {error}") from error
    try:
        with atomic_path(path) as part:
            save_file({n: v for n, v in state.items() if n not in shared}, part, metadata)
            part.chmod(0o644)
    except SafetensorError as error:  # such as a full disk
        raise WeightsError(f"{path}: cannot be written ({error})") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file, opened once: another that takes its place meanwhile has another spec."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file ({error})") from error


def _tensors(path: Path, file: Any) -> dict[str, Tensor]:
    """The tensors, with those that are stored once.

    They are copies: safetensors' own lie in the file, and would change with it, or end the process
    where it becomes shorter (`cp` onto the weights of a running node).
    """
    names = file.keys()
    state = {name: file.get_tensor(name).clone() for name in names}
    text = (file.metadata() or {}).get(_SHARED, "[]")
    try:
        shared = [str(name) for name in json.loads(text)]
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path}: metadata key {_SHARED!r} is no list ({error})") from error
    if twice := [name for name in shared if name in state]:
        found = f"metadata key {_SHARED!r} names {', '.join(twice)}"
        raise WeightsError(f"{path}: {found}, expected what is not stored itself")
    return state | {n: state[_FALLBACK + n].clone() for n in shared if _FALLBACK + n in state}


def read_spec(path: str | Path) -> Spec:
    """The spec of a weights file (a path, or a name of the registry), validated; the tensors are
    not read.

    Raises:
        WeightsError: not such a file, or a key is missing, unknown or out of range.
    """
    path = weights_file(path)
    with _opened(path) as file:
        return _spec(path, file)


def _spec(path: Path, file: Any) -> Spec:
    metadata = file.metadata() or {}
    values: dict[str, Any] = {}
    for key in ("format", *KEYS):
        if key not in metadata:
            if key in ADDED:
                continue
            raise WeightsError(f"{path}: metadata key {key!r} is missing; not an {FORMAT} file")
        try:
            values[key] = json.loads(metadata[key])
        except (ValueError, RecursionError) as error:  # ValueError: also a number of 5,000 digits
            raise WeightsError(f"{path}: metadata key {key!r} is not JSON ({error})") from error
    if values.pop("format") != FORMAT:
        raise WeightsError(f"{path}: format is {metadata['format']}, expected {FORMAT!r}")
    try:
        return Spec.from_dict(upgrade(values))
    except MmsamError as error:
        raise WeightsError(f"{path}: {error}") from error


def load_model(path: str | Path) -> tuple[MMSAMAdapter, Spec]:
    """Network (eval mode, float32, on the CPU) and spec of a weights file (a path, or a name of the
    registry).

    Raises:
        WeightsError: as `read_spec`, or tensors that do not fit the configuration (all listed) or
            hold what no training ends with: NaN, infinity, a negative variance.
    """
    path = weights_file(path)
    with _opened(path) as file:
        spec, state = _spec(path, file), _tensors(path, file)
    with torch.device("meta"):
        model = build_model(spec.config)
    check_state(state, model.state_dict(), what=str(path))
    # weights may be stored in half precision, counters as floats
    state = {n: v.long() if n.endswith(_COUNTER) else v.float() for n, v in state.items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval(), spec


def check_state(state: State, own: State, *, what: str, unexpected: Sequence[str] = ()) -> None:
    """WeightsError that lists every key of `state` that is missing, unexpected (also those given)
    or misshapen for a network or part whose own state dict is `own`; or names one that holds what
    no training ends with.
    """
    differences = {
        "missing": [n for n in own if n not in state],
        "unexpected": [*unexpected, *(n for n in state if n not in own)],
        "misshapen": [
            f"{n} (found {tuple(state[n].shape)}, expected {tuple(value.shape)})"
            for n, value in own.items()
            if n in state and state[n].shape != value.shape
        ],
    }
    parts = [f"{len(keys)} {kind}: {', '.join(keys)}" for kind, keys in differences.items() if keys]
    if parts:
        raise WeightsError(f"{what} does not fit the configuration; " + "; ".join(parts))
    for name, value in state.items():
        if not (value.dtype in _FLOATS or name.endswith(_COUNTER)):
            raise WeightsError(
                f"{what}: {name} is {value.dtype}, expected a floating type of 16 to 64 bits"
            )
        if not bool(value.float().isfinite().all()):
            raise WeightsError(f"{what}: {name} has values that are not finite")
        if name.endswith("running_var") and bool((value < 0).any()):
            raise WeightsError(f"{what}: {name} has values below 0, expected a variance")
