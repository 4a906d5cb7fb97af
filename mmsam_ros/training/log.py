# SPDX-License-Identifier: Apache-2.0
"""What a run logs: terminal, `metrics.jsonl` and TensorBoard."""

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from torch import nn
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from mmsam_ros._util import write_atomic
from mmsam_ros.training.metrics import ALL, Scores

METRICS = "metrics.jsonl"
Watched = Mapping[str, nn.Parameter]  # by name in the log


class RunLog:
    """Log of a run, written by the first process alone; in the others every method does nothing.

    Args:
        directory: the run directory; what was logged of `steps` is dropped.
        steps: to be done, counted from 0.
        every: steps between the lines of training.
        watched: parameters to follow; None where they are sharded, which leaves out gradients, too.
        validated: whether a validation before `steps` stays logged.
    """

    @rank_zero_only
    def __init__(
        self, directory: Path, steps: range, every: int, watched: Watched | None, validated: bool
    ) -> None:
        self._steps, self._every, self._watched = steps, every, watched
        self._last, self._seconds = steps.start, np.zeros(2)  # logged step, and since then
        _drop_after(directory / METRICS, steps.start, validated)
        self._lines = (directory / METRICS).open("a")
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=steps.start + 1)
        self._console = Console()
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        quiet = not self._console.is_terminal
        self._progress = Progress(*columns, console=self._console, disable=quiet)
        self._task = self._progress.add_task("training", total=steps.stop, completed=steps.start)
        self._progress.start()

    def __enter__(self) -> Self:
        return self

    @rank_zero_only
    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._board.close()
        self._lines.close()

    @rank_zero_only
    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @rank_zero_only
    def step(
        self, step: int, epoch: int, loss: float, optimiser: Optimizer, spent: float, waited: float
    ) -> None:
        """After an optimiser step, while its gradients are there; step and epoch count from 1.

        It took `spent` seconds, of which it `waited` for data.
        """
        self._seconds += spent, waited
        if step % self._every:
            return
        spent, waited = (self._seconds / (step - self._last)).tolist()
        self._seconds[:], self._last = 0, step
        scalars = {"train/loss": loss, "time/step": spent, "time/data": waited}
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
        seconds = {"step_seconds": spent, "data_seconds": waited}
        self._line({"step": step, "epoch": epoch, "loss": loss, "lr": lr, **seconds})
        text = f"epoch {epoch} loss {loss:.4f} lr {lr:.2e} data {waited:.3f} s step {spent:.3f} s"
        self._progress.update(self._task, completed=step, description=text)
        if not self._console.is_terminal:
            left = timedelta(seconds=round((self._steps.stop - step) * spent))
            self.say(f"step {step}/{self._steps.stop} {text} left {left}")

    @rank_zero_only
    def validation(
        self, step: int, epoch: int, scores: Mapping[str, Scores],
        others: Mapping[str, Mapping[str, Scores]],
    ) -> None:  # fmt: skip
        """Scores of every subset, also of other data sets by name, and of every class over all
        frames.
        """
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

    def _scalars(self, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def _line(self, values: Mapping[str, Any]) -> None:
        self._lines.write(json.dumps(values) + "\n")
        self._lines.flush()


def watched_parameters(net: nn.Module) -> Watched:
    """By their names in the log: each injector's gamma, and Road-Fusion's scalars, if any."""
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
