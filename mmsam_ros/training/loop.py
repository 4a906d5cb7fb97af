# SPDX-License-Identifier: Apache-2.0
"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmsam_ros.data.check import count_notes
from mmsam_ros.data.open import open_frames
from mmsam_ros.training.checkpoint import CHECKPOINT, Checkpoints
from mmsam_ros.training.config import LossConfig, TrainConfig
from mmsam_ros.training.devices import (
    FabricModule,
    average_scalars,
    is_sharded,
    memory_advice,
    recompute_activations,
    set_up_network,
    start_fabric,
)
from mmsam_ros.training.errors import TrainingError
from mmsam_ros.training.loader import (
    Batch,
    FrameSampler,
    TrainingFrames,
    make_loader,
    worker_advice,
)
from mmsam_ros.training.log import RunLog, watched_parameters
from mmsam_ros.training.losses import OhemCrossEntropy
from mmsam_ros.training.optimiser import lr_factor, parameter_groups
from mmsam_ros.training.run import check_folder, describe, plain
from mmsam_ros.training.start import build, start_line
from mmsam_ros.training.stop import StopSignals
from mmsam_ros.training.validation import Validation


def train(config: TrainConfig, resume: Path | None = None) -> Path:
    """Train a network.

    Args:
        config: the run.
        resume: folder of a run to go on with; one without a checkpoint begins anew.

    Returns:
        The run's folder.

    Raises:
        TrainingError: configuration, folder, checkpoint, machine or data do not fit together, the
            memory is full, or the loss is not finite.
        DataError: a frame cannot be read.
        SystemExit: SIGINT or SIGTERM came; the checkpoint of the step is written.
    """
    fabric = start_fabric(config.device)
    folder = check_folder(config, resume)
    with memory_advice(config), worker_advice():
        _train(fabric, config, folder, resume is not None)
    return folder


