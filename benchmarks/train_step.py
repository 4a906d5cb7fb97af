# SPDX-License-Identifier: Apache-2.0
"""One training step: seconds and peak memory, by precision and checkpointing.

    python benchmarks/train_step.py

On a GPU the published network at 1024x1024; without one `tiny` at its own size. Every row is a
process of its own, as memory peaks belong to a process. Frames are random: reading is not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from operator import lt
from typing import Any

from results import bar, write

CARD_GIB = 24.0  # of the paper's cards
WARM_UP = 2


def cases(gpus: int) -> list[dict[str, Any]]:
    """The rows; what needs more GPUs than there are is marked so."""
    preset, batch, repeats = ("vit_l", 1, 10) if gpus else ("tiny", 2, 6)
    single = [
        {"preset": preset, "batch": batch, "repeats": repeats, "devices": 1, "strategy": "auto",
         "precision": precision, "checkpointing": checkpointing}
        for precision in ("32", "bf16-mixed")
        for checkpointing in (True, False)
    ]  # fmt: skip
    several = [
        {"preset": "vit_l", "batch": 1, "repeats": 10, "devices": 2, "strategy": strategy,
         "precision": "32", "checkpointing": True}
        for strategy in ("ddp", "fsdp")
    ]  # fmt: skip
    return [*single, *several]


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds (median) and peak GiB of this process's device, per step of one micro-batch."""
    from mmsam_ros.inference import tune_allocator

    tune_allocator()
    import torch

    from mmsam_ros.model import build_model
    from mmsam_ros.training.config import DeviceConfig, LossConfig
    from mmsam_ros.training.configure import load_config
    from mmsam_ros.training.devices import recompute_activations, set_up_network, start_fabric
    from mmsam_ros.training.loader import Batch
    from mmsam_ros.training.loop import accumulate, loss_function
    from mmsam_ros.training.optimiser import parameter_groups
    from mmsam_ros.weights import setting_config

    cuda = torch.cuda.is_available()
    config = load_config(["--config", "deliver_rgb_lidar", f"--model.preset={case['preset']}"])
    fabric = start_fabric(
        DeviceConfig(
            accelerator="cuda" if cuda else "cpu",
            devices=str(case["devices"]),
            strategy=case["strategy"],
            precision=case["precision"],
        )
    )
    torch.manual_seed(0)
    net = build_model(setting_config("deliver_rgb_lidar", case["preset"]))
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
    for _ in range(WARM_UP + case["repeats"]):
        began = time.perf_counter()
        optimiser.zero_grad()
        accumulate(fabric, network, criterion, micro)
        optimiser.step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    if cuda:
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    step = statistics.median(seconds[WARM_UP:])
    return {
        "size": f"{height}x{width}",
        "seconds": round(step, 4),
        "frames_per_second": round(case["batch"] * case["devices"] / step, 3),
        "peak_gib": round(peak, 2),
    }


def run(case: dict[str, Any], gpus: int) -> dict[str, Any]:
    """The row of a case, measured in a process of its own."""
    if case["devices"] > max(gpus, 1):
        return case | {"seconds": None, "reason": f"needs {case['devices']} GPUs, found {gpus}"}
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        return case | {"seconds": None, "reason": done.stderr.strip().splitlines()[-1]}
    return case | json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure every case and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(json.loads(args.case))))
        return
    import torch

    gpus = torch.cuda.device_count()
    rows = []
    for case in cases(gpus):
        rows.append(run(case, gpus))
        print(rows[-1], flush=True)
    first = rows[0]
    on_card = first["peak_gib"] if first["preset"] == "vit_l" and first["seconds"] else None
    name = "vit_l 1024x1024, float32, checkpointing: fits the paper's 24 GB card"
    print(write("train_step", rows, [
        bar(name, on_card, "GiB", CARD_GIB, lt, reason="no GPU on this machine"),
    ]))  # fmt: skip


if __name__ == "__main__":
    main()
