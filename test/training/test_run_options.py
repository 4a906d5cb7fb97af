# SPDX-License-Identifier: Apache-2.0
"""Beyond the published recipe a run clips gradients, stops early, keeps weights, if asked."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from runs import losses, options, run_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from mmsam_ros.cli.main import main
from mmsam_ros.training.loop import clip_gradients, train
from mmsam_ros.training.run import Progress
from mmsam_ros.weights import load_model, read_spec

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("limit", "factor"), [(6.5, 0.5), (13.5, 1.0)])
def test_gradients_are_scaled_to_their_norm(limit: float, factor: float) -> None:
    """3, 4 and 12 have the norm 13."""
    net = nn.ParameterList(torch.zeros(shape) for shape in ((2,), (), (3,)))
    net[0].grad, net[1].grad = torch.tensor([3.0, 4.0]), torch.tensor(12.0)
    fabric = Fabric(accelerator="cpu", devices=1)
    clip_gradients(fabric, net, limit)
    torch.testing.assert_close(net[0].grad, factor * torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(net[1].grad, factor * torch.tensor(12.0))
    assert net[2].grad is None


def test_a_run_clips_its_gradients(tmp_path: Path) -> None:
    sizes = []
    for name, more in (("all", ()), ("clipped", ("--optimiser.clip_grad_norm=0.01",))):
        run = train(run_config(tmp_path, "--schedule.epochs=1", f"--out={tmp_path / name}", *more))
        events = EventAccumulator(str(run / "tensorboard")).Reload()
        tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("grad_norm/")]
        first = [events.Scalars(tag)[0].value for tag in tags]
        sizes.append(math.hypot(*first))
    assert sizes[0] > 0.02
    assert sizes[1] == pytest.approx(0.01, rel=1e-3)


def test_a_run_that_gets_no_better_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The average of the weights that is scored stays what it was: the first one is the best."""
    more = ("--optimiser.ema=0.9999999", "--schedule.epochs=9", "--schedule.patience=2")
    run = train(run_config(tmp_path, *more))
    assert len(losses(run)) == 2 * 3, "two steps an epoch"
    text = "stopped early: the last 2 validations are not better than"
    assert capsys.readouterr().out.count(text) == 1
    before = (run / "metrics.jsonl").read_text()
    assert main(["train", "--resume", str(run), *options(tmp_path, *more)]) == 0
    assert capsys.readouterr().out.count(text) == 1
    assert (run / "metrics.jsonl").read_text() == before
    assert read_spec(run / "best.safetensors")


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    run = train(
        run_config(tmp_path, "--optimiser.lr=2e-3", "--schedule.epochs=4", "--log.keep_best=2")
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    miou = {line["epoch"]: line["miou"]["all"] for line in lines if "miou" in line}
    assert list(miou) == [1, 2, 3, 4]
    two = sorted(miou, key=lambda epoch: (-miou[epoch], epoch))[:2]
    files = {path.name: path for path in run.glob("best_epoch_*")}
    assert files.keys() == {f"best_epoch_{epoch}.safetensors" for epoch in two}
    for epoch in two:
        (score,) = read_spec(files[f"best_epoch_{epoch}.safetensors"]).presence.scores.values()
        assert score.miou == pytest.approx(miou[epoch])
    best = load_model(files[f"best_epoch_{two[0]}.safetensors"])[0].state_dict()
    for name, value in load_model(run / "best.safetensors")[0].state_dict().items():
        assert torch.equal(best[name], value), name


def test_validations_are_ranked() -> None:
    """Of equal ones the first is the better; the best alone has no file of its own."""
    progress, alone = Progress(), Progress()
    expected = [
        # epoch, mIoU, those kept, validations since the best
        (1, 40.0, {1}, 0), (2, 30.0, {1, 2}, 1), (3, 30.0, {1, 2}, 2), (4, 35.0, {1, 4}, 3),
        (5, 41.0, {5, 1}, 0), (6, 41.0, {5, 6}, 1),
    ]  # fmt: skip
    for epoch, miou, kept, worse in expected:
        progress, alone = progress.validated(miou, epoch, 2), alone.validated(miou, epoch, 1)
        assert {e for _, e in progress.kept} == kept
        assert progress.worse == alone.worse == worse
        assert alone.kept == ()
    assert progress.best == alone.best == 41.0
    assert progress.validated(1.0, 7, keep=1).kept == ()
