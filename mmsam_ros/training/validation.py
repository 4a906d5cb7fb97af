# SPDX-License-Identifier: Apache-2.0
"""Validation during training, and the weights files that it leaves."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor

from mmsam_ros.data.frames import FrameSet, LabelledFrame
from mmsam_ros.inference import TorchEngine
from mmsam_ros.model import MMSAMAdapter
from mmsam_ros.training.config import TrainConfig
from mmsam_ros.training.devices import own_share, whole_network
from mmsam_ros.training.evaluate import evaluate_frames, published_prediction
from mmsam_ros.training.log import RunLog
from mmsam_ros.training.metrics import Scores, SubsetMatrices
from mmsam_ros.training.stop import StopSignals
from mmsam_ros.weights import Presence, Score, Spec, save_model

BEST, LAST = "best.safetensors", "last.safetensors"


@dataclass(frozen=True)
class Validation:
    """Scores `net` on `frames` and writes last.safetensors and best.safetensors into `folder`.

    Every process takes its share of the frames. A signal to any ends it in all (SystemExit): the
    checkpoint of the step is there, and a resumed run begins with what was not validated.
    """

    fabric: Fabric
    config: TrainConfig
    net: MMSAMAdapter
    spec: Spec
    frames: FrameSet
    folder: Path
    log: RunLog
    stop: StopSignals

    def __call__(self, step: int, epoch: int, best: float) -> float:
        """Returns the best mIoU (percent) of `best` and this one."""
        net = whole_network(self.fabric, self.net).eval()
        scores = self._scores(net, step)
        self.net.train()
        self.log.validation(step, epoch, scores)
        miou = scores["all"].miou
        if self.fabric.is_global_zero:
            for name in (LAST, BEST) if miou > best else (LAST,):
                save_model(self.folder / name, net, self._scored_spec(miou))
        self.fabric.barrier()
        return max(miou, best)

    def _scores(self, net: MMSAMAdapter, step: int) -> Mapping[str, Scores]:
        fabric, frames = self.fabric, self.frames
        own = own_share(len(frames))
        pictured = {frames.records[i].name for i in own[: self.config.log.pictures]}
        half = self.config.device.precision != "fp32"
        engine = TorchEngine(net, fabric.device, "bf16" if half else "fp32")

        def predict(item: LabelledFrame) -> tuple[Tensor, Tensor | None]:
            prediction, target = published_prediction(engine, item, self.spec, frames.dataset)
            if item.record.name in pictured:
                sample = frames.sample(item)
                self.log.picture(step, item.record.name, sample, prediction, target)
            return prediction, target

        matrices = SubsetMatrices(len(self.spec.classes), fabric.device)
        until_told = itertools.takewhile(lambda _: not self.stop.number, own)
        evaluate_frames(predict, frames, matrices, indices=until_told)
        told = torch.tensor(float(self.stop.number), device=fabric.device)
        if number := int(fabric.all_reduce(told, reduce_op="max")):  # type: ignore[arg-type]
            self.log.say(f"stopped while validating; go on with --resume {self.folder}")
            raise SystemExit(128 + number)
        matrices.reduce()
        return matrices.scores([info.name for info in self.spec.classes])

    def _scored_spec(self, miou: float) -> Spec:
        subsets = self.spec.presence.trained_subsets
        score = Score(miou, f"{self.frames.dataset} {self.frames.split}")
        presence = Presence(subsets, {"+".join(subsets[0]): score})
        return dataclasses.replace(self.spec, presence=presence)
