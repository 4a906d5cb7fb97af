# SPDX-License-Identifier: Apache-2.0
"""How time and memory grow: camera's size, points, classes, modalities.

    python benchmarks/bench_scale.py

The package's weights on a frame of three sensors, 1280x720, 100,000 points; one of these changes.
For further classes rows of the classifier are repeated, a little changed. The number of modalities
is that of a network with random weights.
"""

import os
import statistics

import torch
from networks import Clock, random_network
from results import Row, in_process, peak_gib, run, write
from scenes import POINTS, Scene

from mmsam_ros.inference import Segmenter, tune_allocator
from mmsam_ros.model import CombineConfig, ModelConfig
from mmsam_ros.weights import default_weights, load_model

SIZE, REPEATS = (720, 1280), 7
AREAS = ((480, 640), (720, 1280), (1080, 1920), (1440, 2560), (2160, 3840))
CLOUDS = (0, 10_000, 100_000, 300_000, 1_000_000)
CLASSES = (14, 25, 50, 100, 150)
AUXILIARIES = ("lidar", "thermal", "event", "depth")


def report() -> None:
    """Write bench_scale.json."""
    cases: list[Row] = [{"what": "area", "size": size} for size in AREAS]
    cases += [{"what": "points", "points": count} for count in CLOUDS]
    cases += [{"what": "classes", "classes": count} for count in CLASSES]
    cases += [{"what": "modalities", "modalities": 1 + n} for n in range(len(AUXILIARIES) + 1)]
    write("bench_scale", [in_process(case) for case in cases], [])


def measure(case: Row) -> Row:
    """Median milliseconds by step, and the process's peak memory."""
    tune_allocator()
    if case["what"] == "modalities":
        found = of_modalities(case["modalities"])
    else:
        found = of_frame(case)
    return found | {"peak_gib": peak_gib(), "load": round(os.getloadavg()[0], 1)}


def of_frame(case: Row) -> Row:
    """The package's network on a frame."""
    model, spec = load_model(default_weights())
    count = case.get("classes", len(spec.classes))
    classifier = model.head.classifier
    rows = torch.arange(count) % classifier.out_channels
    noise = torch.randn(
        count, classifier.in_channels, 1, 1, generator=torch.Generator().manual_seed(0)
    )
    scale = 0.1 * classifier.weight.std() * (torch.arange(count) >= classifier.out_channels)
    classifier.weight = torch.nn.Parameter(
        classifier.weight[rows] + scale[:, None, None, None] * noise
    )
    assert classifier.bias is not None
    classifier.bias = torch.nn.Parameter(classifier.bias[rows])
    height, width = case.get("size", SIZE)
    frame = Scene.of(height, width, case.get("points", POINTS)).frame()
    segmenter = Segmenter(model, spec, "cpu")
    timings = [segmenter(frame, confidence=False).timings for _ in range(REPEATS + 1)][1:]
    return {
        f"{step}_ms": round(statistics.median(t[step] for t in timings), 1) for step in timings[0]
    }


def of_modalities(count: int) -> Row:
    """A network of `tiny`'s size with that many modalities, all present."""
    names = ("rgb", *AUXILIARIES[: count - 1])
    combine = CombineConfig("masked", gate=True) if count > 1 else CombineConfig()
    config = ModelConfig.preset("tiny", num_classes=14, modalities=names, combine=combine)
    engine, inputs = random_network(config, "cpu")
    clock, seconds = Clock("cpu"), []
    for _ in range(REPEATS + 1):
        began = clock.now()
        engine(inputs)
        seconds.append(clock.now() - began)
    parameters = sum(p.numel() for p in engine.model.parameters())
    found = {"network_ms": round(1e3 * statistics.median(seconds[1:]), 1)}
    return found | {"parameters_m": round(parameters / 1e6, 2)}


if __name__ == "__main__":
    run(report, measure, __doc__)
