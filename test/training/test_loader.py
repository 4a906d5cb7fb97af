# SPDX-License-Identifier: Apache-2.0
"""Which frames a training step sees, and that nothing but (seed, epoch, frame) changes them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import SENSORS, options, run_config
from support.trees import make_folder

from mmsam_ros.data.open import open_frames
from mmsam_ros.sensors import plain_modality
from mmsam_ros.training.config import BatchConfig, ScheduleConfig, TrainConfig, TrainingError
from mmsam_ros.training.loader import Batch, Draw, FrameSampler, TrainingFrames, make_loader
from mmsam_ros.training.start import build

FRAMES, EFFECTIVE, EPOCHS = 11, 4, 3


def draws_config(effective: int, per_device: int) -> TrainConfig:
    schedule = ScheduleConfig(epochs=EPOCHS)
    return TrainConfig(
        "folder", ("lidar",), seed=5, batch=BatchConfig(effective, per_device), schedule=schedule
    )


def steps(per_device: int = 1, world_size: int = 1, start: int = 0) -> list[list[Draw]]:
    """What all processes together read in every step, in the order of micro-steps and ranks."""
    config = draws_config(EFFECTIVE, per_device)
    ranks = [FrameSampler(FRAMES, config, rank, world_size, start) for rank in range(world_size)]
    micro = list(zip(*ranks, strict=True))
    assert len(micro) == len(ranks[0])
    flat = [draw for together in micro for part in together for draw in part]
    return [flat[i : i + EFFECTIVE] for i in range(0, len(flat), EFFECTIVE)]


def test_an_epoch_is_a_permutation_of_its_own() -> None:
    read = steps()
    assert len(read) == EPOCHS * (FRAMES // EFFECTIVE)
    orders = []
    for epoch in range(EPOCHS):
        draws = [draw for step in read[2 * epoch : 2 * epoch + 2] for draw in step]
        assert {e for e, _, _ in draws} == {epoch}
        orders.append([index for _, index, _ in draws])
        assert len(set(orders[-1])) == len(orders[-1]), "a frame came twice"
        assert set(orders[-1]) < set(range(FRAMES))
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize(("per_device", "world_size"), [(4, 1), (2, 1), (2, 2), (1, 2), (1, 4)])
def test_processes_and_accumulation_share_out_the_same_steps(
    per_device: int, world_size: int
) -> None:
    assert steps(per_device, world_size) == steps()


def test_a_start_within_an_epoch_reads_the_rest() -> None:
    assert steps(start=3) == steps()[3:]


def test_numbers_that_do_not_divide_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"effective is 4.*per_device 1 times 3 processes"):
        FrameSampler(FRAMES, draws_config(4, 1), world_size=3)
    with pytest.raises(TrainingError, match=r"3 frames, fewer than batch.effective 4"):
        FrameSampler(3, draws_config(4, 1))


def test_a_frame_without_label_is_refused(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    frames = open_frames("folder", config.data.root, "train", SENSORS)
    _, spec = build(config, frames)
    first, *others = frames.records
    bare = replace(frames, records=(replace(first, label=None), *others))
    with pytest.raises(TrainingError, match=f"1 frames have no label.* {first.name}"):
        TrainingFrames(bare, spec, config)


def test_augmentation_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    config = run_config(tmp_path, "--augment.scale=[0.5, 2.0]", "--augment.flip=0.5")
    frames = open_frames("folder", config.data.root, "train", SENSORS)
    _, spec = build(config, frames)

    def read(workers: int) -> list[Batch]:
        given = replace(config, data=replace(config.data, workers=workers))
        return list(
            make_loader(TrainingFrames(frames, spec, given), FrameSampler(len(frames), given))
        )

    torch.manual_seed(1)
    before = torch.get_rng_state()
    alone = read(0)
    assert torch.equal(torch.get_rng_state(), before), "reading drew from the network's generator"
    torch.manual_seed(2)
    shared = read(2)
    assert len(alone) == len(shared) == 4
    for ours, theirs in zip(alone, shared, strict=True):
        assert ours.names == theirs.names
        assert torch.equal(ours.label, theirs.label)
        assert ours.inputs.keys() == theirs.inputs.keys()
        for modality, image in ours.inputs.items():
            assert image.shape == (2, 3, *config.augment.crop)
            assert torch.equal(image, theirs.inputs[modality])
    first, second = (
        {name: batch.inputs["rgb"][i] for batch in epoch for i, name in enumerate(batch.names)}
        for epoch in (alone[:2], alone[2:])
    )
    assert all(not torch.equal(first[name], second[name]) for name in first)


def test_modality_dropout_takes_sensors_from_single_samples(tmp_path: Path) -> None:
    """Independent by sample and sensor, repeatable, and told to the network."""
    config = run_config(tmp_path, "--modality_dropout=0.5", "--schedule.epochs=40")
    frames = open_frames("folder", config.data.root, "train", SENSORS)
    _, spec = build(config, frames)

    def read() -> list[Batch]:
        return list(
            make_loader(TrainingFrames(frames, spec, config), FrameSampler(len(frames), config))
        )

    masks = []
    for batch, again in zip(read(), read(), strict=True):
        for name in SENSORS:
            mask = batch.present.get(name, torch.tensor([name in batch.inputs] * 2))
            assert torch.equal(mask, again.present.get(name, mask))
            if name in batch.inputs:
                assert not batch.inputs[name][~mask].any()
                assert batch.inputs[name][mask].any() or not mask.any()
            masks.append(mask)
    kept = torch.stack(masks).unflatten(0, (-1, 2)).permute(0, 2, 1).reshape(-1, 2)
    assert len(kept) == 160
    for both in ((True, True), (True, False), (False, True), (False, False)):
        share = (kept == torch.tensor(both)).all(1).float().mean()
        assert 0.12 < share < 0.4
    without = replace(config, modality_dropout=0.0)
    batches = make_loader(TrainingFrames(frames, spec, without), FrameSampler(len(frames), without))
    assert all(not batch.present for batch in batches)


def test_dropout_goes_into_the_spec(tmp_path: Path) -> None:
    config = run_config(tmp_path, "--modality_dropout=0.5")
    frames = open_frames("folder", config.data.root, "train", SENSORS)
    subsets = build(config, frames)[1].presence.trained_subsets
    assert subsets == (
        ("camera", "lidar", "thermal"), ("camera", "lidar"), ("camera", "thermal"), ("camera",),
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"modality_dropout: found 1\.5"):
        run_config(tmp_path / "other", "--modality_dropout=1.5")


def test_a_batch_that_does_not_fit_the_shared_memory(tmp_path: Path) -> None:
    """Torch's worker would die in a thread of its own, and training wait for ever."""
    make_folder(tmp_path / "data", SENSORS)
    code = (
        "import resource, signal, sys; from mmsam_ros.cli.main import main;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "sys.exit(main(['train', *sys.argv[1:]]))"
    )
    words = options(tmp_path, "--data.workers=1")
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "batches do not fit /dev/shm of" in done.stderr
    assert "--data.workers 0" in done.stderr


def test_intensity_is_changed_only_where_there_is_one(tmp_path: Path) -> None:
    config = run_config(tmp_path, "--augment.no_intensity=0.5")
    frames = open_frames("folder", config.data.root, "train", SENSORS)
    _, spec = build(config, frames)
    lidar = plain_modality("png8")
    other = replace(spec, inputs={**spec.inputs, "lidar": lidar}, seen={})
    assert "intensity" not in lidar.fields
    with pytest.raises(TrainingError, match="augment changes LiDAR intensity, but png8 images"):
        TrainingFrames(frames, other, config)
