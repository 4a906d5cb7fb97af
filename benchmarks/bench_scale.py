# SPDX-License-Identifier: Apache-2.0
"""How time and memory grow: camera's size, points, classes, modalities; and a soak of the node.

    python benchmarks/bench_scale.py [--soak MINUTES]

The package's weights on a frame of three sensors, 1280x720, 100,000 points; one of these changes.
For further classes rows of the classifier are repeated, a little changed. The number of modalities
is that of a network with random weights. The soak (results/soak.json) needs ROS 2: frames at 10 Hz.
"""

import argparse
import os
import statistics
import time
from operator import le
from typing import Any

import torch
from networks import Clock, random_network
from results import ROOT, Row, bar, command_line, in_process, peak_gib, run, write
from scenes import POINTS, Scene

from mmsam_ros.inference import Segmenter, tune_allocator
from mmsam_ros.model import CombineConfig, ModelConfig
from mmsam_ros.weights import default_weights, load_model

SIZE, REPEATS = (720, 1280), 7
AREAS = ((480, 640), (720, 1280), (1080, 1920), (1440, 2560), (2160, 3840))
CLOUDS = (0, 10_000, 100_000, 300_000, 1_000_000)
CLASSES = (14, 25, 50, 100, 150)
AUXILIARIES = ("lidar", "thermal", "event", "depth")
SOAK_HZ, GROWTH_MIB = 10, 20.0


def report(args: argparse.Namespace) -> None:
    """Write benchmarks/results/bench_scale.json, or soak.json."""
    if args.soak:
        soak(args.soak)
        return
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


def soak(minutes: float) -> None:
    """The node at 10 Hz: a row for each minute."""
    from node_rig import Rig

    rows: list[Row] = []
    began: Any = time.monotonic()
    with Rig(ROOT, 3, SIZE, "auto") as rig:
        while time.monotonic() < began + 60 * minutes or not rows:
            frames = SOAK_HZ * round(60 * min(1.0, minutes))
            rows.append({"minute": len(rows) + 1} | rig.drive(SOAK_HZ, frames))
            print(rows[-1], flush=True)
    growth = rows[-1]["pss_mib"] - rows[0]["pss_mib"] if len(rows) > 1 else None
    name = f"memory after {len(rows)} minutes, over the first one's"
    write("soak", rows, [bar(name, growth, "MiB", GROWTH_MIB, le, "one minute alone")])


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="drive the node instead")
    run(report, measure, __doc__, parser)
