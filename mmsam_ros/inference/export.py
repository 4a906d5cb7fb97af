# SPDX-License-Identifier: Apache-2.0
"""The network as an ONNX graph, for one set of present sensors and one size.

Inputs are the normalised images (B, 3, h, w) under the modalities' names, the output is `logits`
(B, classes, h/4, w/4), float32 in every precision.
"""

import importlib
import json
import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsam_ros._util import flush
from mmsam_ros.inference.errors import InferenceError
from mmsam_ros.model import MMSAMAdapter, ModelConfig, prepare
from mmsam_ros.sensors import RGB
from mmsam_ros.weights import Spec

OPSET = 20
PRECISIONS = ("fp32", "fp16")
Names = tuple[str, ...]
_MATRIX_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ENCODER = re.compile(r"'model\.(fallback\.)?encoder\.")  # a scope; a fallback's is the only one
_log = logging.getLogger(__name__)
logging.getLogger("onnx_ir").setLevel(logging.WARNING)  # it logs every tensor


@dataclass(frozen=True)
class Agreement:
    """How well logits agree with those of PyTorch."""

    cosine: float  # of all logits as one vector
    argmax: float  # share of the cells with the same class
    difference: float  # the largest

    @classmethod
    def of(cls, found: Tensor, reference: Tensor) -> Self:
        """Compare logits (B, classes, …)."""
        pair = found.double().cpu(), reference.double().cpu()
        cosine = F.cosine_similarity(pair[0].flatten(), pair[1].flatten(), dim=0)
        same = pair[0].argmax(1) == pair[1].argmax(1)
        return cls(
            float(cosine), float(same.double().mean()), float((pair[0] - pair[1]).abs().max())
        )

    def check(self, what: str, difference: float = float("inf"), argmax: float = 0.999) -> None:
        """InferenceError unless cosine, argmax and difference are good enough."""
        # written so that NaN does not pass
        good = self.cosine >= 0.999 and self.argmax >= argmax and self.difference <= difference
        if not good:
            limit = f" and a difference of at most {difference:g}" if difference < 1 else ""
            raise InferenceError(
                f"{what} does not agree with PyTorch: {self}; expected a cosine of at least 0.999, "
                f"{argmax:.1%} of the argmax{limit}"
            )

    def __str__(self) -> str:
        return (
            f"cosine {self.cosine:.6f}, argmax {self.argmax:.3%}, largest difference "
            f"{self.difference:.2g}"
        )


def subsets(config: ModelConfig) -> list[Names]:
    """The sets of modalities that a frame may have: all of them first, RGB alone last."""
    names = config.auxiliaries
    counts = reversed(range(len(names) + 1))
    return [(RGB, *some) for count in counts for some in combinations(names, count)]


