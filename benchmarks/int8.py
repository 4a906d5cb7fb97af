# SPDX-License-Identifier: Apache-2.0
"""int8 beside float32 in ONNX Runtime on a CPU: mIoU on real and synthetic frames, and time.

    python benchmarks/int8.py --roads out/roads --synthetic out/synthetic

The network is exported for the set's sensors and quantised statically (weights by channel,
activations as uint8), calibrated on frames of the training split. Forward passes take turns.
`examples/real_roads.py` makes out/roads.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from operator import ge
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from results import ROOT, Row, bar, command_line, write
from road import SETS, opened
from torch import Tensor

from mmsam_ros.inference.export import write_onnx
from mmsam_ros.training.evaluate import Evaluation
from mmsam_ros.weights import load_model

CALIBRATED, TURNS = 6, 21  # frames, and forward passes of each way
WAYS = {
    "range by minimum and maximum": (CalibrationMethod.MinMax, {}),
    "range by percentile 99.99": (CalibrationMethod.Percentile, {"CalibPercentile": 99.99}),
}
# weights, set, split to calibrate on, split to score, sensors besides the camera
CASES = (
    ("tiny_road", "CamVid 0001TP", "train", "val", ()),
    ("tiny_road", "IDD", "train", "val", ()),
    ("tiny_road", "synthetic", "train", "test", ("lidar", "thermal")),
    ("tiny_synthetic", "synthetic", "train", "test", ("lidar", "thermal")),
)


class Session:
    """An engine of one file, for one set of modalities."""

    name = "onnx file"
    device = torch.device("cpu")

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """See `Engine`."""
        (logits,) = self._session.run(["logits"], {n: x.numpy() for n, x in inputs.items()})
        return torch.from_numpy(logits)


class Recorder(CalibrationDataReader):
    """An engine that keeps its inputs, which the quantiser then reads."""

    name = "recorder"
    device = torch.device("cpu")

    def __init__(self, engine: Any) -> None:
        self._engine, self.inputs, self._next = engine, list[dict[str, Tensor]](), 0

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """See `Engine`."""
        self.inputs.append(dict(inputs))
        logits: Tensor = self._engine(inputs)
        return logits

    def get_next(self) -> dict[str, Any] | None:
        """The next frame's inputs."""
        if self._next == len(self.inputs):
            return None
        self._next += 1
        return {name: image.numpy() for name, image in self.inputs[self._next - 1].items()}

    def rewind(self) -> None:
        """From the first frame again."""
        self._next = 0


def score(evaluation: Evaluation, engine: Any) -> float:
    """mIoU in percent with an engine."""
    evaluation.predict = replace(evaluation.predict, engine=engine)
    return round(evaluation.run().scores(evaluation.names)["all"].miou, 2)


def measure(weights: Path, name: str, root: Path, splits: tuple[str, str], sensors: Any) -> Row:
    """Scores and median milliseconds of float32 and of every way to quantise."""
    calibration = opened(weights, root, splits[0], sensors)
    recorder = Recorder(calibration.predict.engine)
    calibration.predict = replace(calibration.predict, engine=recorder)
    step = max(1, len(calibration.frames) // CALIBRATED)
    for index in range(0, step * CALIBRATED, step):
        calibration.predict(calibration.frames[index])
    model, spec = load_model(weights)
    modalities = tuple(name for name in spec.config.modalities if name in recorder.inputs[0])
    with tempfile.TemporaryDirectory() as folder:
        plain, ready = Path(folder, "fp32.onnx"), Path(folder, "ready.onnx")
        write_onnx(model.eval(), modalities, tuple(recorder.inputs[0]["rgb"].shape), plain)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)  # shapes are static
        ways: dict[str, Any] = {"float32": Session(plain)}
        for way, (method, extra) in WAYS.items():
            if method == CalibrationMethod.Percentile and sensors:
                continue  # its histograms hold all activations at once
            recorder.rewind()
            path = Path(folder, f"{len(ways)}.onnx")
            quantize_static(
                ready, path, recorder, quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                calibrate_method=method, extra_options=extra,
            )  # fmt: skip
            ways[way] = Session(path)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(TURNS + 1):  # the first one warms up
        for way, session in ways.items():
            began = time.perf_counter()
            session(recorder.inputs[turn % len(recorder.inputs)])
            if turn:
                seconds[way].append(time.perf_counter() - began)
    evaluation = opened(weights, root, splits[1], sensors)
    return {
        "weights": weights.name,
        "set": name,
        "sensors": "+".join(("camera", *sensors)),
        "frames": len(evaluation.frames),
        "threads": torch.get_num_threads(),
        "ms": {way: round(1e3 * statistics.median(times), 1) for way, times in seconds.items()},
        "miou": {way: score(evaluation, session) for way, session in ways.items()},
    }


def others(values: Mapping[str, float]) -> list[float]:
    """Of the ways to quantise."""
    return [value for way, value in values.items() if way != "float32"]


def report(args: argparse.Namespace) -> None:
    """All cases, to benchmarks/results/int8.json."""
    rows = []
    for weights, name, learn, test, sensors in CASES:
        root = args.synthetic if name == "synthetic" else args.roads / SETS[name][0]
        path = ROOT / f"models/{weights}.safetensors"
        rows.append(measure(path, name, root, (learn, test), sensors))
        print(rows[-1], flush=True)
    kept = [max(others(row["miou"])) / row["miou"]["float32"] for row in rows]
    gained = [row["ms"]["float32"] / min(others(row["ms"])) for row in rows]
    write("int8", rows, [
        bar("int8: least share of float32's mIoU", round(min(kept), 4), "", 0.99, ge),
        bar("int8: least gain over float32", round(min(gained), 2), "x", 1.0, ge),
    ])  # fmt: skip


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--roads", type=Path, required=True, help="of examples/real_roads.py")
    parser.add_argument("--synthetic", type=Path, required=True, help="of mmsam synth folder")
    report(parser.parse_args())