def _train(fabric: Fabric, config: TrainConfig, folder: Path, resume: bool) -> None:
    frames, val_frames = (
        open_frames(config.dataset, config.data.root, split, config.sensors, config.data.lists)
        for split in ("train", "val")
    )
    fabric.seed_everything(config.seed, verbose=False)  # the same network in every process
    net, spec = build(config, frames)
    average = _average(fabric, config, net)
    network = set_up_network(fabric, net)
    groups = parameter_groups(net, config)
    optimiser: Any = torch.optim.AdamW(groups, betas=config.optimiser.betas)
    optimiser = fabric.setup_optimizers(optimiser)
    watched = None if is_sharded(fabric) else watched_parameters(net)
    if config.device.checkpointing:
        recompute_activations(net)
    criterion = loss_function(config.loss)
    torch.manual_seed(config.seed + 1 + fabric.global_rank)  # every process has its own drop paths

    parts: dict[str, Any] = {"model": network, "optimiser": optimiser}
    if average is not None:
        parts["average"] = average
    facts = {"world_size": fabric.world_size, "train_frames": len(frames), "config": plain(config)}
    checkpoints = Checkpoints(fabric, folder / CHECKPOINT, parts, facts)
    progress: dict[str, Any] = {"step": 0, "best": -1.0, "unvalidated": False}
    if resume and checkpoints.path.is_file():
        progress = checkpoints.load()
    start, best = progress["step"], progress["best"]

    sampler = FrameSampler(len(frames), config, fabric.global_rank, fabric.world_size, start)
    per_epoch, total = sampler.steps_per_epoch, sampler.steps.stop
    notes = [start_line(config.start), *count_notes(frames), *count_notes(val_frames)]
    batches = make_loader(TrainingFrames(frames, spec, config), sampler)
    fabric.barrier()  # every process has looked into the folder before one writes
    if fabric.is_global_zero:
        describe(folder, config, fabric.world_size)
    missed = progress["unvalidated"]
    log = RunLog(folder, start, total, spec.classes, watched, validated=not missed)
    with log, StopSignals() as stop:
        scored = net if average is None else average.module
        validate = Validation(fabric, config, scored, spec, val_frames, folder, log, stop)
        if missed:
            best = validate(start, start // per_epoch, best)
            checkpoints.save({**progress, "best": best, "unvalidated": False})
        for note in notes:
            log.say(note)
        network.train()
        spent, waited, logged = 0.0, 0.0, start
        for step in sampler.steps:
            epoch = step // per_epoch
            factor = lr_factor(step, per_epoch, config.schedule)
            for group in optimiser.param_groups:
                group["lr"] = config.optimiser.lr * group["scale"] * factor

            began = time.perf_counter()
            micro = [fabric.to_device(next(batches)) for _ in range(sampler.accumulation)]
            waited += time.perf_counter() - began
            optimiser.zero_grad()
            own = accumulate(fabric, network, criterion, micro)
            loss, size, signalled = agree(fabric, own, gradient_size(net), stop)
            if not math.isfinite(loss + size):
                raise not_finite(loss, size, step, epoch, factor * config.optimiser.lr, micro)
            optimiser.step()
            if average is not None:
                average.update(net)
            spent += time.perf_counter() - began

            done, epoch = step + 1, epoch + 1  # from here on counted from 1
            if done % config.log.every == 0:
                steps = done - logged
                log.step(done, epoch, loss, optimiser, spent / steps, waited / steps)
                spent, waited, logged = 0.0, 0.0, done
            ends = done % per_epoch == 0
            due = ends and (epoch % config.log.validate_every == 0 or done == total)
            position = {"epoch": done // per_epoch, "step_in_epoch": done % per_epoch}
            if ends or signalled or done % config.log.checkpoint_every == 0:
                checkpoints.save({"step": done, **position, "best": best, "unvalidated": due})
            if due and not signalled:  # may be stopped or fail: the epoch is saved
                best = validate(done, epoch, best)
                checkpoints.save({"step": done, **position, "best": best, "unvalidated": False})
            if signalled:
                log.say(f"stopped after step {done}; go on with --resume {folder}")
                raise SystemExit(128 + signalled)


def accumulate(
    fabric: Fabric, network: FabricModule, criterion: nn.Module, micro: Sequence[Batch]
) -> Tensor:
    """Forward and backward of one optimiser step.

    Args:
        fabric: that `network` was set up with.
        network: its gradients are added to; they become the mean over `micro` and all processes.
        criterion: logits and labels -> loss, a mean over the batch.
        micro: the step's micro-batches of this process, on its device.

    Returns:
        This process's mean loss, a scalar without graph.
    """
    total = torch.zeros((), device=fabric.device)
    for left, batch in zip(reversed(range(len(micro))), micro, strict=True):
        with fabric.no_backward_sync(network, enabled=left > 0):
            loss = criterion(network(batch.inputs, batch.present), batch.label) / len(micro)
            fabric.backward(loss)
        total += loss.detach()
    average_scalars(fabric, network.module)
    return total


def loss_function(config: LossConfig) -> nn.Module:
    """OHEM, or plain cross-entropy: OHEM with a threshold that every pixel is below."""
    if config.kind == "ce":
        return OhemCrossEntropy(threshold=math.inf, min_kept=0)
    return OhemCrossEntropy(config.threshold, config.min_kept)


def gradient_size(net: nn.Module) -> Tensor:
    """Norm of the gradients that this process holds; a finite loss may have others."""
    held = (p.grad for p in net.parameters() if p.grad is not None)
    own = [g.to_local() if isinstance(g, DTensor) else g for g in held]
    return torch.nn.utils.get_total_norm(own)


def agree(
    fabric: Fabric, loss: Tensor, gradient: Tensor, stop: StopSignals
) -> tuple[float, float, int]:
    """Mean loss and gradient size of all processes, and the signal that any was sent (0: none)."""
    told = torch.zeros(3, fabric.world_size, dtype=torch.float64, device=fabric.device)
    for row, value in zip(told, (loss, gradient, stop.number), strict=True):
        row[fabric.global_rank] = value
    told = fabric.all_reduce(told, reduce_op="sum")  # type: ignore[assignment]
    return float(told[0].mean()), float(told[1].mean()), int(told[2].max())


def not_finite(
    loss: float, gradient: float, step: int, epoch: int, lr: float, micro: Sequence[Batch]
) -> TrainingError:
    """The error of a loss or gradients that are NaN or infinite."""
    names = ", ".join(name for batch in micro for name in batch.names)
    what = f"a gradient is {gradient}, the loss {loss}"
    if not math.isfinite(loss):
        what = f"the loss is {loss}"
    return TrainingError(
        f"{what} at step {step + 1} of epoch {epoch + 1}, learning rate {lr:.3g}, with "
        f"frames {names}; the network was not changed by them, and the last checkpoint is as it "
        "was. Look at these frames (mmsam data check), or try a lower --optimiser.lr, more "
        "--schedule.warmup_epochs, --device.precision fp32"
    )


def _average(fabric: Fabric, config: TrainConfig, net: nn.Module) -> ModelEmaV3 | None:
    """The weights' moving average, if one is kept."""
    if not config.optimiser.ema:
        return None
    if is_sharded(fabric):
        raise TrainingError("optimiser.ema: expected 0 with device.strategy fsdp, found another")
    return ModelEmaV3(net, config.optimiser.ema, device=fabric.device)