def sample_inputs(names: Sequence[str], shape: Sequence[int]) -> dict[str, Tensor]:
    """Seeded noise (B, 3, h, w) by modality."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(*shape, generator=generator) for name in names}


@torch.no_grad()
def write_onnx(
    model: MMSAMAdapter, names: Names, shape: Sequence[int], path: Path, *,
    precision: str = "fp32", metadata: Mapping[str, str] | None = None, opset: int = OPSET,
) -> Tensor:  # fmt: skip
    """Write a network on the CPU for inputs (B, 3, h, w); above 1.5 GB tensors go to PATH.data.

    The network that is written is prepared for inference; the one it is compared with is not.

    Returns the float32 logits of `sample_inputs`. InferenceError where the exporter is missing.
    """
    optimizer: Any = load_optional("onnxscript.optimizer")
    inputs = sample_inputs(names, shape)
    reference: Tensor = model.eval()(inputs)
    graph = _Graph(prepare(model), names).eval()
    _log.info("exporting the network for %s to ONNX: this takes a minute or more, once",
              " + ".join(names))  # fmt: skip
    program = torch.onnx.export(
        graph, tuple(inputs.values()), dynamo=True, opset_version=opset, verbose=False,
        input_names=list(names), output_names=["logits"], optimize=False,
    )  # fmt: skip
    assert program is not None
    # what `optimize` does without its rewriting rules: they take longer than all else here, and
    # ONNX Runtime, which has its own, is no faster with them
    for simplify in (optimizer.inline, optimizer.fold_constants, optimizer.remove_unused_nodes):
        simplify(program.model)
    if precision == "fp16":
        _halve(program.model)
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces, with the paths of this machine
    program.model.metadata_props.update(metadata or {})
    program.save(path)
    return reference


def export_file(
    model: MMSAMAdapter, spec: Spec, sensors: Sequence[str], path: Path, precision: str = "fp32"
) -> Agreement:
    """Write a network and its spec for the camera and these sensors, checked with ONNX Runtime.

    Raises:
        InferenceError: it does not agree with PyTorch (nothing is written), or a package that the
            export needs is missing.
    """
    runtime = load_optional("onnxruntime")
    names = (RGB, *(sensor for sensor in spec.sensors if sensor in sensors))
    metadata = {key: json.dumps(value) for key, value in spec.to_dict().items()}
    metadata |= {"modalities": json.dumps(names), "precision": precision}
    shape = (1, 3, *spec.geometry.size)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as part:
        made = Path(part, path.name)
        reference = write_onnx(model, names, shape, made, precision=precision, metadata=metadata)
        session = runtime.InferenceSession(made, providers=["CPUExecutionProvider"])
        arrays = {name: image.numpy() for name, image in sample_inputs(names, shape).items()}
        agreement = Agreement.of(torch.from_numpy(session.run(None, arrays)[0]), reference)
        agreement.check(str(path), 1e-3 if precision == "fp32" else float("inf"))
        _publish(made, path)
    return agreement


def _publish(made: Path, path: Path) -> None:
    """Put a graph in its place, and its tensors beside it where they have a file of their own.

    An older graph never names newer tensors, whenever the process ends.
    """
    made_data, data = (file.with_name(f"{file.name}.data") for file in (made, path))
    for file in filter(Path.is_file, (made_data, made)):
        flush(file)
    if made_data.is_file() or data.is_file():  # two files cannot be replaced at once
        path.unlink(missing_ok=True)
        data.unlink(missing_ok=True)
    if made_data.is_file():
        made_data.replace(data)
    made.replace(path)


def load_optional(name: str) -> ModuleType:
    """A module of the extra `onnx`; InferenceError says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        need = "engine onnx and the export need it: pip install onnx onnxruntime onnxscript"
        raise InferenceError(f"{name} cannot be imported ({error}); {need}") from error


class _Graph(nn.Module):
    """Images in the order of `names` -> logits."""

    def __init__(self, model: MMSAMAdapter, names: Names) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *images: Tensor) -> Any:
        return self.model(dict(zip(self.names, images, strict=True)))


def _halve(model: Any) -> None:
    """Layers, and the encoder's attention, in half precision; the rest of a graph stays float32.

    That is: norms and their statistics, every softmax, the fusion's product of both modalities
    (it reaches 1e5, above half precision's range), sampling locations, residual sums, and the
    classifier, whose best classes would tie.
    """
    ir: Any = load_optional("onnxscript").ir
    graph, halves = model.graph, {}
    for node in tuple(graph):
        scope = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
        weights = [v.name for v in node.inputs if v is not None and v.is_initializer()]
        # by name: the classifier's scope is that of the region without autocast, which has none
        layer = weights and not any(".classifier." in name for name in weights)
        wanted = layer or _ENCODER.search(scope)
        if node.op_type not in _MATRIX_OPS or not wanted:
            continue
        for i, value in enumerate(node.inputs):
            if value is None:
                continue
            if value not in halves:
                halves[value] = _half(ir, graph, value, node)
            node.replace_input_with(i, halves[value])
        (out,) = node.outputs
        back = ir.node("Cast", [out], {"to": ir.DataType.FLOAT})
        graph.insert_after(node, back)
        back.outputs[0].shape, back.outputs[0].type = out.shape, out.type
        out.type = ir.TensorType(ir.DataType.FLOAT16)
        for user, i in tuple(out.uses()):
            if user is not back:
                user.replace_input_with(i, back.outputs[0])
    for value in [value for value in graph.initializers.values() if not value.uses()]:
        del graph.initializers[value.name]


def _half(ir: Any, graph: Any, value: Any, node: Any) -> Any:
    """A value in half precision, before `node`."""
    kind = ir.TensorType(ir.DataType.FLOAT16)
    if not value.is_initializer():
        cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT16})
        graph.insert_before(node, cast)
        cast.outputs[0].shape, cast.outputs[0].type = value.shape, kind
        return cast.outputs[0]
    tensor = ir.tensor(value.const_value.numpy().astype("float16"), name=f"{value.name}.half")
    half = ir.Value(name=tensor.name, shape=value.shape, type=kind, const_value=tensor)
    graph.register_initializer(half)
    return half
