# SPDX-License-Identifier: Apache-2.0
"""The training loop."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from lightning.fabric import Fabric
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from mmsam_ros.data.check import count_notes
from mmsam_ros.data.frames import FrameSet
from mmsam_ros.data.meanings import Scoring
from mmsam_ros.data.open import check_apart
from mmsam_ros.inference import InferenceError, TorchEngine
from mmsam_ros.model import MMSAMAdapter
from mmsam_ros.training import devices, run
from mmsam_ros.training.config import TrainConfig, TrainingError
from mmsam_ros.training.evaluate import FrameResult, Predictor, evaluate_frames
from mmsam_ros.training.fallback import FallbackLoss
from mmsam_ros.training.loader import Batch, FrameSampler, TrainingFrames, make_loader
from mmsam_ros.training.log import Plan, RunLog, watched_parameters
from mmsam_ros.training.metrics import ALL, Scores
from mmsam_ros.training.recipe import loss_function, lr_factor, parameter_groups
from mmsam_ros.training.start import as_measured, build, open_mix, open_split, start_line
from mmsam_ros.weights import Presence, Score, save_model

BEST, LAST = "best.safetensors", "last.safetensors"


def train(config: TrainConfig, resume: Path | None = None) -> Path:
    """Train a network; returns the run directory.

    `resume` is the directory of a run to resume; one without a checkpoint starts over.

    Raises:
        TrainingError: configuration, directory, checkpoint, machine or data do not fit together,
            the memory is full, or the loss is not finite.
        DataError: a frame cannot be read.
        SystemExit: SIGINT, SIGTERM or SIGHUP came; the checkpoint of the step is written.
    """
    fabric = devices.start_fabric(config.device)
    directory = run.run_directory(config, resume)
    with devices.arithmetic(config.device), devices.memory_advice(config):
        Trainer(fabric, config, directory, resume is not None).fit()
    return directory


class Trainer:
    """A run on Fabric's processes: set up once, then step after step, and validated in between."""

    def __init__(self, fabric: Fabric, config: TrainConfig, directory: Path, resume: bool) -> None:
        self.fabric, self.config, self.directory = fabric, config, directory
        frames, self.val_frames = open_split(config, "train"), open_split(config, "val")
        others, self.val_others = open_mix(config, "train"), open_mix(config, "val")
        check_apart([frames, *others.values()], [self.val_frames, *self.val_others.values()])

        # the network and its optimiser
        fabric.seed_everything(config.seed, verbose=False)  # the same network in every process
        self.net, self.spec = build(config, frames, [*others.values()])
        if (ema := config.optimiser.ema) and devices.is_sharded(fabric):
            raise TrainingError(f"optimiser.ema: found {ema}, expected 0 with device.strategy fsdp")
        self.average = ModelEmaV3(self.net, ema, device=fabric.device) if ema else None
        self.network = devices.set_up_network(fabric, self.net)
        groups = parameter_groups(self.net, config)
        optimiser = torch.optim.AdamW(groups, betas=config.optimiser.betas)
        self.optimiser: Any = fabric.setup_optimizers(optimiser)
        watched = None if devices.is_sharded(fabric) else watched_parameters(self.net)
        if config.device.checkpointing:
            devices.recompute_activations(self.net)
        dataset = TrainingFrames(frames, self.spec, config, tuple(others.values()))
        own, loss = loss_function(config.loss, dataset.codes.sets), config.loss
        with_fallback = loss.gate > 0 or loss.keep > 0
        criterion = FallbackLoss(own, self.net, loss.gate, loss.keep) if with_fallback else own
        self.criterion = criterion.to(fabric.device)
        torch.manual_seed(config.seed + 1 + fabric.global_rank)  # of a process's own drop paths

        # where the run is, and the batches from there
        world, path = fabric.world_size, directory / run.CHECKPOINT
        counts = {"train_frames": len(frames), "mix_frames": {n: len(x) for n, x in others.items()}}
        same = {"world_size": world, **counts, "config": run.plain(config)}
        self.checkpoints = run.Checkpoints(fabric, path, self.net, optimiser, self.average, same)
        self.progress = self.checkpoints.load() if resume and path.is_file() else run.Progress()
        start = self.progress.step
        rank, more = fabric.global_rank, [len(part) for part in others.values()]
        self.sampler = FrameSampler(len(frames), config, rank, world, start, more)
        self.batches = make_loader(dataset, self.sampler)

        # the run directory
        fabric.barrier()  # every process has looked into it before one writes
        if fabric.is_global_zero:
            run.describe(directory, config, world)
        self.validations = validation_steps(config, self.sampler)
        scored = sum(map(len, (self.val_frames, *self.val_others.values())))
        validated, sizes = not self.progress.unvalidated, (config.batch.effective, scored)
        plan = Plan(self.sampler.steps, self.validations, validated, sizes)
        self.log = RunLog(directory, plan, config.log.every, watched)
        self.stop = run.StopSignals()
        notes = [*devices.departures(fabric, config), *filter(None, [frames.rasters])]
        notes += [*count_notes(frames), *count_notes(self.val_frames)]
        resumed = [f"resumed after step {start} of {self.sampler.steps.stop}"] if start else []
        for note in (start_line(config.start), *notes, *resumed):
            self.log.say(note)

    def fit(self) -> None:
        """Every step that is left: read, step, log, and what is due after it."""
        with self.log, self.stop:
            if self.progress.unvalidated:
                self.validate()
            self.network.train()
            for step in self.sampler.steps:
                if self.stops_early():
                    break
                began = time.perf_counter()
                read = (next(self.batches) for _ in range(self.sampler.accumulation))
                micro = [self.fabric.to_device(batch) for batch in read]
                waited = time.perf_counter() - began
                loss = self.step(step, micro)
                spent = time.perf_counter() - began
                epoch = step // self.sampler.steps_per_epoch + 1
                self.log.step(step + 1, epoch, loss, self.optimiser, spent, waited)
                self.after_step(step + 1)

    def step(self, step: int, micro: Sequence[Batch]) -> float:
        """One optimiser step, counted from 0, on this process's micro-batches; the mean loss."""
        per_epoch, base = self.sampler.steps_per_epoch, self.config.optimiser.lr
        factor = lr_factor(step, per_epoch, self.config.schedule)
        for group in self.optimiser.param_groups:
            group["lr"] = base * group["scale"] * factor
        self.optimiser.zero_grad()
        own = accumulate(self.fabric, self.network, self.criterion, micro)
        loss, size = mean_over_processes(self.fabric, own, gradient_size(self.net))
        if not math.isfinite(loss + size):
            raise not_finite(loss, size, step, step // per_epoch, factor * base, micro)
        if limit := self.config.optimiser.clip_grad_norm:
            clip_gradients(self.fabric, self.net, limit)
        self.optimiser.step()
        if self.average is not None:
            self.average.update(self.net)
        return loss

    def after_step(self, done: int) -> None:
        """Checkpoint, validate and stop: what is due when so many steps are `done`."""
        signalled = any_signal(self.fabric, self.stop)
        due = done in self.validations
        self.progress = dataclasses.replace(self.progress, step=done, unvalidated=due)
        epoch_ends = done % self.sampler.steps_per_epoch == 0
        if epoch_ends or signalled or done % self.config.log.checkpoint_every == 0:
            self.checkpoints.save(self.progress)
        if signalled:
            self.log.say(f"stopped after step {done}; resume with --resume {self.directory}")
            raise SystemExit(128 + signalled)
        if due:
            self.validate()

    def validate(self) -> None:
        """Score the network, or its moving average, and write last.safetensors and the best one, by
        the mean over the data sets that have a split `val`.

        A signal ends it (SystemExit); the checkpoint tells a resumed run to begin with it.
        """
        scored = self.net if self.average is None else self.average.module
        net = devices.whole_network(self.fabric, scored).eval()
        before, step = self.progress, self.progress.step
        epoch = step // self.sampler.steps_per_epoch
        parts = (self.val_frames, *self.val_others.values())
        done, count = itertools.count(1), sum(len(devices.own_share(len(part))) for part in parts)
        self.log.frame(0, count)

        def after_frame() -> None:
            self.log.frame(next(done), count)

        scores, *rest = (self._scores(net, step, part, after_frame) for part in parts)
        of_others = dict(zip(self.val_others, rest, strict=True))
        scored.train()
        self.log.validation(step, epoch, scores, of_others)
        own, subsets = scores[ALL].miou, self.spec.presence.trained_subsets
        miou = fmean([own, *(some[ALL].miou for some in of_others.values())])
        score = Score(own, f"{self.val_frames.dataset} {self.val_frames.split}")
        presence = Presence(subsets, {"+".join(subsets[0]): score})
        spec = dataclasses.replace(self.spec, presence=presence)
        self.progress = before.validated(miou, epoch, self.config.log.keep_best)
        if self.fabric.is_global_zero:
            names = [LAST, *([BEST] if miou > before.best else [])]
            old, new = set(before.kept), set(self.progress.kept)
            for name in (*names, *(run.best_file(epoch) for _, epoch in new - old)):
                save_model(self.directory / name, net, spec)
            for _, other in old - new:
                (self.directory / run.best_file(other)).unlink(missing_ok=True)
        self.checkpoints.save(self.progress)

    def stops_early(self) -> bool:
        """Whether as many validations as `schedule.patience` have brought no better mIoU."""
        patience, progress = self.config.schedule.patience, self.progress
        if not 0 < patience <= progress.worse:
            return False
        self.log.say(
            f"stopped early: the last {progress.worse} validations are not better than "
            f"{progress.best:.2f}"
        )
        return True

    def _scores(
        self, net: MMSAMAdapter, step: int, frames: FrameSet, after_frame: Callable[[], None]
    ) -> dict[str, Scores]:
        """Scores by subset of a data set's validation frames."""
        fabric, own = self.fabric, devices.own_share(len(frames))
        pictured = {frames.records[i].name for i in own[: self.config.log.pictures]}

        def on_frame(result: FrameResult) -> None:
            after_frame()
            if (name := result.item.record.name) in pictured:
                self.log.picture(step, name, result.pictures(frames, self.spec))

        engine = TorchEngine(net, fabric.device, self.config.device.inference)
        predictor = Predictor.of(engine, as_measured(self.spec, frames), frames.dataset)
        workers = self.config.data.workers
        try:
            matrices = evaluate_frames(
                predictor, frames, own, on_frame, workers, lambda: bool(self.stop.number)
            )
        except InferenceError as error:
            raise TrainingError(
                f"validation after step {step}: {error}; try a lower --optimiser.lr, or "
                "--device.precision fp32"
            ) from error
        if number := any_signal(fabric, self.stop):
            self.log.say(f"stopped while validating; resume with --resume {self.directory}")
            raise SystemExit(128 + number)
        return matrices.scores(Scoring.of(frames, self.spec.classes).names)


def accumulate(
    fabric: Fabric, network: devices.FabricModule, criterion: nn.Module, micro: Sequence[Batch]
) -> Tensor:
    """Forward and backward of one optimiser step; returns this process's mean loss, without graph.

    Adds the gradient of the mean over the micro-batches of all processes, of which `micro` are this
    one's. `criterion` takes logits and labels and gives a mean over its batch.
    """
    total = torch.zeros((), device=fabric.device)
    for left, batch in zip(reversed(range(len(micro))), micro, strict=True):
        with fabric.no_backward_sync(network, enabled=left > 0):
            loss = criterion(network(batch.inputs, batch.present), batch.label) / len(micro)
            fabric.backward(loss)
        total += loss.detach()
    devices.average_scalars(fabric, network.module)
    return total


def clip_gradients(fabric: Fabric, net: nn.Module, limit: float) -> None:
    """Scale all gradients so that their norm, over all processes, is at most `limit`.

    With FSDP each process takes its own parts: DTensor would plan for every gradient of the list.
    """
    held = [p.grad for p in net.parameters() if p.grad is not None]
    parts: list[Any] = [grad.to_local() for grad in held if isinstance(grad, DTensor)]
    whole = [grad for grad in held if not isinstance(grad, DTensor)]
    squares = get_total_norm(whole).square()
    if parts:
        sharded: Any = fabric.all_reduce(get_total_norm(parts).square(), reduce_op="sum")
        squares = squares + sharded
    factor = (limit / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([*parts, *whole], factor)


def validation_steps(config: TrainConfig, sampler: FrameSampler) -> list[int]:
    """Numbers of steps after which the network is validated; the last one always is."""
    per_epoch, total = sampler.steps_per_epoch, sampler.steps.stop
    every = config.log.validate_every * per_epoch
    return sorted({*range(every, total, every), total})


def gradient_size(net: nn.Module) -> Tensor:
    """Norm of the gradients that this process holds; a finite loss may have others."""
    held = (p.grad for p in net.parameters() if p.grad is not None)
    own = [g.to_local() if isinstance(g, DTensor) else g for g in held]
    return get_total_norm(own)


def mean_over_processes(fabric: Fabric, *values: Tensor) -> list[float]:
    """All processes' mean of each scalar."""
    mean: Any = fabric.all_reduce(torch.stack([x.double() for x in values]), reduce_op="mean")
    return list(mean.tolist())


def any_signal(fabric: Fabric, stop: run.StopSignals) -> int:
    """The signal that any process was sent; 0 for none."""
    number = torch.tensor(float(stop.number), device=fabric.device)
    return int(fabric.all_reduce(number, reduce_op="max"))  # type: ignore[arg-type]


def not_finite(
    loss: float, gradient: float, step: int, epoch: int, lr: float, micro: Sequence[Batch]
) -> TrainingError:
    """The error of a loss or gradients that are NaN or infinite."""
    finite = math.isfinite(loss)
    what = f"a gradient is {gradient}, the loss {loss}" if finite else f"the loss is {loss}"
    names = ", ".join(name for batch in micro for name in batch.names)
    return TrainingError(
        f"{what} at step {step + 1} of epoch {epoch + 1}, learning rate {lr:.3g}, with frames "
        f"{names}; the network was not changed by them, and the last checkpoint is as it was. Look "
        "at these frames (mmsam data check), or try a lower --optimiser.lr, more "
        "--schedule.warmup_epochs, --device.precision fp32"
    )
