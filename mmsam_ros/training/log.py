# SPDX-License-Identifier: Apache-2.0
"""What a run says of itself: terminal, `metrics.jsonl` and TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.fabric.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from mmsam_ros._util import write_atomic
from mmsam_ros.data.frames import Sample
from mmsam_ros.inference.draw import colorise
from mmsam_ros.sensors import ClassInfo, palette
from mmsam_ros.training.metrics import Scores

METRICS = "metrics.jsonl"


class RunLog:
    """Log of a run, written by the first process alone; in the others every method does nothing.

    Args:
        folder: the run's; what it logged beyond `step` is dropped.
        step: where the run begins or goes on, in optimiser steps.
        total: steps of the whole run.
        classes: of the labels.
        watched: parameters to follow, see `watched_parameters`; None where a process holds but a
            part of each: neither they nor gradients are followed then.
        validated: whether a validation at `step` stays logged.
    """

    @rank_zero_only
    def __init__(
        self,
        folder: Path,
        step: int,
        total: int,
        classes: Sequence[ClassInfo],
        watched: Mapping[str, nn.Parameter] | None,
        validated: bool = True,
    ) -> None:
        self._total, self._watched = total, watched
        self._names, self._palette = [info.name for info in classes], palette(classes)
        _drop_after(folder / METRICS, step, validated)
        self._lines = (folder / METRICS).open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._console = Console()
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(
            TextColumn("{task.description}"),
            *columns,
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("training", total=total, completed=step)
        self._progress.start()

    def __enter__(self) -> RunLog:
        return self

    @rank_zero_only
    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._board.close()
        self._lines.close()

    @rank_zero_only
    def say(self, text: str) -> None:
        """One line for people."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @rank_zero_only
    def step(
        self, step: int, epoch: int, loss: float, optimiser: Optimizer, spent: float, waited: float
    ) -> None:
        """After an optimiser step, while its gradients are there.

        spent, waited: mean seconds of a step, and of waiting for its data, since the last line.
        """
        groups = optimiser.param_groups
        lr = max(group["lr"] for group in groups)
        scalars = {"train/loss": loss, "time/step": spent, "time/data": waited}
        for group in groups:
            scalars[f"lr/{group['name']}"] = group["lr"]
            gradients = [p.grad for p in group["params"] if p.grad is not None]
            if gradients and self._watched is not None:
                norm = torch.nn.utils.get_total_norm(gradients)
                scalars[f"grad_norm/{group['name']}"] = float(norm)
        for name, p in (self._watched or {}).items():
            scalars[name] = float(p.detach() if p.ndim == 0 else p.detach().norm())
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)
        seconds = {"step_seconds": spent, "data_seconds": waited}
        self._line({"step": step, "epoch": epoch, "loss": loss, "lr": lr, **seconds})
        text = f"epoch {epoch} loss {loss:.4f} lr {lr:.2e} data {waited:.3f} s step {spent:.3f} s"
        self._progress.update(self._task, completed=step, description=text)
        if not self._console.is_terminal:
            left = timedelta(seconds=round((self._total - step) * spent))
            self.say(f"step {step}/{self._total} {text} left {left}")

    @rank_zero_only
    def validation(self, step: int, epoch: int, scores: Mapping[str, Scores]) -> None:
        """Scores of every subset, and of every class over all frames."""
        miou = {subset: score.miou for subset, score in scores.items()}
        iou = dict(zip(self._names, scores["all"].iou, strict=True))
        for subset, value in miou.items():
            self._board.add_scalar(f"val/miou/{subset}", value, step)
        for name, known in iou.items():
            if known is not None:
                self._board.add_scalar(f"val/iou/{name}", known, step)
        self._board.flush()
        self._line({"step": step, "epoch": epoch, "miou": miou, "iou": iou})
        listed = " ".join(f"{subset} {value:.2f}" for subset, value in miou.items())
        self.say(f"step {step} epoch {epoch} validation mIoU: {listed}")

    @rank_zero_only
    def picture(
        self, step: int, name: str, sample: Sample, prediction: Tensor, target: Tensor | None
    ) -> None:
        """Side by side: camera, auxiliaries, truth (where it is known), prediction."""
        height, width = prediction.shape
        panels = [
            _fit(_visible(image), (height, width))
            for image in (sample["rgb"], *sample["planes"].values())
        ]
        for labels in (target, prediction):
            if labels is not None:
                image = colorise(labels.byte().cpu().numpy(), self._palette)
                panels.append(torch.from_numpy(image).permute(2, 0, 1))
        self._board.add_image(f"val/{name}", torch.cat(panels, dim=2), step)

    def _line(self, values: Mapping[str, Any]) -> None:
        self._lines.write(json.dumps(values) + "\n")
        self._lines.flush()


def watched_parameters(net: nn.Module) -> dict[str, nn.Parameter]:
    """By its name in the log: the norm of each injector's gamma, and Road-Fusion's scalars.

    What a variant of the network does not have does not appear.
    """
    watched = {}
    for name, p in net.named_parameters():
        if name.endswith("injector.gamma"):
            watched[f"gamma/injector_{name.split('.')[1]}"] = p
        elif p.ndim == 0:
            watched["fusion/" + name.split("fusion.")[-1].replace(".", "/")] = p
    return watched


def _visible(image: Tensor) -> Tensor:
    """Raw values (1 or 3, h, w) as (3, h, w) uint8; what is not of bytes is stretched to them."""
    image = image.as_subclass(Tensor).expand(3, -1, -1)
    if image.dtype == torch.uint8:
        return image
    low, high = image.amin(), image.amax()
    return ((image - low) / (high - low).clamp(min=1e-6) * 255).byte()


def _fit(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image[None], size=size, mode="nearest")[0]


def _drop_after(path: Path, step: int, validated: bool) -> None:
    """Leave the whole lines up to `step`: what comes after is trained again.

    validated: leave the validation at `step` as well.
    """

    def stays(line: str) -> bool:
        values = json.loads(line)
        return bool(values["step"] + ("miou" in values and not validated) <= step)

    if path.is_file():
        lines = path.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        write_atomic(path, "".join(filter(stays, whole)))
