# SPDX-License-Identifier: Apache-2.0
"""One training step: seconds and peak memory, by precision and checkpointing.

    python benchmarks/bench_train.py

On a GPU the published network at 1024x1024; without one `tiny` at its own size. Frames are random:
reading is not measured.
"""

import statistics
import time
from operator import lt

import torch
from results import Row, bar, in_process, peak_gib, run, write

from mmsam_ros.data.open import find_benchmark
from mmsam_ros.inference import tune_allocator
from mmsam_ros.model import build_model
from mmsam_ros.training.config import LossConfig
from mmsam_ros.training.configure import load_config
from mmsam_ros.training.devices import (
    arithmetic,
    recompute_activations,
    set_up_network,
    start_fabric,
)
from mmsam_ros.training.loader import Batch
from mmsam_ros.training.loop import accumulate, loss_function
from mmsam_ros.training.recipe import parameter_groups
from mmsam_ros.training.start import network_of

CARD_GIB = 24.0  # of the paper's GPUs
WARM_UP = 2
CONFIG = "deliver_rgb_lidar"


def report() -> None:
    """Measure every case and write bench_train.json."""
    gpus = torch.cuda.device_count()
    rows = []
    for case in cases(gpus):
        lacks = f"needs {case['devices']} GPUs, found {gpus}"
        enough = case["devices"] <= max(gpus, 1)
        rows.append(in_process(case) if enough else case | {"seconds": None, "reason": lacks})
    peak = rows[0].get("peak_gib") if gpus else None
    reason = rows[0].get("reason", "no GPU on this machine")
    name = "vit_l 1024x1024, float32, checkpointing: fits the paper's 24 GB GPU"
    write("bench_train", rows, [bar(name, peak, "GiB", CARD_GIB, lt, reason)])


def cases(gpus: int) -> list[Row]:
    """What is measured; the last two need several GPUs."""
    preset, batch, repeats = ("vit_l", 1, 10) if gpus else ("tiny", 2, 6)
    single = {"preset": preset, "batch": batch, "repeats": repeats, "devices": 1}
    several = {"preset": "vit_l", "batch": 1, "repeats": 10, "devices": 2}
    variants = [
        (single, "auto", precision, checkpointing)
        for precision in ("fp32", "tf32", "bf16-mixed")
        for checkpointing in (True, False)
    ] + [(several, strategy, "fp32", True) for strategy in ("ddp", "fsdp")]
    return [
        {**base, "strategy": strategy, "precision": precision, "checkpointing": checkpointing}
        for base, strategy, precision, checkpointing in variants
    ]


def measure(case: Row) -> Row:
    """Median seconds and peak memory of a step of one micro-batch."""
    tune_allocator()
    cuda = torch.cuda.is_available()
    device = {key: case[key] for key in ("devices", "strategy", "precision")}
    device["accelerator"] = "cuda" if cuda else "cpu"
    options = [f"--device.{key}={value}" for key, value in device.items()]
    config = load_config(["--config", CONFIG, f"--model.preset={case['preset']}", *options])
    fabric = start_fabric(config.device)
    torch.manual_seed(0)
    deliver = find_benchmark(config.dataset)
    modalities = {sensor: deliver.modalities[sensor] for sensor in config.sensors}
    net = build_model(network_of(config, deliver, deliver.classes, modalities))
    network = set_up_network(fabric, net)
    optimiser = torch.optim.AdamW(parameter_groups(net, config))
    if case["checkpointing"]:
        recompute_activations(net)
    criterion = loss_function(LossConfig())
    height, width = net.config.image_size
    shape = (case["batch"], 3, height, width)
    inputs = {name: torch.randn(shape, device=fabric.device) for name in net.config.modalities}
    labels = torch.randint(net.config.num_classes, (case["batch"], height, width))
    micro = [Batch(inputs, {}, labels.to(fabric.device), ["random"])]
    network.train()
    seconds = []
    with arithmetic(config.device):
        for _ in range(WARM_UP + case["repeats"]):
            began = time.perf_counter()
            optimiser.zero_grad()
            accumulate(fabric, network, criterion, micro)
            optimiser.step()
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    step = statistics.median(seconds[WARM_UP:])
    return {
        "size": f"{height}x{width}",
        "seconds": round(step, 4),
        "frames_per_second": round(case["batch"] * case["devices"] / step, 3),
        "peak_gib": peak_gib(cuda=cuda),
    }


if __name__ == "__main__":
    run(report, measure, __doc__)
