# SPDX-License-Identifier: Apache-2.0
"""What a run logs: terminal, `train.log`, `metrics.jsonl` and TensorBoard."""

import json
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress
from torch import nn
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from mmsam_ros._util import write_atomic
from mmsam_ros.training.metrics import ALL, Scores

METRICS, LOG = "metrics.jsonl", "train.log"
_SECONDS = 30  # between lines of a validation
Watched = Mapping[str, nn.Parameter]  # by name in the log


@dataclass(frozen=True)
class Plan:
    """What a run has before it."""

    steps: range  # to be done, counted from 0
    validations: Sequence[int]  # numbers of steps after which the network is validated
    validated: bool  # whether a validation before the first step is done
    frames: tuple[int, int]  # of a step and of a validation, over all processes


class TimeLeft:
    """What a run will still take, its validations included, by what steps and the last validation
    took. Before the first one a validated frame counts as a third of a trained one.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._steps, self._seconds = 0, 0.0  # that were measured
        self._validation: float | None = None  # seconds of one
        self._running = 0.0  # seconds since the running one began
        self._validated = plan.steps.start - (not plan.validated)  # number of steps

    def step(self, seconds: float) -> None:
        """A step is done."""
        self._steps += 1
        self._seconds += seconds

    def validating(self, seconds: float, share: float) -> None:
        """A share of a validation is done."""
        self._validation, self._running = seconds / share, seconds

    def validated(self, step: int) -> None:
        """The validation after so many steps is done."""
        self._validated, self._running = step, 0.0

    def seconds(self) -> float:
        """The estimate."""
        plan, step = self._plan, self._seconds / max(self._steps, 1)
        trained, scored = plan.frames
        guess = step * scored / trained / 3
        validation = guess if self._validation is None else self._validation
        due = sum(number > self._validated for number in plan.validations)
        return (len(plan.steps) - self._steps) * step + due * validation - self._running

    def __str__(self) -> str:
        return f"left {timedelta(seconds=round(self.seconds()))}"


class RunLog:
    """Log of a run, written by the first process alone; in the others every method does nothing.

    Args:
        directory: the run directory; what was logged of the steps to do is dropped.
        plan: what is to do.
        every: steps between the lines of training.
        watched: parameters to follow; None where they are sharded, which leaves out gradients, too.
    """

    @rank_zero_only
    def __init__(self, directory: Path, plan: Plan, every: int, watched: Watched | None) -> None:
        self._plan, self._every, self._watched = plan, every, watched
        first, total = plan.steps.start, plan.steps.stop
        self._logged, self._since = first, np.zeros(2)  # logged step; seconds and waits since then
        self._left = TimeLeft(plan)
        _drop_after(directory / METRICS, first, plan.validated)
        self._lines = (directory / METRICS).open("a")
        self._text = (directory / LOG).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=first + 1)
        self._console = Console()
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[left]}")
        quiet = not self._console.is_terminal
        self._progress = Progress(*columns, console=self._console, disable=quiet)
        self._task = self._progress.add_task("training", total=total, completed=first, left="")
        self._frames = self._progress.add_task("validation", visible=False, left="")
        self._progress.start()

    def __enter__(self) -> Self:
        return self

    @rank_zero_only
    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Exception):
            self._write(f"ended by {type(error).__name__}: {error}")
        self._progress.stop()
        for file in (self._board, self._lines, self._text):
            file.close()

    @rank_zero_only
    def say(self, text: str) -> None:
        """A line on the terminal and in the log file."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._write(text)

    @rank_zero_only
    def step(
        self, step: int, epoch: int, loss: float, optimiser: Optimizer, spent: float, waited: float
    ) -> None:
        """Log an optimiser step, while its gradients exist; step and epoch count from 1.

        It took `spent` seconds, of which it `waited` for data.
        """
        self._since += spent, waited
        self._left.step(spent)
        if step % self._every:
            return
        spent, waited = (self._since / (step - self._logged)).tolist()
        self._since[:], self._logged = 0, step
        images, memory = self._plan.frames[0] / spent, _memory()
        scalars = {"train/loss": loss, "time/step": spent, "time/data": waited}
        scalars |= {"time/images_per_second": images, "memory/gib": memory}
        for group in optimiser.param_groups:
            scalars[f"lr/{group['name']}"] = group["lr"]
            gradients = [p.grad for p in group["params"] if p.grad is not None]
            if gradients and self._watched is not None:
                norm = torch.nn.utils.get_total_norm(gradients)
                scalars[f"grad_norm/{group['name']}"] = float(norm)
        for name, p in (self._watched or {}).items():
            scalars[name] = float(p.detach() if p.ndim == 0 else p.detach().norm())
        self._scalars(scalars, step)
        lr = max(group["lr"] for group in optimiser.param_groups)
        speed = {"step_seconds": spent, "data_seconds": waited, "images_per_second": images}
        values = {"step": step, "epoch": epoch, "loss": loss, "lr": lr, **speed}
        self._line(values | {"memory_gib": memory})
        self._progress.update(self._task, completed=step, left=str(self._left))
        self.say(
            f"step {step}/{self._plan.steps.stop} epoch {epoch} loss {loss:.4f} lr {lr:.2e} "
            f"{images:.2f} images/s memory {memory:.1f} GiB step {spent:.3f} s "
            f"data wait {waited:.3f} s {self._left}"
        )

    @rank_zero_only
    def frame(self, done: int, count: int) -> None:
        """Show that `done` of the `count` frames of this process are validated; 0 at first."""
        now = time.monotonic()
        if not done:
            self._began = self._said = now
        else:
            self._left.validating(now - self._began, done / count)
        self._progress.update(self._task, left=str(self._left))
        self._progress.update(self._frames, completed=done, total=count, visible=done < count)
        if now - self._said > _SECONDS and not self._console.is_terminal:
            self._said = now
            self.say(f"validation {done}/{count} {self._left}")

    @rank_zero_only
    def validation(
        self, step: int, epoch: int, scores: Mapping[str, Scores],
        others: Mapping[str, Mapping[str, Scores]],
    ) -> None:  # fmt: skip
        """Scores of every subset, also of other data sets by name, and of every class over all
        frames.
        """
        self._left.validated(step)
        miou = {subset: score.miou for subset, score in scores.items()}
        for name, some in others.items():
            miou |= {f"{name}: {subset}": score.miou for subset, score in some.items()}
        iou = scores[ALL].iou
        known = {f"val/iou/{name}": value for name, value in iou.items() if value is not None}
        self._scalars({f"val/miou/{name}": value for name, value in miou.items()} | known, step)
        self._board.flush()
        self._line({"step": step, "epoch": epoch, "miou": miou, "iou": iou})
        listed = " ".join(f"{subset} {value:.2f}" for subset, value in miou.items())
        self.say(f"step {step} epoch {epoch} validation mIoU: {listed}")

    @rank_zero_only
    def picture(self, step: int, name: str, images: Mapping[str, NDArray[np.uint8]]) -> None:
        """RGB images (h, w, 3) of a frame side by side, in the last one's size."""
        size = [*images.values()][-1].shape[1::-1]  # (width, height)
        row = [cv2.resize(x, size, interpolation=cv2.INTER_NEAREST) for x in images.values()]
        self._board.add_image(f"val/{name}", np.hstack(row), step, dataformats="HWC")

    def _write(self, text: str) -> None:
        self._text.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")
        self._text.flush()

    def _scalars(self, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def _line(self, values: Mapping[str, Any]) -> None:
        self._lines.write(json.dumps(values) + "\n")
        self._lines.flush()


def _memory() -> float:
    """Largest memory so far, in GiB: that of tensors on a GPU, else the whole process's."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # from KiB


def watched_parameters(net: nn.Module) -> Watched:
    """Each injector's gamma, and Road-Fusion's scalars, if any, by their names in the log."""
    watched = {}
    for name, p in net.named_parameters():
        if name.endswith("injector.gamma"):
            watched[f"gamma/injector_{name.split('.')[1]}"] = p
        elif p.ndim == 0:
            watched["fusion/" + name.split("fusion.")[-1].replace(".", "/")] = p
    return watched


def _drop_after(path: Path, step: int, validated: bool) -> None:
    """Leave the whole lines up to `step`."""
    if path.is_file():
        lines = path.read_text().splitlines(keepends=True)
        parsed = [(json.loads(line), line) for line in lines if line.endswith("\n")]
        kept = [
            line
            for values, line in parsed
            if values["step"] + ("miou" in values and not validated) <= step
        ]
        write_atomic(path, "".join(kept))
